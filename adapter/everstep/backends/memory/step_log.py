"""What is known of steps beside their outcomes, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from everstep.backends.memory.connection import MemoryDatabase
from everstep.codec.envelope import seal, unseal
from everstep.ports import FailedAttempt


@final
class MemoryStepLog:
    """Implements `everstep.ports.StepLog`."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._tables = database.tables

    def record(self, run_id: str, attempt: FailedAttempt) -> None:
        key = (run_id, attempt.op, attempt.attempt)
        row = (attempt.started_at, attempt.ended_at, seal(attempt.error), attempt.retry_at)
        with self._database.writing():
            if self._database.get(self._tables.failed_attempts, key) is None:
                self._database.put(self._tables.failed_attempts, key, row)

    def claim(self, run_id: str, op: int, attempt: int) -> bool:
        with self._database.writing():
            if self._database.get(self._tables.claims, (run_id, op, attempt)):
                return False
            self._database.put(self._tables.claims, (run_id, op, attempt), True)
            return True

    def failed_attempts(self, run_id: str) -> Sequence[FailedAttempt]:
        with self._database.reading():
            rows = self._database.items(self._tables.failed_attempts)
        return [
            FailedAttempt(
                op=op, attempt=attempt, started_at=started_at, ended_at=ended_at, error=unseal(error), retry_at=retry_at
            )
            for (of, op, attempt), (started_at, ended_at, error, retry_at) in sorted(rows)
            if of == run_id
        ]

    def request_cancel(self, run_id: str, op: int) -> None:
        with self._database.writing():
            self._database.put(self._tables.step_cancels, (run_id, op), True)

    def cancel_requested(self, run_id: str, op: int) -> bool:
        with self._database.reading():
            return self._database.get(self._tables.step_cancels, (run_id, op)) is not None
