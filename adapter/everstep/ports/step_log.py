"""The port for what is known of steps beside their outcomes: failed attempts, claims, wishes that they end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from everstep.core.history import Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedAttempt:
    """An attempt that failed and is followed by another.

    Attributes:
        error: the encoded error.
        retry_at: when the next attempt may run.
    """

    op: int
    attempt: int
    started_at: Micros
    ended_at: Micros
    error: bytes
    retry_at: Micros


class StepLog(Protocol):
    """Failed attempts, claims and wishes. Losing a failed attempt costs a line in a report; a claim is a promise."""

    def record(self, run_id: str, attempt: FailedAttempt) -> None:
        """Keep a failed attempt. A second one for the same operation and number is dropped."""
        ...

    def claim(self, run_id: str, op: int, attempt: int) -> bool:
        """Claim the right to run this attempt; False when it was claimed before. Durable when it returns.

        Called outside of units.
        """
        ...

    def failed_attempts(self, run_id: str) -> Sequence[FailedAttempt]:
        """All failed attempts of a run, by operation and number."""
        ...

    def request_cancel(self, run_id: str, op: int) -> None:
        """Nobody waits for this step any more: whoever runs it is to know."""
        ...

    def cancel_requested(self, run_id: str, op: int) -> bool:
        """Whether that was requested. Asked again and again while a cancellable step runs."""
        ...
