"""Streams in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from everstep.backends.sqlite.connection import SqliteDatabase
from everstep.core.streams import LAST_POSITION
from everstep.ports import StreamRecord

_APPEND: Final = (
    "INSERT INTO stream_records (run_id, name, first, nonce, body) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_NONCE: Final = "SELECT nonce FROM stream_records WHERE run_id = ? AND name = ? AND first = ?"
_READ: Final = (
    "SELECT first, nonce, body FROM stream_records WHERE run_id = ? AND name = ? AND first >= ? ORDER BY first LIMIT ?"
)
_FIND: Final = (
    "SELECT first, nonce, body FROM stream_records WHERE run_id = ? AND name = ? AND first <= ? "
    "ORDER BY first DESC LIMIT 1"
)
_ENTER: Final = "INSERT INTO stream_steps (run_id, name, step, first) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
_ENTERED: Final = "SELECT first FROM stream_steps WHERE run_id = ? AND name = ? AND step = ?"
_NAMES: Final = """
    WITH RECURSIVE names (name) AS (
        SELECT min(name) FROM stream_records WHERE run_id = ?1
        UNION ALL
        SELECT (SELECT min(name) FROM stream_records WHERE run_id = ?1 AND name > names.name)
        FROM names WHERE names.name IS NOT NULL)
    SELECT name FROM names WHERE name IS NOT NULL"""


@final
class SqliteStreamStore:
    """Implements `everstep.ports.StreamStore`."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    def append(self, run_id: str, name: str, record: StreamRecord) -> bool:
        if self._database.write(_APPEND, (run_id, name, record.first, record.nonce, record.body)) == 1:
            return True
        return self._database.rows(_NONCE, (run_id, name, record.first)) == [(record.nonce,)]

    def read(self, run_id: str, name: str, *, first: int, limit: int) -> Sequence[StreamRecord]:
        rows = self._database.rows(_READ, (run_id, name, first, limit))
        return [StreamRecord(first=at, nonce=nonce, body=body) for at, nonce, body in rows]

    def find(self, run_id: str, name: str, position: int | None = None) -> StreamRecord | None:
        rows = self._database.rows(_FIND, (run_id, name, LAST_POSITION if position is None else position))
        return StreamRecord(first=rows[0][0], nonce=rows[0][1], body=rows[0][2]) if rows else None

    def enter(self, run_id: str, name: str, step: str, position: int) -> int:
        if self._database.write(_ENTER, (run_id, name, step, position)) == 1:
            return position
        first: int = self._database.rows(_ENTERED, (run_id, name, step))[0][0]
        return first

    def names(self, run_id: str) -> Sequence[str]:
        return [name for (name,) in self._database.rows(_NAMES, (run_id,))]
