"""Events and commands as rows: arrays that begin with a code and have a payload's length where the payload belongs.

Codes and the order of fields are for ever: a change is a new code, or more fields at the end. See `codec.records`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from everstep.codec.envelope import seal, unseal
from everstep.codec.jsontext import make_scanner, quote_ascii, write
from everstep.core.history import (
    AttributesRequested,
    CancelChild,
    CancelRequested,
    CancelRun,
    CancelStep,
    CancelTimer,
    ChildCancelled,
    ChildCompleted,
    ChildFailed,
    CloseHook,
    CompleteRun,
    ConfirmHook,
    ContinueRun,
    FailRun,
    HookConflicted,
    HookOpened,
    HookReceived,
    OpenHook,
    PauseRequested,
    PublishValue,
    RunStarted,
    RunStep,
    SetAttributes,
    StartChild,
    StartTimer,
    StepCompleted,
    StepFailed,
    TerminateRequested,
    TimerFired,
    UnpauseRequested,
    WakeUpRequested,
)
from everstep.errors import SerializationError

VERSION: Final = 1
"""Of the format of all records."""

Payloads = list[bytes]
Row = list[Any]
Writer = Callable[[Any, Payloads], str]


# --- writing ---------------------------------------------------------------------------------------


def add(payload: bytes, payloads: Payloads) -> int:
    sealed = seal(payload)
    payloads.append(sealed)
    return len(sealed)


def add_optional(payload: bytes | None, payloads: Payloads) -> int | None:
    return None if payload is None else add(payload, payloads)


def plain_text(text: str) -> str:
    """Text that UTF-8 can hold: a lone surrogate, as in a path that is not UTF-8, becomes its escape."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def plain_optional(text: str | None) -> str | None:
    return None if text is None else plain_text(text)


def plain_mapping(mapping: Mapping[str, str | None]) -> dict[str, str | None]:
    return {plain_text(key): plain_optional(value) for key, value in mapping.items()}


def _write_step_completed(event: StepCompleted, payloads: Payloads) -> str:
    return f'["sc",{event.op},{event.attempt},{add(event.result, payloads)}]'


def _write_run_step(command: RunStep, payloads: Payloads) -> str:
    size = add(command.input, payloads)
    return f'["rs",{command.op},{quote_ascii(command.name)},{quote_ascii(command.digest)},{size}]'


def _write_start_timer(command: StartTimer, payloads: Payloads) -> str:
    return f'["tm",{command.op},{command.due},1]' if command.sleep else f'["tm",{command.op},{command.due}]'


def _write_open_hook(command: OpenHook, payloads: Payloads) -> str:
    return write(
        [
            "oh",
            command.op,
            plain_text(command.token),
            plain_text(command.kind),
            command.webhook,
            add_optional(command.metadata, payloads),
            add_optional(command.answer, payloads),
        ]
    )


def _write_hook_received(event: HookReceived, payloads: Payloads) -> str:
    row = ["hr", event.op, plain_text(event.key), add(event.payload, payloads)]
    return write([*row, event.nonce] if event.nonce else row)


def _write_cancel_requested(event: CancelRequested, payloads: Payloads) -> str:
    row = ["qc", plain_optional(event.reason)]
    return write([*row, event.nonce] if event.nonce else row)


def _write_start_child(command: StartChild, payloads: Payloads) -> str:
    return write(
        [
            "sd",
            command.op,
            command.number,
            plain_text(command.workflow),
            command.digest,
            add(command.input, payloads),
            command.awaited,
            plain_mapping(command.attributes),
            command.start_at,
        ]
    )


