"""The stored records: turns, inbox events, messages and runs.

A record is one line of compact JSON, a newline, and the payloads one after the other::

    [1,3,1700000000000000,"build-7","n0nce",[["sc",0,1,13]],[["rs",1,"charge","6f1e…",24]]]
    {"ok": true}…

The array begins with the version of the format. Each event, command and message is an array that begins with its code;
where a payload belongs, it has the payload's length. So payloads need no quoting, and reading is one scan and slices.
Payloads are sealed (`everstep.codec.envelope`) when written, unsealed when read.

Codes and the order of fields are for ever: a change is a new version or a new code, never another meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final, NoReturn

from everstep.codec.envelope import seal, unseal
from everstep.codec.jsontext import make_scanner, quote_ascii, write
from everstep.core.history import (
    CancelTimer,
    CompleteRun,
    ContinueRun,
    Event,
    FailRun,
    RunStarted,
    RunStep,
    StartTimer,
    StepCompleted,
    StepFailed,
    TimerFired,
    Turn,
)
from everstep.core.messages import AdvanceRun, ExecuteStep, FireTimer, Message, StartRun
from everstep.core.run import Problem, RunRecord, RunStatus
from everstep.errors import SerializationError

__all__ = [
    "VERSION",
    "decode_event",
    "decode_message",
    "decode_run",
    "decode_turn",
    "encode_event",
    "encode_message",
    "encode_run",
    "encode_turn",
    "input_digest",
]

VERSION: Final = 1

Payloads = list[bytes]
Row = list[Any]


def input_digest(input: bytes) -> str:
    """Identifies an input: 16 hexadecimal characters, equal for equal bytes."""
    return blake2b(input, digest_size=8).hexdigest()


# --- writing ---------------------------------------------------------------------------------------


def encode_turn(turn: Turn) -> bytes:
    payloads: Payloads = []
    events = ",".join([_WRITERS[type(event)](event, payloads) for event in turn.events])
    commands = ",".join([_WRITERS[type(command)](command, payloads) for command in turn.commands])
    build, nonce = quote_ascii(turn.build), quote_ascii(turn.nonce)
    head = f"[{VERSION},{turn.number},{turn.at},{build},{nonce},[{events}],[{commands}]]\n"
    return b"".join([head.encode(), *payloads])


def encode_event(event: Event) -> bytes:
    """An inbox entry."""
    return _encode_one(event)


def encode_message(message: Message) -> bytes:
    """What travels on the queue."""
    return _encode_one(message)


def encode_run(run: RunRecord) -> bytes:
    return _encode_one(run)


def _encode_one(record: Event | Message | RunRecord) -> bytes:
    payloads: Payloads = []
    head = f"[{VERSION},{_WRITERS[type(record)](record, payloads)}]\n"
    return b"".join([head.encode(), *payloads])


def _add(payload: bytes, payloads: Payloads) -> int:
    sealed = seal(payload)
    payloads.append(sealed)
    return len(sealed)


def _add_optional(payload: bytes | None, payloads: Payloads) -> int | None:
    return None if payload is None else _add(payload, payloads)


def _write_step_completed(event: StepCompleted, payloads: Payloads) -> str:
    return f'["sc",{event.op},{event.attempt},{_add(event.result, payloads)}]'


def _write_run_step(command: RunStep, payloads: Payloads) -> str:
    size = _add(command.input, payloads)
    return f'["rs",{command.op},{quote_ascii(command.name)},{quote_ascii(command.digest)},{size}]'


def _write_advance(message: AdvanceRun, payloads: Payloads) -> str:
    recover = "true" if message.recover else "false"
    return f'["ar",{quote_ascii(message.run_id)},{quote_ascii(message.cause)},{recover},{message.due}]'


def _write_execute(message: ExecuteStep, payloads: Payloads) -> str:
    size = _add(message.input, payloads)
    return (
        f'["xs",{quote_ascii(message.run_id)},{quote_ascii(message.workflow)},{message.op},'
        f"{quote_ascii(message.name)},{message.attempt},{size},"
        f"{'true' if message.sole else 'false'},{message.first_at}]"
    )


def _write_run(run: RunRecord, payloads: Payloads, code: str = "rr") -> str:
    problem = run.problem
    return write(
        [
            code,
            _text(run.run_id),
            _text(run.root_id),
            _text(run.workflow),
            _add(run.input, payloads),
            run.created_at,
            run.start_at,
            {_text(key): _text(value) for key, value in run.attributes.items()},
            run.status.value,
            run.started_at,
            run.completed_at,
            _add_optional(run.result, payloads),
            _add_optional(run.error, payloads),
            run.continued_from,
            run.continued_to,
            None
            if problem is None
            else [_text(problem.code), _text(problem.message), problem.turn, _text(problem.build), problem.at],
        ]
    )


def _text(text: str) -> str:
    """Text that UTF-8 can hold: a lone surrogate, as in a path that is not UTF-8, becomes its escape."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


