"""What is known of steps beside their outcomes, in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from everstep.backends.sqlite.connection import SqliteDatabase
from everstep.codec.envelope import seal, unseal
from everstep.ports import FailedAttempt

_RECORD: Final = (
    "INSERT INTO failed_attempts (run_id, op, attempt, started_at, ended_at, error, retry_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_FAILED: Final = (
    "SELECT op, attempt, started_at, ended_at, error, retry_at FROM failed_attempts WHERE run_id = ? "
    "ORDER BY op, attempt"
)
_CLAIM: Final = "INSERT INTO claims (run_id, op, attempt) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_REQUEST_CANCEL: Final = "INSERT INTO step_cancels (run_id, op) VALUES (?, ?) ON CONFLICT DO NOTHING"
_CANCEL_REQUESTED: Final = "SELECT 1 FROM step_cancels WHERE run_id = ? AND op = ?"


@final
class SqliteStepLog:
    """Implements `everstep.ports.StepLog`."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    def record(self, run_id: str, attempt: FailedAttempt) -> None:
        self._database.write(
            _RECORD,
            (
                run_id,
                attempt.op,
                attempt.attempt,
                attempt.started_at,
                attempt.ended_at,
                seal(attempt.error),
                attempt.retry_at,
            ),
        )

    def claim(self, run_id: str, op: int, attempt: int) -> bool:
        # Synced even at NORMAL: an attempt that must not be repeated would be, if power failed after it had run.
        return self._database.write_synced(_CLAIM, (run_id, op, attempt)) == 1

    def failed_attempts(self, run_id: str) -> Sequence[FailedAttempt]:
        return [
            FailedAttempt(
                op=op, attempt=attempt, started_at=started_at, ended_at=ended_at, error=unseal(error), retry_at=retry_at
            )
            for op, attempt, started_at, ended_at, error, retry_at in self._database.rows(_FAILED, (run_id,))
        ]

    def request_cancel(self, run_id: str, op: int) -> None:
        self._database.write(_REQUEST_CANCEL, (run_id, op))

    def cancel_requested(self, run_id: str, op: int) -> bool:
        return bool(self._database.rows(_CANCEL_REQUESTED, (run_id, op)))
