"""The port for what people want to know about attempts, and for claims on attempts that must not be repeated."""

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
    """Failed attempts and claims. Losing a failed attempt costs a line in a report; a claim is a promise."""

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
