"""The port for runs and their histories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from everstep.core.history import Turn
from everstep.core.run import RunChange, RunRecord
from everstep.ports.inbox import InboxEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What one consistent read of a run found: the record, the turns asked for (in order), the inbox (in order)."""

    run: RunRecord
    turns: Sequence[Turn]
    inbox: Sequence[InboxEntry]


class RunStore(Protocol):
    """Run records and histories. A history is append-only and dense; nothing in it is ever rewritten."""

    def create(self, run: RunRecord) -> bool:
        """Store the record if there is none with its id; say whether it was stored."""
        ...

    def load(self, run_id: str, *, first_turn: int = 0) -> Snapshot | None:
        """Read a run: record, turns numbered `first_turn` and up, inbox. One strongly consistent read.

        None when there is no such run. `first_turn` may lie beyond the end.
        """
        ...

    def append(self, run_id: str, turn: Turn) -> bool:
        """Store the turn if no turn of this number exists; say whether it is now there as ours.

        This conditional write is the run's lock. When the write is refused but the stored turn carries our nonce
        (a retried request whose first try had succeeded), the answer is True. The caller guarantees that turn
        ``number - 1`` exists; the record need not.
        """
        ...

    def mark(self, run_id: str, change: RunChange) -> None:
        """Change the record, or what belongs to it.

        Idempotent. ``Started``, ``Parked`` and ``Paused`` leave a closed run as it is, ``Closed`` removes a problem and
        does not change a run that is already closed, ``Started`` keeps the start time that was recorded first,
        ``Paused`` the time of the pause. ``AttributesSet`` and ``Published`` also change a closed run, and do nothing
        where those of this turn or a later one are there. No record, no effect; but values published without one may be
        kept.
        """
        ...