_WRITERS: Final[dict[type, Callable[[Any, Payloads], str]]] = {
    RunStarted: lambda event, payloads: '["st"]',
    StepCompleted: _write_step_completed,
    StepFailed: lambda event, payloads: f'["sf",{event.op},{event.attempt},{_add(event.error, payloads)}]',
    TimerFired: lambda event, payloads: f'["tf",{event.op}]',
    RunStep: _write_run_step,
    StartTimer: lambda command, payloads: f'["tm",{command.op},{command.due}]',
    CancelTimer: lambda command, payloads: f'["ct",{command.op}]',
    CompleteRun: lambda command, payloads: f'["cr",{_add(command.result, payloads)}]',
    FailRun: lambda command, payloads: f'["fr",{_add(command.error, payloads)}]',
    ContinueRun: lambda command, payloads: f'["cn",{_add(command.input, payloads)}]',
    StartRun: lambda message, payloads: _write_run(message.run, payloads, "sr"),
    AdvanceRun: _write_advance,
    ExecuteStep: _write_execute,
    FireTimer: lambda message, payloads: f'["ft",{quote_ascii(message.run_id)},{message.op},{message.due}]',
    RunRecord: _write_run,
}


# --- reading ---------------------------------------------------------------------------------------


def decode_turn(data: bytes) -> Turn:
    """The turn of bytes made by `encode_turn`.

    Raises:
        SerializationError: the bytes are damaged, or a newer version of Everstep wrote them.
    """
    rest = _Rest(data, "turn")
    try:
        _, number, at, build, nonce, event_rows, command_rows = rest.head
        _check(number, int), _check(at, int), _check(build, str), _check(nonce, str)
        events = tuple([_reader(_EVENTS, row, rest)(row, rest) for row in event_rows])
        commands = tuple([_reader(_COMMANDS, row, rest)(row, rest) for row in command_rows])
        rest.end()
        return Turn(number=number, at=at, build=build, nonce=nonce, events=events, commands=commands)
    except _DAMAGE as error:
        raise rest.damaged(error) from error


def decode_event(data: bytes) -> Event:
    """The inbox entry of bytes made by `encode_event`.

    Raises:
        SerializationError: the bytes are damaged, or a newer version of Everstep wrote them.
    """
    event: Event = _decode_one(data, "event", _EVENTS)
    return event


def decode_message(data: bytes) -> Message:
    """The message of bytes made by `encode_message`.

    Raises:
        SerializationError: the bytes are damaged, or a newer version of Everstep wrote them.
    """
    message: Message = _decode_one(data, "message", _MESSAGES)
    return message


def decode_run(data: bytes) -> RunRecord:
    """The run of bytes made by `encode_run`.

    Raises:
        SerializationError: the bytes are damaged, or a newer version of Everstep wrote them.
    """
    run: RunRecord = _decode_one(data, "run record", _RUNS)
    return run


class _Rest:
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
            version = _check(self.head[0], int)
        except _DAMAGE as error:
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
_DAMAGE: Final = (ValueError, TypeError, LookupError, RecursionError)


