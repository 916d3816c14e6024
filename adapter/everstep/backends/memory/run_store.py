"""Run records and histories in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never, final

from everstep.backends.memory.connection import MemoryDatabase
from everstep.codec.envelope import seal
from everstep.codec.records import decode_event, decode_run, decode_turn, encode_run, encode_turn
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
from everstep.errors import StoreError
from everstep.ports import InboxEntry, Snapshot


@final
class MemoryRunStore:
    """Implements `everstep.ports.RunStore`."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._tables = database.tables

    def create(self, run: RunRecord) -> bool:
        body = encode_run(run)
        with self._database.writing():
            if self._database.get(self._tables.runs, run.run_id) is not None:
                return False
            self._database.put(self._tables.runs, run.run_id, body)
            return True

    def load(self, run_id: str, *, first_turn: int = 0) -> Snapshot | None:
        with self._database.reading():
            run = self._database.get(self._tables.runs, run_id)
            turns = self._database.get(self._tables.turns, run_id) or ()
            inbox = self._database.get(self._tables.inbox, run_id) or ()
        if run is None:
            return None
        return Snapshot(
            run=decode_run(run),
            turns=[decode_turn(body) for body in turns[first_turn:]],
            inbox=[InboxEntry(key=key, event=decode_event(body)) for key, body in inbox],
        )

    def append(self, run_id: str, turn: Turn) -> bool:
        body = encode_turn(turn)
        with self._database.writing():
            turns = self._database.get(self._tables.turns, run_id) or ()
            if turn.number < len(turns):
                return decode_turn(turns[turn.number]).nonce == turn.nonce
            if turn.number > len(turns):
                raise StoreError(f"turn {turn.number} of run {run_id} does not follow turn {len(turns) - 1}")
            self._database.put(self._tables.turns, run_id, (*turns, body))
            return True

    def mark(self, run_id: str, change: RunChange) -> None:
        with self._database.writing():
            if isinstance(change, Published):
                self._publish(run_id, change)
                return
            body = self._database.get(self._tables.runs, run_id)
            if body is None:
                return
            run = decode_run(body)
            changed = _changed(run, change)
            if changed != run:
                self._database.put(self._tables.runs, run_id, encode_run(changed))

    def _publish(self, run_id: str, change: Published) -> None:
        if self._database.get(self._tables.runs, run_id) is None:
            return
        known = self._database.get(self._tables.published, (run_id, change.name))
        if known is None or known[0] < change.turn:
            self._database.put(self._tables.published, (run_id, change.name), (change.turn, seal(change.value)))


def _changed(run: RunRecord, change: RunChange) -> RunRecord:
    if isinstance(change, AttributesSet):
        if change.turn <= run.attributes_turn:
            return run
        return replace(run, attributes=change.attributes, attributes_turn=change.turn, first_attributes=change.first)
    if run.closed:
        return run
    match change:
        case Started(at=at):
            return replace(run, status=RunStatus.RUNNING, started_at=at if run.started_at is None else run.started_at)
        case Closed(at=at, status=status, result=result, error=error):
            return replace(
                run,
                status=status,
                completed_at=at,
                result=result,
                error=error,
                continued_to=change.continued_to,
                reason=change.reason,
                problem=None,
                paused_at=None,
            )
        case Parked(problem=problem):
            return replace(run, problem=problem)
        case Unparked():
            return replace(run, problem=None)
        case Paused(at=at):
            return replace(run, paused_at=at if run.paused_at is None else run.paused_at)
        case Unpaused():
            return replace(run, paused_at=None)
        case Published():
            return run
        case _:
            assert_never(change)
