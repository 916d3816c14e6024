"""When a failed step is tried again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from everstep.core.durations import Duration, duration_micros, moment_after
from everstep.core.history import Micros
from everstep.errors import RetryableError

DEFAULT_MAX_RETRIES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long to wait between the attempts of a step, and which errors are worth another.

    The wait before attempt *n + 1* is drawn from the range up to ``min(cap, first_delay * factor ** (n - 1))``:
    exponential backoff with full jitter
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).

    Args:
        first_delay: the range's upper end after the first failure; seconds, a `timedelta` or text such as ``"500ms"``.
        factor: what each further failure multiplies it with; 1 or more.
        cap: its greatest value.
        jitter: ``"full"`` draws from 0 to the upper end, ``"none"`` always waits the upper end.
        retry_on: only these exceptions are retried.
    """

    first_delay: Duration = 1
    factor: float = 2
    cap: Duration = 300
    jitter: Literal["full", "none"] = "full"
    retry_on: tuple[type[BaseException], ...] = (Exception,)

    def __post_init__(self) -> None:
        duration_micros(self.first_delay)
        duration_micros(self.cap)
        if not 1 <= self.factor <= 1_000_000:
            raise ValueError(f"factor must be 1 or more, not {self.factor!r}")
        if self.jitter not in ("full", "none"):
            raise ValueError(f"jitter must be 'full' or 'none', not {self.jitter!r}")
        if not isinstance(self.retry_on, tuple) or not all(
            isinstance(kind, type) and issubclass(kind, BaseException) for kind in self.retry_on
        ):
            raise TypeError(f"retry_on must be a tuple of exception classes, not {self.retry_on!r}")

    def delay(self, attempt: int, chance: float) -> int:
        """Microseconds to wait after failed attempt `attempt` (from 1); `chance` is a random number in [0, 1)."""
        cap = duration_micros(self.cap)
        try:
            ceiling = min(float(cap), duration_micros(self.first_delay) * self.factor ** (attempt - 1))
        except OverflowError:
            ceiling = cap
        return round(ceiling * (chance if self.jitter == "full" else 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryAt:
    """Try again, not before this moment."""

    at: Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """The step has failed. ``exhausted`` tells used-up retries from an error that is never retried."""

    exhausted: bool


AfterFailure: TypeAlias = RetryAt | GiveUp


def after_failure(
    error: BaseException, *, policy: RetryPolicy, max_retries: int, attempt: int, now: Micros, chance: float
) -> AfterFailure:
    """Decide what follows a failed attempt.

    An error with a true ``fatal`` attribute (such as `FatalError`) is never retried; `RetryableError` says itself
    when; other errors follow the policy. At most ``max_retries + 1`` attempts run in all cases.
    """
    if getattr(error, "fatal", False) is True:
        return GiveUp(exhausted=False)
    retryable = isinstance(error, RetryableError)
    if not retryable and not isinstance(error, policy.retry_on):
        return GiveUp(exhausted=False)
    if attempt > max_retries:
        return GiveUp(exhausted=True)
    if isinstance(error, RetryableError):
        try:
            return RetryAt(at=max(now, moment_after(error.retry_after, now)))
        except (TypeError, ValueError):
            pass  # a malformed retry_after must not cost the step its retry
    return RetryAt(at=now + policy.delay(attempt, chance))
