"""Inboxes and wake flags in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from everstep.backends.sqlite.connection import SqliteDatabase
from everstep.codec.records import encode_event
from everstep.core.history import Micros
from everstep.ports import InboxEntry

_DEPOSIT: Final = "INSERT INTO inbox (run_id, key, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_REMOVE: Final = "DELETE FROM inbox WHERE run_id = ? AND key = ?"
_RAISE: Final = (
    "INSERT INTO wake_flags (run_id, raised_at) VALUES (?, ?) "
    "ON CONFLICT DO UPDATE SET raised_at = excluded.raised_at WHERE raised_at <= excluded.raised_at - 60000000"
)
_LOWER: Final = "DELETE FROM wake_flags WHERE run_id = ?"


@final
class SqliteInbox:
    """Implements `everstep.ports.Inbox`."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    def deposit(self, run_id: str, entry: InboxEntry) -> bool:
        return self._database.write(_DEPOSIT, (run_id, entry.key, encode_event(entry.event))) == 1

    def remove(self, run_id: str, keys: Sequence[str]) -> None:
        match keys:
            case []:
                pass
            case [key]:
                self._database.write(_REMOVE, (run_id, key))
            case _:
                self._database.write_many(_REMOVE, [(run_id, key) for key in keys])

    def raise_flag(self, run_id: str, *, now: Micros) -> bool:
        return self._database.write(_RAISE, (run_id, now)) == 1

    def lower_flag(self, run_id: str) -> None:
        self._database.write(_LOWER, (run_id,))
