"""Lists and whole runs in SQLite, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, final

from everstep.backends.paging import check_limit, from_cursor, to_cursor
from everstep.backends.sqlite.connection import SqliteDatabase
from everstep.backends.sqlite.run_rows import COLUMNS, from_row
from everstep.codec.envelope import unseal
from everstep.codec.records import decode_turn
from everstep.core.history import Turn
from everstep.core.run import RunRecord, RunStatus
from everstep.ports import RunPage, RunQuery

_RUN: Final = f"SELECT {COLUMNS} FROM runs WHERE run_id = ?"
_TURNS: Final = "SELECT body FROM turns WHERE run_id = ? ORDER BY number"
_PUBLISHED: Final = "SELECT name, value FROM published WHERE run_id = ? ORDER BY name"
_PARKED: Final = (
    "SELECT run_id FROM runs WHERE problem_at IS NOT NULL AND problem_build <> ? "
    "AND status IN ('pending', 'running') ORDER BY problem_at, run_id LIMIT ?"
)
# SQLite uses a partial index only where it finds the index's own condition, letter for letter, in the text.
_STATUS: Final[Mapping[RunStatus, str]] = {
    RunStatus.PENDING: "status IN ('pending', 'running') AND status = 'pending' AND problem_at IS NULL "
    "AND paused_at IS NULL",
    RunStatus.RUNNING: "status IN ('pending', 'running') AND status = 'running' AND problem_at IS NULL "
    "AND paused_at IS NULL",
    RunStatus.PARKED: "status IN ('pending', 'running') AND problem_at IS NOT NULL",
    RunStatus.PAUSED: "status IN ('pending', 'running') AND problem_at IS NULL AND paused_at IS NOT NULL",
    RunStatus.COMPLETED: "status = 'completed'",
    RunStatus.FAILED: "status IN ('failed', 'cancelled', 'continued') AND status = 'failed'",
    RunStatus.CANCELLED: "status IN ('failed', 'cancelled', 'continued') AND status = 'cancelled'",
    RunStatus.CONTINUED: "status IN ('failed', 'cancelled', 'continued') AND status = 'continued'",
}


@final
class SqliteInspector:
    """Implements `everstep.ports.Inspector`."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    def list_runs(self, query: RunQuery) -> RunPage:
        check_limit(query.limit)
        sql, parameters = _select(query)
        rows = self._database.rows(sql, (*parameters, query.limit + 1))
        runs = [from_row(row) for row in rows[: query.limit]]
        cursor = to_cursor(runs[-1].created_at, runs[-1].run_id) if len(rows) > query.limit else None
        return RunPage(runs=runs, cursor=cursor)

    def get_run(self, run_id: str) -> RunRecord | None:
        rows = self._database.rows(_RUN, (run_id,))
        return from_row(rows[0]) if rows else None

    def history(self, run_id: str) -> Sequence[Turn]:
        return [decode_turn(body) for (body,) in self._database.rows(_TURNS, (run_id,))]

    def parked(self, *, not_by: str, limit: int = 100) -> Sequence[str]:
        check_limit(limit)
        return [run_id for (run_id,) in self._database.rows(_PARKED, (not_by, limit))]

    def published(self, run_id: str) -> Mapping[str, bytes]:
        return {name: unseal(value) for name, value in self._database.rows(_PUBLISHED, (run_id,))}


def _select(query: RunQuery) -> tuple[str, list[str | int]]:
    """The statement, but for its last parameter, the limit.

    The first attribute, if any, leads: its table is in the order of the list already, and further attributes, and the
    run itself, are looked up for each of its rows.
    """
    conditions: list[str] = []
    parameters: list[str | int] = []

    def require(condition: str, *values: str | int) -> None:
        conditions.append(condition)
        parameters.extend(values)

    leading, *others = query.attributes.items() or [None]
    table = "runs" if leading is None else "run_attributes"
    if leading is not None:
        require("run_attributes.key = ? AND run_attributes.value = ?", *leading)
    for other in others:
        if other is not None:
            require(
                "EXISTS (SELECT 1 FROM run_attributes AS other WHERE other.key = ? AND other.value = ? AND "
                "other.created_at = run_attributes.created_at AND other.run_id = run_attributes.run_id)",
                *other,
            )
    if query.workflow is not None:
        require("workflow = ?", query.workflow)
    if query.status is not None:
        require(_STATUS[query.status])
    if query.created_from is not None:
        require(f"{table}.created_at >= ?", query.created_from)
    if query.created_before is not None:
        require(f"{table}.created_at < ?", query.created_before)
    if query.cursor is not None:
        require(f"({table}.created_at, {table}.run_id) < (?, ?)", *from_cursor(query.cursor))
    columns = ", ".join(f"runs.{column}" for column in COLUMNS.split(", "))
    source = "runs" if leading is None else "run_attributes CROSS JOIN runs ON runs.run_id = run_attributes.run_id"
    where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
    return (
        f"SELECT {columns} FROM {source} {where}ORDER BY {table}.created_at DESC, {table}.run_id DESC LIMIT ?",
        parameters,
    )
