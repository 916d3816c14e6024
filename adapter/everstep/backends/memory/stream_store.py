"""Streams in memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import Final, final

from everstep.backends.memory.connection import MemoryDatabase
from everstep.ports import StreamRecord

_first: Final = attrgetter("first")


@final
class MemoryStreamStore:
    """Implements `everstep.ports.StreamStore`."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._tables = database.tables

    def append(self, run_id: str, name: str, record: StreamRecord) -> bool:
        with self._database.writing():
            records = self._database.get(self._tables.streams, (run_id, name)) or ()
            at = bisect_left(records, record.first, key=_first)
            if at < len(records):
                return records[at].first == record.first and records[at].nonce == record.nonce
            self._database.put(self._tables.streams, (run_id, name), (*records, record))
            return True

    def read(self, run_id: str, name: str, *, first: int, limit: int) -> Sequence[StreamRecord]:
        records = self._records(run_id, name)
        at = bisect_left(records, first, key=_first)
        return records[at : at + limit]

    def find(self, run_id: str, name: str, position: int | None = None) -> StreamRecord | None:
        records = self._records(run_id, name)
        count = len(records) if position is None else bisect_right(records, position, key=_first)
        return records[count - 1] if count else None

    def enter(self, run_id: str, name: str, step: str, position: int) -> int:
        with self._database.writing():
            noted = self._database.get(self._tables.stream_steps, (run_id, name, step))
            if noted is None:
                self._database.put(self._tables.stream_steps, (run_id, name, step), position)
            return position if noted is None else noted

    def names(self, run_id: str) -> Sequence[str]:
        with self._database.reading():
            return sorted(name for (of, name), _ in self._database.items(self._tables.streams) if of == run_id)

    def _records(self, run_id: str, name: str) -> tuple[StreamRecord, ...]:
        with self._database.reading():
            return self._database.get(self._tables.streams, (run_id, name)) or ()
