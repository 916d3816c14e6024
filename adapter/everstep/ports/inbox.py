"""The port for what has arrived for a run and is not yet in a turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from everstep.core.history import Event, Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxEntry:
    """An event in an inbox, under the key that makes depositing it twice harmless."""

    key: str
    event: Event


class Inbox(Protocol):
    """Events that arrived for runs, and the flag that says a wake-up is under way."""

    def deposit(self, run_id: str, entry: InboxEntry) -> bool:
        """Store the entry if there is none with its key; say whether it was stored.

        Entries are read back (`RunStore.load`) in the order they were deposited, as far as the backend can tell.
        """
        ...

    def remove(self, run_id: str, keys: Sequence[str]) -> None:
        """Remove these entries. Those that are not there are no error."""
        ...

    def raise_flag(self, run_id: str, *, now: Micros) -> bool:
        """Turn the run's wake flag on; say whether it was off, so that the caller must send the wake-up.

        A flag that was turned on a minute or longer before `now` counts as off: whoever did it died.
        """
        ...

    def lower_flag(self, run_id: str) -> None:
        """Turn the run's wake flag off."""
        ...
