"""Put events into inboxes, and make somebody look there (design 4.4, 4.6)."""

from __future__ import annotations

from everstep.core.history import Event, event_key
from everstep.core.messages import AdvanceRun, outgoing
from everstep.ports import InboxEntry
from everstep.runtime.engine import Engine


def entry_of(event: Event) -> InboxEntry:
    """The event as an inbox entry: of those with the same key a run consumes one, whichever comes first."""
    return InboxEntry(key=event_key(event), event=event)


def wake(engine: Engine, run_id: str, root_id: str, workflow: str, *, always: bool = False) -> None:
    """Make an advance happen for what is in the run's inbox, unless one is under way already."""
    now = engine.clock.now()
    if engine.backend.inbox.raise_flag(run_id, now=now) or always:
        message = AdvanceRun(run_id=run_id, cause=engine.nonce())
        engine.backend.queue.send([outgoing(message, now, root_id, workflow)])


def deliver(engine: Engine, run_id: str, root_id: str, workflow: str, event: Event, *, always: bool = False) -> None:
    """Deposit the event with the run, and wake it. What was deposited before may have woken nobody: wake it again."""
    stored = engine.backend.inbox.deposit(run_id, entry_of(event))
    wake(engine, run_id, root_id, workflow, always=always or not stored)
