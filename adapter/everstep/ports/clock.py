"""The port for time."""

from __future__ import annotations

from typing import Protocol

from everstep.core.history import Micros


class Clock(Protocol):
    """Where the runtime reads the time."""

    def now(self) -> Micros:
        """The present moment. May go backwards; the runtime allows for it."""
        ...