def _check(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{kind.__name__} expected, found {value!r:.40}")
    return value


def _optional(value: Any, kind: type) -> Any:
    return None if value is None else _check(value, kind)


Reader = Callable[[Row, _Rest], Any]


def _reader(readers: dict[str, Reader], row: Row, rest: _Rest) -> Reader:
    code = row[0]
    reader = readers.get(code)
    if reader is None:
        rest.newer(f"an entry with the code {_check(code, str)!r:.40}")
    return reader


def _decode_one(data: bytes, kind: str, readers: dict[str, Reader]) -> Any:
    rest = _Rest(data, kind)
    try:
        _, row = rest.head
        record = _reader(readers, row, rest)(row, rest)
        rest.end()
        return record
    except _DAMAGE as error:
        raise rest.damaged(error) from error


def _read_step_completed(row: Row, rest: _Rest) -> StepCompleted:
    _, op, attempt, size = row
    return StepCompleted(op=_check(op, int), attempt=_check(attempt, int), result=rest.take(size))


def _read_step_failed(row: Row, rest: _Rest) -> StepFailed:
    _, op, attempt, size = row
    return StepFailed(op=_check(op, int), attempt=_check(attempt, int), error=rest.take(size))


def _read_run_started(row: Row, rest: _Rest) -> RunStarted:
    (_,) = row
    return RunStarted()


def _read_timer_fired(row: Row, rest: _Rest) -> TimerFired:
    _, op = row
    return TimerFired(op=_check(op, int))


def _read_run_step(row: Row, rest: _Rest) -> RunStep:
    _, op, name, digest, size = row
    return RunStep(op=_check(op, int), name=_check(name, str), input=rest.take(size), digest=_check(digest, str))


def _read_start_timer(row: Row, rest: _Rest) -> StartTimer:
    _, op, due = row
    return StartTimer(op=_check(op, int), due=_check(due, int))


def _read_cancel_timer(row: Row, rest: _Rest) -> CancelTimer:
    _, op = row
    return CancelTimer(op=_check(op, int))


def _read_complete_run(row: Row, rest: _Rest) -> CompleteRun:
    _, size = row
    return CompleteRun(result=rest.take(size))


def _read_fail_run(row: Row, rest: _Rest) -> FailRun:
    _, size = row
    return FailRun(error=rest.take(size))


def _read_continue_run(row: Row, rest: _Rest) -> ContinueRun:
    _, size = row
    return ContinueRun(input=rest.take(size))


def _read_advance(row: Row, rest: _Rest) -> AdvanceRun:
    _, run_id, cause, recover, due = row
    return AdvanceRun(
        run_id=_check(run_id, str), cause=_check(cause, str), recover=_check(recover, bool), due=_check(due, int)
    )


def _read_execute(row: Row, rest: _Rest) -> ExecuteStep:
    _, run_id, workflow, op, name, attempt, size, sole, first_at = row
    return ExecuteStep(
        run_id=_check(run_id, str),
        workflow=_check(workflow, str),
        op=_check(op, int),
        name=_check(name, str),
        attempt=_check(attempt, int),
        input=rest.take(size),
        sole=_check(sole, bool),
        first_at=_check(first_at, int),
    )


def _read_fire_timer(row: Row, rest: _Rest) -> FireTimer:
    _, run_id, op, due = row
    return FireTimer(run_id=_check(run_id, str), op=_check(op, int), due=_check(due, int))


def _read_run(row: Row, rest: _Rest) -> RunRecord:
    _, run_id, root_id, workflow, input, created, start, attributes, status, started, completed, *more = row
    result, error, continued_from, continued_to, problem = more
    return RunRecord(
        run_id=_check(run_id, str),
        root_id=_check(root_id, str),
        workflow=_check(workflow, str),
        input=rest.take(input),
        created_at=_check(created, int),
        start_at=_check(start, int),
        attributes={key: _check(value, str) for key, value in _check(attributes, dict).items()},
        status=RunStatus(status),
        started_at=_optional(started, int),
        completed_at=_optional(completed, int),
        result=rest.take_optional(result),
        error=rest.take_optional(error),
        continued_from=_optional(continued_from, str),
        continued_to=_optional(continued_to, str),
        problem=None if problem is None else _read_problem(problem),
    )


def _read_problem(row: Row) -> Problem:
    code, message, turn, build, at = row
    return Problem(
        code=_check(code, str),
        message=_check(message, str),
        turn=_check(turn, int),
        build=_check(build, str),
        at=_check(at, int),
    )


_EVENTS: Final[dict[str, Reader]] = {
    "st": _read_run_started,
    "sc": _read_step_completed,
    "sf": _read_step_failed,
    "tf": _read_timer_fired,
}
_COMMANDS: Final[dict[str, Reader]] = {
    "rs": _read_run_step,
    "tm": _read_start_timer,
    "ct": _read_cancel_timer,
    "cr": _read_complete_run,
    "fr": _read_fail_run,
    "cn": _read_continue_run,
}
_MESSAGES: Final[dict[str, Reader]] = {
    "sr": lambda row, rest: StartRun(run=_read_run(row, rest)),
    "ar": _read_advance,
    "xs": _read_execute,
    "ft": _read_fire_timer,
}
_RUNS: Final[dict[str, Reader]] = {"rr": _read_run}