EVENT_WRITERS: Final[dict[type, Writer]] = {
    RunStarted: lambda event, payloads: '["st"]',
    StepCompleted: _write_step_completed,
    StepFailed: lambda event, payloads: f'["sf",{event.op},{event.attempt},{add(event.error, payloads)}]',
    TimerFired: lambda event, payloads: f'["tf",{event.op}]',
    HookOpened: lambda event, payloads: f'["ho",{event.op}]',
    HookConflicted: lambda event, payloads: write(["hx", event.op, event.run_id]),
    HookReceived: _write_hook_received,
    ChildCompleted: lambda event, payloads: f'["cc",{event.op},{add(event.result, payloads)}]',
    ChildFailed: lambda event, payloads: f'["cf",{event.op},{add(event.error, payloads)}]',
    ChildCancelled: lambda event, payloads: write(["cx", event.op, event.run_id, plain_optional(event.reason)]),
    CancelRequested: _write_cancel_requested,
    TerminateRequested: lambda event, payloads: write(["qt", plain_optional(event.reason)]),
    WakeUpRequested: lambda event, payloads: write(["qw", event.key]),
    PauseRequested: lambda event, payloads: write(["qp", event.key]),
    UnpauseRequested: lambda event, payloads: write(["qu", event.key]),
    AttributesRequested: lambda event, payloads: write(["qa", event.key, plain_mapping(event.changes)]),
}
COMMAND_WRITERS: Final[dict[type, Writer]] = {
    RunStep: _write_run_step,
    CancelStep: lambda command, payloads: f'["cs",{command.op}]',
    StartTimer: _write_start_timer,
    CancelTimer: lambda command, payloads: f'["ct",{command.op}]',
    OpenHook: _write_open_hook,
    ConfirmHook: lambda command, payloads: f'["kh",{command.op}]',
    CloseHook: lambda command, payloads: write(["ch", command.op, plain_text(command.token)]),
    StartChild: _write_start_child,
    CancelChild: lambda command, payloads: write(["cd", command.op, command.number, plain_text(command.workflow)]),
    SetAttributes: lambda command, payloads: write(["sa", plain_mapping(command.changes)]),
    PublishValue: lambda command, payloads: write(["pv", plain_text(command.name), add(command.value, payloads)]),
    CompleteRun: lambda command, payloads: f'["cr",{add(command.result, payloads)}]',
    FailRun: lambda command, payloads: f'["fr",{add(command.error, payloads)}]',
    ContinueRun: lambda command, payloads: f'["cn",{add(command.input, payloads)}]',
    CancelRun: lambda command, payloads: write(["xr", plain_optional(command.reason)]),
}


# --- reading ---------------------------------------------------------------------------------------


class Rest:
    """The header of a record, and the payloads that are not yet read."""

    __slots__ = ("at", "data", "head", "kind")

    def __init__(self, data: bytes, kind: str) -> None:
        self.data = data
        self.kind = kind
        try:
            line = data.index(b"\n")
            self.head = _scan(data[:line].decode())
            self.at = line + 1
            if type(self.head) is not list:
                raise ValueError("the header is not an array")
            version = check(self.head[0], int)
        except DAMAGE as error:
            raise self.damaged(error) from error
        if version > VERSION:
            self.newer(f"format {version}")

    def take(self, size: int) -> bytes:
        end = self.at + size
        if type(size) is not int or size < 0 or end > len(self.data):
            raise ValueError("it is cut short")
        payload = unseal(self.data[self.at : end])
        self.at = end
        return payload

    def take_optional(self, size: int | None) -> bytes | None:
        return None if size is None else self.take(size)

    def end(self) -> None:
        if self.at != len(self.data):
            raise ValueError(f"{len(self.data) - self.at} bytes too many")

    def newer(self, what: str) -> NoReturn:
        raise SerializationError(
            f"stored {self.kind} has {what}, which this version of Everstep does not know: it was written by a newer "
            f"version. Upgrade everstep in this process"
        )

    def damaged(self, error: Exception) -> SerializationError:
        return SerializationError(
            f"stored {self.kind} is damaged ({len(self.data)} bytes, beginning with {self.data[:40]!r}): "
            f"{str(error)[:200]}. Restore it from a backup, or check that nothing but Everstep wrote it"
        )


_scan: Final = make_scanner()
DAMAGE: Final = (ValueError, TypeError, LookupError, RecursionError)


