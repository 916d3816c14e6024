"""A clock that stands still until it is told to move."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Final, final

from everstep.core.history import Micros

START: Final[Micros] = 1_750_000_000_000_000
"""2025-06-15T15:06:40Z: a plausible present, the same in every test."""


@final
class VirtualClock:
    """Implements `everstep.ports.Clock` for tests and simulations. Thread-safe.

    It goes forward by `advance`; only `set` can turn it back, to test what happens then.
    """

    def __init__(self, start: Micros = START) -> None:
        self._now = start
        self._lock = threading.Lock()

    def now(self) -> Micros:
        return self._now

    def advance(self, by: Micros | timedelta) -> Micros:
        """Go forward by so many microseconds, or by a `timedelta`; say what time it is then."""
        micros = by // timedelta(microseconds=1) if isinstance(by, timedelta) else by
        if micros < 0:
            raise ValueError(f"a clock does not go back by {-micros} µs by itself: use set() to turn it back")
        with self._lock:
            self._now += micros
            return self._now

    def set(self, to: Micros) -> None:
        """Make it this time, even an earlier one."""
        with self._lock:
            self._now = to
