"""Lists and whole runs in memory, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

from everstep.backends.memory.connection import MemoryDatabase
from everstep.backends.paging import check_limit, from_cursor, to_cursor
from everstep.codec.envelope import unseal
from everstep.codec.records import decode_run, decode_turn
from everstep.core.history import Turn
from everstep.core.run import RunRecord
from everstep.ports import RunPage, RunQuery


@final
class MemoryInspector:
    """Implements `everstep.ports.Inspector`."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._tables = database.tables

    def list_runs(self, query: RunQuery) -> RunPage:
        check_limit(query.limit)
        before = None if query.cursor is None else from_cursor(query.cursor)
        found = sorted(
            (run for run in self._runs() if _matches(run, query)),
            key=lambda run: (run.created_at, run.run_id),
            reverse=True,
        )
        if before is not None:
            found = [run for run in found if (run.created_at, run.run_id) < before]
        page = found[: query.limit]
        cursor = to_cursor(page[-1].created_at, page[-1].run_id) if len(found) > query.limit else None
        return RunPage(runs=page, cursor=cursor)

    def get_run(self, run_id: str) -> RunRecord | None:
        with self._database.reading():
            body = self._database.get(self._tables.runs, run_id)
        return None if body is None else decode_run(body)

    def history(self, run_id: str) -> Sequence[Turn]:
        with self._database.reading():
            bodies = self._database.get(self._tables.turns, run_id) or ()
        return [decode_turn(body) for body in bodies]

    def parked(self, *, not_by: str, limit: int = 100) -> Sequence[str]:
        check_limit(limit)
        found = sorted(
            (run.problem.at, run.run_id)
            for run in self._runs()
            if run.problem is not None and not run.closed and run.problem.build != not_by
        )
        return [run_id for _, run_id in found[:limit]]

    def published(self, run_id: str) -> Mapping[str, bytes]:
        with self._database.reading():
            rows = self._database.items(self._tables.published)
        return {name: unseal(value) for (of, name), (_, value) in sorted(rows) if of == run_id}

    def _runs(self) -> list[RunRecord]:
        with self._database.reading():
            bodies = self._database.items(self._tables.runs)
        return [decode_run(body) for _, body in bodies]


def _matches(run: RunRecord, query: RunQuery) -> bool:
    return (
        (query.workflow is None or run.workflow == query.workflow)
        and (query.status is None or run.shown_status == query.status)
        and (query.created_from is None or run.created_at >= query.created_from)
        and (query.created_before is None or run.created_at < query.created_before)
        and all(run.attributes.get(key) == value for key, value in query.attributes.items())
    )