def check(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{kind.__name__} expected, found {value!r:.40}")
    return value


def optional(value: Any, kind: type) -> Any:
    return None if value is None else check(value, kind)


def mapping_of(value: Any) -> dict[str, str]:
    return {key: check(text, str) for key, text in check(value, dict).items()}


def _changes_of(value: Any) -> dict[str, str | None]:
    return {key: optional(text, str) for key, text in check(value, dict).items()}


Reader = Callable[[Row, Rest], Any]


def reader_of(readers: dict[str, Reader], row: Row, rest: Rest) -> Reader:
    code = row[0]
    reader = readers.get(code)
    if reader is None:
        rest.newer(f"an entry with the code {check(code, str)!r:.40}")
    return reader


def _read_step_completed(row: Row, rest: Rest) -> StepCompleted:
    _, op, attempt, size = row
    return StepCompleted(op=check(op, int), attempt=check(attempt, int), result=rest.take(size))


def _read_step_failed(row: Row, rest: Rest) -> StepFailed:
    _, op, attempt, size = row
    return StepFailed(op=check(op, int), attempt=check(attempt, int), error=rest.take(size))


def _read_run_started(row: Row, rest: Rest) -> RunStarted:
    (_,) = row
    return RunStarted()


def _read_timer_fired(row: Row, rest: Rest) -> TimerFired:
    _, op = row
    return TimerFired(op=check(op, int))


def _read_run_step(row: Row, rest: Rest) -> RunStep:
    _, op, name, digest, size = row
    return RunStep(op=check(op, int), name=check(name, str), input=rest.take(size), digest=check(digest, str))


def _read_start_timer(row: Row, rest: Rest) -> StartTimer:
    _, op, due, *sleep = row
    return StartTimer(op=check(op, int), due=check(due, int), sleep=bool(sleep))


def _read_cancel_timer(row: Row, rest: Rest) -> CancelTimer:
    _, op = row
    return CancelTimer(op=check(op, int))


def _read_complete_run(row: Row, rest: Rest) -> CompleteRun:
    _, size = row
    return CompleteRun(result=rest.take(size))


def _read_fail_run(row: Row, rest: Rest) -> FailRun:
    _, size = row
    return FailRun(error=rest.take(size))


def _read_continue_run(row: Row, rest: Rest) -> ContinueRun:
    _, size = row
    return ContinueRun(input=rest.take(size))


def _read_hook_opened(row: Row, rest: Rest) -> HookOpened:
    _, op = row
    return HookOpened(op=check(op, int))


def _read_hook_conflicted(row: Row, rest: Rest) -> HookConflicted:
    _, op, run_id = row
    return HookConflicted(op=check(op, int), run_id=check(run_id, str))


def _read_hook_received(row: Row, rest: Rest) -> HookReceived:
    _, op, key, size, *nonce = row
    payload = rest.take(size)
    return HookReceived(op=check(op, int), key=check(key, str), payload=payload, nonce=_nonce_of(nonce))


def _read_child_completed(row: Row, rest: Rest) -> ChildCompleted:
    _, op, size = row
    return ChildCompleted(op=check(op, int), result=rest.take(size))


def _read_child_failed(row: Row, rest: Rest) -> ChildFailed:
    _, op, size = row
    return ChildFailed(op=check(op, int), error=rest.take(size))


def _read_child_cancelled(row: Row, rest: Rest) -> ChildCancelled:
    _, op, run_id, reason = row
    return ChildCancelled(op=check(op, int), run_id=check(run_id, str), reason=optional(reason, str))


def _read_cancel_requested(row: Row, rest: Rest) -> CancelRequested:
    _, reason, *nonce = row
    return CancelRequested(reason=optional(reason, str), nonce=_nonce_of(nonce))


def _nonce_of(more: Row) -> str:
    nonce: str = check(more[0], str) if more else ""
    return nonce


def _read_terminate_requested(row: Row, rest: Rest) -> TerminateRequested:
    _, reason = row
    return TerminateRequested(reason=optional(reason, str))


def _read_wake_up_requested(row: Row, rest: Rest) -> WakeUpRequested:
    _, key = row
    return WakeUpRequested(key=check(key, str))


def _read_pause_requested(row: Row, rest: Rest) -> PauseRequested:
    _, key = row
    return PauseRequested(key=check(key, str))


def _read_unpause_requested(row: Row, rest: Rest) -> UnpauseRequested:
    _, key = row
    return UnpauseRequested(key=check(key, str))


def _read_attributes_requested(row: Row, rest: Rest) -> AttributesRequested:
    _, key, changes = row
    return AttributesRequested(key=check(key, str), changes=_changes_of(changes))


def _read_cancel_step(row: Row, rest: Rest) -> CancelStep:
    _, op = row
    return CancelStep(op=check(op, int))


def _read_open_hook(row: Row, rest: Rest) -> OpenHook:
    _, op, token, kind, webhook, metadata, answer = row
    return OpenHook(
        op=check(op, int),
        token=check(token, str),
        kind=check(kind, str),
        webhook=check(webhook, bool),
        metadata=rest.take_optional(metadata),
        answer=rest.take_optional(answer),
    )


def _read_confirm_hook(row: Row, rest: Rest) -> ConfirmHook:
    _, op = row
    return ConfirmHook(op=check(op, int))


def _read_close_hook(row: Row, rest: Rest) -> CloseHook:
    _, op, token = row
    return CloseHook(op=check(op, int), token=check(token, str))


def _read_start_child(row: Row, rest: Rest) -> StartChild:
    _, op, number, workflow, digest, size, awaited, attributes, start_at = row
    return StartChild(
        op=check(op, int),
        number=check(number, int),
        workflow=check(workflow, str),
        digest=check(digest, str),
        input=rest.take(size),
        awaited=check(awaited, bool),
        attributes=mapping_of(attributes),
        start_at=optional(start_at, int),
    )


def _read_cancel_child(row: Row, rest: Rest) -> CancelChild:
    _, op, number, workflow = row
    return CancelChild(op=check(op, int), number=check(number, int), workflow=check(workflow, str))


def _read_set_attributes(row: Row, rest: Rest) -> SetAttributes:
    _, changes = row
    return SetAttributes(changes=_changes_of(changes))


def _read_publish_value(row: Row, rest: Rest) -> PublishValue:
    _, name, size = row
    return PublishValue(name=check(name, str), value=rest.take(size))


def _read_cancel_run(row: Row, rest: Rest) -> CancelRun:
    _, reason = row
    return CancelRun(reason=optional(reason, str))


EVENT_READERS: Final[dict[str, Reader]] = {
    "st": _read_run_started,
    "sc": _read_step_completed,
    "sf": _read_step_failed,
    "tf": _read_timer_fired,
    "ho": _read_hook_opened,
    "hx": _read_hook_conflicted,
    "hr": _read_hook_received,
    "cc": _read_child_completed,
    "cf": _read_child_failed,
    "cx": _read_child_cancelled,
    "qc": _read_cancel_requested,
    "qt": _read_terminate_requested,
    "qw": _read_wake_up_requested,
    "qp": _read_pause_requested,
    "qu": _read_unpause_requested,
    "qa": _read_attributes_requested,
}
COMMAND_READERS: Final[dict[str, Reader]] = {
    "rs": _read_run_step,
    "cs": _read_cancel_step,
    "tm": _read_start_timer,
    "ct": _read_cancel_timer,
    "oh": _read_open_hook,
    "kh": _read_confirm_hook,
    "ch": _read_close_hook,
    "sd": _read_start_child,
    "cd": _read_cancel_child,
    "sa": _read_set_attributes,
    "pv": _read_publish_value,
    "cr": _read_complete_run,
    "fr": _read_fail_run,
    "cn": _read_continue_run,
    "xr": _read_cancel_run,
}
