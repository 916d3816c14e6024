"""Inboxes and wake flags in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from everstep.backends.memory.connection import MemoryDatabase
from everstep.codec.records import encode_event
from everstep.core.history import Micros
from everstep.ports import InboxEntry

_MINUTE: Final = 60_000_000


@final
class MemoryInbox:
    """Implements `everstep.ports.Inbox`."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._tables = database.tables

    def deposit(self, run_id: str, entry: InboxEntry) -> bool:
        body = encode_event(entry.event)
        with self._database.writing():
            entries = self._database.get(self._tables.inbox, run_id) or ()
            if any(key == entry.key for key, _ in entries):
                return False
            self._database.put(self._tables.inbox, run_id, (*entries, (entry.key, body)))
            return True

    def remove(self, run_id: str, keys: Sequence[str]) -> None:
        with self._database.writing():
            entries = self._database.get(self._tables.inbox, run_id) or ()
            kept = tuple(entry for entry in entries if entry[0] not in keys)
            if len(kept) < len(entries):
                self._database.put(self._tables.inbox, run_id, kept or None)

    def raise_flag(self, run_id: str, *, now: Micros) -> bool:
        with self._database.writing():
            raised_at = self._database.get(self._tables.wake_flags, run_id)
            if raised_at is not None and raised_at > now - _MINUTE:
                return False
            self._database.put(self._tables.wake_flags, run_id, now)
            return True

    def lower_flag(self, run_id: str) -> None:
        with self._database.writing():
            if self._database.get(self._tables.wake_flags, run_id) is not None:
                self._database.put(self._tables.wake_flags, run_id, None)
