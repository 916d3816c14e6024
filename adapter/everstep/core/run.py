"""The run record and the life cycle of a run.

========== ======================== ==========================================================
status     may become               meaning
========== ======================== ==========================================================
pending    running, cancelled       exists; its first turn is not yet recorded
running    completed, failed,       has turns and is not closed; with a `Problem` it is shown
           cancelled, continued     as *parked*, while it is paused as *paused*
completed  –                        the workflow returned
failed     –                        the workflow raised
cancelled  –                        it was cancelled
continued  –                        it went on as the run named in ``continued_to``
========== ======================== ==========================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from everstep.core.history import Micros


class RunStatus(StrEnum):
    """Where a run is in its life. ``PARKED`` and ``PAUSED`` are not stored: so a run is shown that waits for people."""

    PENDING = "pending"
    RUNNING = "running"
    PARKED = "parked"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    CONTINUED = "continued"


TRANSITIONS: Final[Mapping[RunStatus, frozenset[RunStatus]]] = {
    RunStatus.PENDING: frozenset({RunStatus.RUNNING, RunStatus.CANCELLED}),
    RunStatus.RUNNING: frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.CONTINUED}),
    RunStatus.COMPLETED: frozenset(),
    RunStatus.FAILED: frozenset(),
    RunStatus.CANCELLED: frozenset(),
    RunStatus.CONTINUED: frozenset(),
}
CLOSED: Final = frozenset(status for status, after in TRANSITIONS.items() if not after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a run is parked.

    Attributes:
        code: which kind: ``divergence``, ``io``, ``workflow-missing``, ``step-missing``, ``unreadable``, ``poison``.
        message: what happened and what to do, for people.
        turn: the number of the turn that could not be made or replayed.
        build: the build that parked the run. Another build tries the run again by itself.
        at: when.
    """

    code: str
    message: str
    turn: int
    build: str
    at: Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """Whose child a run is, and which operation of it: there its outcome is reported."""

    run_id: str
    workflow: str
    op: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The run whose first turns a run's history begins with.

    Attributes:
        run_id: the id its random numbers follow from.
        turns: how many are that one's. What they did beside asking for operations was done then.
    """

    run_id: str
    turns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What is known of a run besides its turns.

    Attributes:
        run_id: ``wrun_`` and 26 characters.
        root_id: the first run of the family this run belongs to (itself, the run it continues, its parent …).
        workflow: the registered name.
        input: the encoded arguments.
        attributes: plain text, searchable; keys that begin with ``$`` are ours.
        first_attributes: those it was started with, where they have changed since.
        start_at: when the first turn may run.
        reason: why it was cancelled, if somebody said so.
        parent: the run that waits for its outcome.
        paused_at: since when it is paused.
        origin: where its history began as another run's.
        attributes_turn: the turn whose attributes these are; -1 for those it was started with.
    """

    run_id: str
    root_id: str
    workflow: str
    input: bytes
    created_at: Micros
    start_at: Micros
    attributes: Mapping[str, str] = field(default_factory=dict)
    status: RunStatus = RunStatus.PENDING
    started_at: Micros | None = None
    completed_at: Micros | None = None
    result: bytes | None = None
    error: bytes | None = None
    continued_from: str | None = None
    continued_to: str | None = None
    problem: Problem | None = None
    reason: str | None = None
    parent: Parent | None = None
    paused_at: Micros | None = None
    origin: Origin | None = None
    attributes_turn: int = -1
    first_attributes: Mapping[str, str] | None = None

    @property
    def started_with(self) -> Mapping[str, str]:
        """The attributes it was started with."""
        return self.attributes if self.first_attributes is None else self.first_attributes

    @property
    def closed(self) -> bool:
        return self.status in CLOSED

    @property
    def shown_status(self) -> RunStatus:
        """The status people see: a run with a problem is *parked*, one that waits to be unpaused *paused*."""
        if self.closed:
            return self.status
        if self.problem is not None:
            return RunStatus.PARKED
        return RunStatus.PAUSED if self.paused_at is not None else self.status


# --- changes to a run record -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The first turn is recorded."""

    at: Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The last turn is recorded."""

    at: Micros
    status: RunStatus
    result: bytes | None = None
    error: bytes | None = None
    continued_to: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """The run waits for other code."""

    problem: Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Unparked:
    """The run is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """The run takes nothing until it is unpaused."""

    at: Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpaused:
    """The run goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributesSet:
    """All attributes of the run as of a turn; those of an earlier turn do not replace those of a later one.

    Attributes:
        first: those it was started with.
    """

    turn: int
    attributes: Mapping[str, str]
    first: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A named value as of a turn; one of an earlier turn does not replace one of a later turn."""

    turn: int
    name: str
    value: bytes


RunChange: TypeAlias = Started | Closed | Parked | Unparked | Paused | Unpaused | AttributesSet | Published
