"""What travels on the queue, and the ids that make sending it twice harmless."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from everstep.core.history import Micros
from everstep.core.run import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRun:
    """Create the run if it does not exist, and advance it."""

    run: RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvanceRun:
    """Something arrived for the run: make a turn of it.

    Attributes:
        cause: makes the message's id unique.
        recover: ask again for all that is outstanding: the run was parked, or messages may be lost.
        due: when it was to be delivered; it is at least that late, whatever the clock of the receiver says.
    """

    run_id: str
    cause: str
    recover: bool = False
    due: Micros = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecuteStep:
    """Run one attempt of a step.

    Attributes:
        attempt: from 1.
        sole: a hint that nothing else of the run is outstanding, so its outcome may be recorded directly.
        first_at: when the first attempt was asked for.
    """

    run_id: str
    workflow: str
    op: int
    name: str
    attempt: int
    input: bytes
    sole: bool
    first_at: Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class FireTimer:
    """Advance the run when ``due``. A message that arrives earlier is sent on."""

    run_id: str
    op: int
    due: Micros


Message: TypeAlias = StartRun | AdvanceRun | ExecuteStep | FireTimer


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A message to send.

    Attributes:
        message_id: derived from what the message asks for; the queue drops a second one with the same id.
        due: not delivered before.
        root_id: the family of runs it belongs to, so that a worker can serve one family only.
        workflow: the workflow of its run, so that a worker can leave alone what its app does not have.
        lease_to: a worker that receives the message at once, if the queue leases messages; others ignore it.
    """

    message_id: str
    message: Message
    due: Micros
    root_id: str
    workflow: str
    lease_to: str | None = None


def run_of(message: Message) -> str:
    """The id of the run a message is about."""
    return message.run.run_id if isinstance(message, StartRun) else message.run_id


def run_named_in(message_id: str) -> str:
    """The id of the run that a message id speaks of, for messages that cannot be read."""
    return message_id.split("/")[1]


def message_id(message: Message) -> str:
    """The id of a message: the same request always has the same one."""
    match message:
        case StartRun(run=run):
            return f"start/{run.run_id}"
        case AdvanceRun(run_id=run_id, cause=cause):
            return f"advance/{run_id}/{cause}"
        case ExecuteStep(run_id=run_id, op=op, attempt=attempt):
            return f"step/{run_id}/{op}/{attempt}"
        case FireTimer(run_id=run_id, op=op):
            return timer_id(run_id, op)


def outgoing(message: Message, due: Micros, root_id: str, workflow: str, lease_to: str | None = None) -> Outgoing:
    """The message, ready to be sent under its id."""
    return Outgoing(
        message_id=message_id(message),
        message=message,
        due=due,
        root_id=root_id,
        workflow=workflow,
        lease_to=lease_to,
    )


def timer_id(run_id: str, op: int) -> str:
    """The id of the message that fires a timer; also the name under which it is discarded."""
    return f"timer/{run_id}/{op}"
