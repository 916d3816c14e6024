"""Run records and histories in SQLite."""

from __future__ import annotations

from typing import Final, assert_never, final

from everstep.backends.sqlite.connection import SqliteDatabase
from everstep.backends.sqlite.run_rows import COLUMNS, from_row, problem_columns, seal_optional, to_row
from everstep.codec.records import decode_event, decode_turn, encode_turn
from everstep.core.history import Turn
from everstep.core.run import Closed, Parked, RunChange, RunRecord, RunStatus, Started, Unparked
from everstep.ports import InboxEntry, Snapshot

_CREATE: Final = f"INSERT INTO runs ({COLUMNS}) VALUES ({', '.join('?' * 17)}) ON CONFLICT DO NOTHING"
_ADD_ATTRIBUTE: Final = "INSERT INTO run_attributes (key, value, created_at, run_id) VALUES (?, ?, ?, ?)"
_RUN: Final = f"SELECT {COLUMNS} FROM runs WHERE run_id = ?"
_TURNS: Final = "SELECT body FROM turns WHERE run_id = ? AND number >= ? ORDER BY number"
_TURN: Final = "SELECT body FROM turns WHERE run_id = ? AND number = ?"
_INBOX: Final = "SELECT key, body FROM inbox WHERE run_id = ? ORDER BY seq"
_APPEND: Final = "INSERT INTO turns (run_id, number, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"

_IS_OPEN: Final = "status IN ('pending', 'running')"
_START: Final = (
    f"UPDATE runs SET status = '{RunStatus.RUNNING}', started_at = coalesce(started_at, ?) "
    f"WHERE run_id = ? AND {_IS_OPEN}"
)
_CLOSE: Final = (
    "UPDATE runs SET status = ?, completed_at = ?, result = ?, error = ?, continued_to = ?, "
    f"problem = NULL, problem_at = NULL, problem_build = NULL WHERE run_id = ? AND {_IS_OPEN}"
)
_PARK: Final = f"UPDATE runs SET problem = ?, problem_at = ?, problem_build = ? WHERE run_id = ? AND {_IS_OPEN}"
_UNPARK: Final = (
    "UPDATE runs SET problem = NULL, problem_at = NULL, problem_build = NULL "
    "WHERE run_id = ? AND problem_at IS NOT NULL"
)


@final
class SqliteRunStore:
    """Implements `everstep.ports.RunStore`."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    def create(self, run: RunRecord) -> bool:
        database = self._database
        if not run.attributes:
            return database.write(_CREATE, to_row(run)) == 1
        with database.unit():
            created = database.write(_CREATE, to_row(run)) == 1
            if created:
                database.write_many(
                    _ADD_ATTRIBUTE, [(key, value, run.created_at, run.run_id) for key, value in run.attributes.items()]
                )
        return created

    def load(self, run_id: str, *, first_turn: int = 0) -> Snapshot | None:
        runs, turns, inbox = self._database.snapshot(
            (_RUN, (run_id,)), (_TURNS, (run_id, first_turn)), (_INBOX, (run_id,))
        )
        if not runs:
            return None
        return Snapshot(
            run=from_row(runs[0]),
            turns=[decode_turn(body) for (body,) in turns],
            inbox=[InboxEntry(key=key, event=decode_event(body)) for key, body in inbox],
        )

    def append(self, run_id: str, turn: Turn) -> bool:
        if self._database.write(_APPEND, (run_id, turn.number, encode_turn(turn))) == 1:
            return True
        stored = self._database.rows(_TURN, (run_id, turn.number))
        return bool(stored) and decode_turn(stored[0][0]).nonce == turn.nonce

    def mark(self, run_id: str, change: RunChange) -> None:
        match change:
            case Started(at=at):
                self._database.write(_START, (at, run_id))
            case Closed(at=at, status=status, result=result, error=error, continued_to=continued_to):
                payloads = (seal_optional(result), seal_optional(error))
                self._database.write(_CLOSE, (status.value, at, *payloads, continued_to, run_id))
            case Parked(problem=problem):
                self._database.write(_PARK, (*problem_columns(problem), run_id))
            case Unparked():
                self._database.write(_UNPARK, (run_id,))
            case _:
                assert_never(change)
