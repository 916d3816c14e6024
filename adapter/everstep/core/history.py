"""The record of a run: its turns, the events they consumed and the commands they issued.

A run is a fold over its turns. Events are inputs (past tense), commands are outputs (imperative). Payloads
(``bytes``) are plain JSON text here; compression and encryption belong to the codec of the stored record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, assert_never

Micros: TypeAlias = int
"""A moment: whole microseconds since the Unix epoch."""


# --- events ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """The first event of every history. The input is in the run record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCompleted:
    """A step returned."""

    op: int
    attempt: int
    result: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed:
    """A step failed for good: its retries are used up, or the error was fatal."""

    op: int
    attempt: int
    error: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired:
    """A timer's time has come."""

    op: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HookOpened:
    """The hook's token is the run's. Recorded only where the body asked (`ConfirmHook`)."""

    op: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HookConflicted:
    """The hook's token belongs to another run."""

    op: int
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HookReceived:
    """A payload came for a hook.

    Attributes:
        key: of the token and the sender's id. The same one counts once in the run, also where the token has come to
            belong to another of its hooks meanwhile.
        nonce: unique to the call that sent it, so that one sent again, after the first was consumed, is told from the
            first.
    """

    op: int
    key: str
    payload: bytes
    nonce: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildCompleted:
    """A child run's workflow returned."""

    op: int
    result: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildFailed:
    """A child run's workflow raised."""

    op: int
    error: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildCancelled:
    """A child run was cancelled."""

    op: int
    run_id: str
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    """Somebody wants the run to end: its body is cancelled, and may clean up. ``nonce`` as of `HookReceived`."""

    reason: str | None
    nonce: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminateRequested:
    """Somebody wants the run to end at once: its body is not asked."""

    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeUpRequested:
    """Somebody wants the run's sleeps to end now."""

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseRequested:
    """Nothing is to be delivered to the body until the run is unpaused or cancelled."""

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpauseRequested:
    """What arrived meanwhile is delivered."""

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributesRequested:
    """A step or a program outside sets attributes. None removes one."""

    key: str
    changes: Mapping[str, str | None]


StepOutcome: TypeAlias = StepCompleted | StepFailed
ChildOutcome: TypeAlias = ChildCompleted | ChildFailed | ChildCancelled
HookEvent: TypeAlias = HookOpened | HookConflicted | HookReceived
Request: TypeAlias = (
    CancelRequested | TerminateRequested | WakeUpRequested | PauseRequested | UnpauseRequested | AttributesRequested
)
Event: TypeAlias = RunStarted | StepOutcome | TimerFired | HookEvent | ChildOutcome | Request


def event_key(event: Event) -> str:
    """What makes an event one of its kind: of two with the same key a run consumes the first. Also its inbox key."""
    match event:
        case StepCompleted(op=op) | StepFailed(op=op):
            return f"step/{op}"
        case TimerFired(op=op):
            return f"timer/{op}"
        case HookReceived(key=key):
            return f"hook/{key}"
        case HookOpened(op=op) | HookConflicted(op=op):
            return f"token/{op}"
        case ChildCompleted(op=op) | ChildFailed(op=op) | ChildCancelled(op=op):
            return f"child/{op}"
        case RunStarted():
            return "start"
        case CancelRequested():
            return "cancel"
        case TerminateRequested():
            return "terminate"
        case WakeUpRequested(key=key):
            return f"wake/{key}"
        case PauseRequested(key=key):
            return f"pause/{key}"
        case UnpauseRequested(key=key):
            return f"unpause/{key}"
        case AttributesRequested(key=key):
            return f"attributes/{key}"
        case _:
            assert_never(event)


# --- commands --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """Run the named step with this input. ``digest`` identifies the input; replay compares it."""

    op: int
    name: str
    input: bytes
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelStep:
    """Tell the running step ``op`` that nobody waits for it any more. Of cancellable steps only."""

    op: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTimer:
    """Wake the run at ``due``. ``sleep``: it is a sleep, which can be ended early, and not a deadline."""

    op: int
    due: Micros
    sleep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTimer:
    """The timer ``op`` is no longer wanted."""

    op: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenHook:
    """Claim the token and take what is sent to it.

    Attributes:
        kind: the name of the payload's class, so that who sends one knows what fits; empty for any.
        webhook: whether anybody who knows the token may send an HTTP request to it.
        metadata: encoded, for who looks the hook up.
        answer: of a webhook: the encoded response its callers get at once; None where a step answers each.
    """

    op: int
    token: str
    kind: str = ""
    webhook: bool = False
    metadata: bytes | None = None
    answer: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmHook:
    """Tell the body whether the token of the hook ``op`` is its own: `HookOpened` or `HookConflicted`."""

    op: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseHook:
    """The hook ``op`` takes nothing any more, and its token is free."""

    op: int
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartChild:
    """Start a run of another workflow. Its id follows from this run's and the child's number.

    Attributes:
        number: counts the children of the run, from 0.
        awaited: its outcome is reported to this run, and it is cancelled when nobody waits for it any more.
        start_at: when its first turn may run; None for at once.
    """

    op: int
    number: int
    workflow: str
    input: bytes
    digest: str
    awaited: bool
    attributes: Mapping[str, str] = field(default_factory=dict)
    start_at: Micros | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelChild:
    """Cancel the child run of this operation and number: nobody waits for it any more."""

    op: int
    number: int
    workflow: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAttributes:
    """Change the run's attributes. None removes one."""

    changes: Mapping[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishValue:
    """Let anybody read this value by its name, in place of an earlier one."""

    name: str
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteRun:
    """The workflow returned."""

    result: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FailRun:
    """The workflow raised."""

    error: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinueRun:
    """The workflow asked to go on as a new run with this input and an empty history."""

    input: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRun:
    """The run ends as cancelled."""

    reason: str | None


ClosingCommand: TypeAlias = CompleteRun | FailRun | ContinueRun | CancelRun
HookCommand: TypeAlias = OpenHook | ConfirmHook | CloseHook
ChildCommand: TypeAlias = StartChild | CancelChild
Command: TypeAlias = (
    RunStep
    | CancelStep
    | StartTimer
    | CancelTimer
    | HookCommand
    | ChildCommand
    | SetAttributes
    | PublishValue
    | ClosingCommand
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One atomic record of a history.

    Attributes:
        number: position in the history, dense from 0.
        at: the time the body saw during this turn; never before the previous turn's.
        build: the build of the app that made the turn.
        nonce: unique to the writer's attempt at this turn; tells a lost race from an own write that was retried.
        events: what the turn consumed, in the order of delivery.
        commands: what the body asked for in answer, in the order it asked.
        drawn: what cannot be computed again and the body was given: tokens from a real source of chance.
    """

    number: int
    at: Micros
    build: str
    nonce: str
    events: tuple[Event, ...]
    commands: tuple[Command, ...]
    drawn: tuple[str, ...] = ()
