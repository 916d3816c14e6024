"""What a worker tells whoever watches it. For people; nothing depends on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from everstep.core.history import Micros
from everstep.core.run import RunStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStarted:
    """A worker began an attempt at a step."""

    run_id: str
    op: int
    step: str
    attempt: int
    at: Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSucceeded:
    """The attempt returned and its outcome is recorded."""

    run_id: str
    op: int
    step: str
    attempt: int
    at: Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed:
    """The attempt failed. ``retry_at`` is None when it was the last."""

    run_id: str
    op: int
    step: str
    attempt: int
    at: Micros
    error: bytes
    retry_at: Micros | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerStarted:
    """The run waits until ``due``."""

    run_id: str
    op: int
    due: Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class RunClosed:
    """The run has ended, or went on as another."""

    run_id: str
    status: RunStatus
    continued_to: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunParked:
    """The run cannot go on with this code."""

    run_id: str
    reason: str


Progress: TypeAlias = AttemptStarted | AttemptSucceeded | AttemptFailed | TimerStarted | RunClosed | RunParked
Observer: TypeAlias = Callable[[Progress], None]
