"""What arrived for a run, and what was decided about it: data between the halves of an advance."""

from __future__ import annotations

from dataclasses import dataclass, field

from everstep.core.history import Event, Micros, RunStarted, TimerFired, Turn, event_key
from everstep.core.messages import Outgoing
from everstep.core.run import RunChange, RunRecord
from everstep.ports import HookClaim, InboxEntry
from everstep.runtime.engine import Live


@dataclass(slots=True, kw_only=True)
class Arrival:
    """What arrived for a run since its last turn.

    Attributes:
        events: outcomes, in order of arrival.
        timers: timers whose messages came.
        again: operations whose messages came again although their outcomes are recorded.
        start: the run that a start message asks for; it is created if it is not there.
        read_inbox: there may be more in the inbox.
        recover: ask again for all that is outstanding.
        not_before: it is at least this late, whatever the clock says: a timer's message was due then.
    """

    run_id: str
    events: list[Event] = field(default_factory=list)
    timers: list[int] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    start: RunRecord | None = None
    read_inbox: bool = False
    recover: bool = False
    not_before: Micros = 0

    @property
    def keys(self) -> list[str]:
        """Of the events that its messages stand for."""
        keys = [event_key(event) for event in self.events]
        keys += [f"step/{op}" for op in self.again]
        keys += [event_key(TimerFired(op=op)) for op in self.timers]
        return keys if self.start is None else [*keys, event_key(RunStarted())]


@dataclass(slots=True, kw_only=True)
class Slots:
    """How many steps the deciding worker could begin at once: their messages are leased to it when they are sent."""

    worker: str
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A token to claim. A conflict is told to the run; that there is none, only if the body asked."""

    hook: HookClaim
    confirm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An event for another run: a child's outcome for its parent, a parent's wish for its child."""

    run_id: str
    workflow: str
    event: Event


@dataclass(slots=True, kw_only=True)
class Decision:
    """What is to be written for a run, and what was replayed to find out.

    Attributes:
        created: children that begin later, so that they are seen, and can be cancelled, until then.
        released: operations of hooks and their tokens.
        claimed: tokens of hooks, by operation.
        cancelled: steps that nobody waits for any more.
        reports: what other runs are told.
        discarded: ids of messages nobody needs any more.
        consumed: keys of inbox entries.
        again: some of it may have been written before, by somebody who died before he woke who was to be told of it.
        woke: set when it is recorded: more was sent than `messages`.
    """

    run: RunRecord
    live: Live | None = None
    turn: Turn | None = None
    created: list[RunRecord] = field(default_factory=list)
    released: list[tuple[int, str]] = field(default_factory=list)
    claimed: dict[int, Claim] = field(default_factory=dict)
    messages: list[Outgoing] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    deposits: list[InboxEntry] = field(default_factory=list)
    changes: list[RunChange] = field(default_factory=list)
    consumed: list[str] = field(default_factory=list)
    again: bool = False
    woke: bool = False

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (
            self.turn is not None
            or self.created
            or self.released
            or self.claimed
            or self.messages
            or self.discarded
            or self.cancelled
            or self.reports
            or self.deposits
            or self.changes
            or self.consumed
        )
