"""Run records and histories in SQLite."""

from __future__ import annotations

import json
from typing import Final, assert_never, final

from everstep.backends.sqlite.connection import SqliteDatabase
from everstep.backends.sqlite.run_rows import COLUMNS, from_row, problem_columns, seal_optional, to_row
from everstep.codec.envelope import seal
from everstep.codec.records import decode_event, decode_turn, encode_turn
from everstep.core.history import Turn
from everstep.core.run import (
    AttributesSet,
    Closed,
    Parked,
    Paused,
    Published,
    RunChange,
    RunRecord,
    RunStatus,
    Started,
    Unparked,
    Unpaused,
)
from everstep.ports import InboxEntry, Snapshot

_CREATE: Final = f"INSERT INTO runs ({COLUMNS}) VALUES ({', '.join('?' * 23)}) ON CONFLICT DO NOTHING"
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
    "reason = ?, paused_at = NULL, "
    f"problem = NULL, problem_at = NULL, problem_build = NULL WHERE run_id = ? AND {_IS_OPEN}"
)
_PARK: Final = f"UPDATE runs SET problem = ?, problem_at = ?, problem_build = ? WHERE run_id = ? AND {_IS_OPEN}"
_UNPARK: Final = (
    "UPDATE runs SET problem = NULL, problem_at = NULL, problem_build = NULL "
    "WHERE run_id = ? AND problem_at IS NOT NULL"
)
_PAUSE: Final = f"UPDATE runs SET paused_at = coalesce(paused_at, ?) WHERE run_id = ? AND {_IS_OPEN}"
_UNPAUSE: Final = "UPDATE runs SET paused_at = NULL WHERE run_id = ? AND paused_at IS NOT NULL"
_SET_ATTRIBUTES: Final = (
    "UPDATE runs SET attributes = ?, first_attributes = ?, attributes_turn = ? WHERE run_id = ? AND attributes_turn < ?"
)
_DROP_ATTRIBUTES: Final = "DELETE FROM run_attributes WHERE run_id = ? AND created_at = ? AND key = ? AND value = ?"
_ATTRIBUTES: Final = "SELECT attributes, created_at FROM runs WHERE run_id = ? AND attributes_turn < ?"
_PUBLISH: Final = (
    "INSERT INTO published (run_id, name, turn, value) SELECT run_id, ?, ?, ? FROM runs WHERE run_id = ? "
    "ON CONFLICT DO UPDATE SET turn = excluded.turn, value = excluded.value WHERE turn < excluded.turn"
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
            case Closed(at=at, status=status, result=result, error=error):
                payloads = (seal_optional(result), seal_optional(error))
                self._database.write(_CLOSE, (status.value, at, *payloads, change.continued_to, change.reason, run_id))
            case Parked(problem=problem):
                self._database.write(_PARK, (*problem_columns(problem), run_id))
            case Unparked():
                self._database.write(_UNPARK, (run_id,))
            case Paused(at=at):
                self._database.write(_PAUSE, (at, run_id))
            case Unpaused():
                self._database.write(_UNPAUSE, (run_id,))
            case AttributesSet():
                self._set_attributes(run_id, change)
            case Published(turn=turn, name=name, value=value):
                self._database.write(_PUBLISH, (name, turn, seal(value), run_id))
            case _:
                assert_never(change)

    def _set_attributes(self, run_id: str, change: AttributesSet) -> None:
        database, turn, attributes = self._database, change.turn, change.attributes
        with database.unit():
            rows = database.rows(_ATTRIBUTES, (run_id, turn))
            if not rows:
                return
            old, created_at = json.loads(rows[0][0]), rows[0][1]
            gone = [(run_id, created_at, key, value) for key, value in old.items() if attributes.get(key) != value]
            come = [(key, value, created_at, run_id) for key, value in attributes.items() if old.get(key) != value]
            texts = (json.dumps(dict(attributes)), json.dumps(dict(change.first)))
            database.write(_SET_ATTRIBUTES, (*texts, turn, run_id, turn))
            if gone:
                database.write_many(_DROP_ATTRIBUTES, gone)
            if come:
                database.write_many(_ADD_ATTRIBUTE, come)
