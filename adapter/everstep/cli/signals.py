"""Ctrl-C and SIGTERM in stages: ask, then insist."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from everstep.cli.exits import ExitCode


class Signals:
    """Which signal came, if any."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.count = 0

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.TERMINATED if self.number == signal.SIGTERM else ExitCode.INTERRUPTED


@contextmanager
def staged(stages: Sequence[Callable[[], None]], *, last: Callable[[], None] = lambda: None) -> Iterator[Signals]:
    """Within the block the first SIGINT or SIGTERM calls the first stage, and so on; after those, the process ends.

    `last` is called just before that.
    The stages are called in the main thread between two bytecodes of whatever runs there, even of a loop that never
    yields.
    """
    signals = Signals()

    def handle(number: int, _frame: FrameType | None) -> None:
        signals.number = number
        signals.count += 1
        if signals.count <= len(stages):
            stages[signals.count - 1]()
        else:
            last()
            os._exit(signals.exit_code)

    previous: dict[signal.Signals, Any] = {
        number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
