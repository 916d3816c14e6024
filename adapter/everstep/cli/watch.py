"""Show a run while it runs: a live display on a terminal, a line for each thing that happens elsewhere."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Protocol

from everstep.cli.board import Board, Ended, Look, ended_lines, frame, more_lines, plain_line
from everstep.cli.console import Console, can_redraw, size_of
from everstep.cli.text import clock_text, one_line
from everstep.core.history import Micros
from everstep.errors import EverstepError
from everstep.ports import Clock
from everstep.runtime.progress import Progress, RunClosed

FRAME_SECONDS: Final = 0.1
_LOOK_AFTER: Final = 3
"""Frames without progress after which the store is asked what the run waits for."""


class Watch(Protocol):
    """Something that is told of progress between entering and leaving it."""

    def tell(self, progress: Progress) -> None: ...

    def __enter__(self) -> Watch: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def warn(console: Console, warnings: Sequence[str]) -> None:
    """Show what was found suspicious in workflow bodies."""
    for each in warnings:
        console.say(f"{console.style.paint('warning', 'yellow')}: {one_line(each)}")


def watch(console: Console, title: str, board: Board, clock: Clock, look: Look, *, quiet: bool) -> Watch:
    """What fits the terminal.

    Args:
        look: reads what is recorded of the run: progress does not tell which timers were cancelled, nor what an
            earlier process left.
    """
    if quiet:
        return _Quiet()
    if can_redraw(console.err, os.environ):
        return _Live(console, title, board, clock, look)
    return _Plain(console, board, clock)


class _Quiet:
    def tell(self, progress: Progress) -> None:
        pass

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class _Plain:
    def __init__(self, console: Console, board: Board, clock: Clock) -> None:
        self._console = console
        self._board = board
        self._clock = clock

    def tell(self, progress: Progress) -> None:
        if isinstance(progress, RunClosed) and progress.continued_to is None:
            return  # the command says it, with the time it took
        ended = self._board.tell(progress)
        now = self._clock.now()
        self._console.say(f"{clock_text(now)} {plain_line(progress, ended, self._board, now=now)}")

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class _Live:
    """Draws from a thread of its own: the engine only appends to a queue, and time goes on when a body blocks."""

    def __init__(self, console: Console, title: str, board: Board, clock: Clock, look: Look) -> None:
        self._console = console
        self._title = title
        self._board = board
        self._clock = clock
        self._look = look
        self._told: deque[Progress | Sequence[str]] = deque()
        self._over = threading.Event()
        self._tick = 0
        self._still = 0
        self._since: Micros = clock.now()
        self._thread = threading.Thread(target=self._draw_on, name="everstep-display", daemon=True)

    def tell(self, progress: Progress) -> None:
        self._told.append(progress)

    def __enter__(self) -> Watch:
        self._console.send_lines(self._told.append)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._console.draw(self._take(), ())
        self._console.send_lines(None)
        width = size_of(self._console.err)[0] - 1
        last = more_lines(self._board, style=self._console.style, width=width)
        self._console.draw([*self._take(), *last], ())

    def _draw_on(self) -> None:
        while not self._over.wait(FRAME_SECONDS):
            self._draw()

    def _draw(self) -> None:
        self._still = 0 if self._told else self._still + 1
        above = self._take()
        if self._still == _LOOK_AFTER and not self._board.running:
            try:
                self._board.look(*self._look())
            except EverstepError:  # only a display: the next quiet moment will do
                pass
        width, height = size_of(self._console.err)
        below = frame(
            self._board,
            self._title,
            since=self._since,
            now=self._clock.now(),
            tick=self._tick,
            width=width - 1,
            height=height,
            style=self._console.style,
        )
        self._tick += 1
        self._console.draw(above, below)

    def _take(self) -> list[str]:
        """Take in what was told since the last frame: lines about what has ended, and what others have printed."""
        lines: list[str] = []
        ended: list[Ended] = []
        width = size_of(self._console.err)[0] - 1
        while self._told:
            told = self._told.popleft()
            if isinstance(told, Sequence):
                lines += ended_lines(ended, self._board, style=self._console.style, width=width)
                lines += told
                ended = []
            elif (found := self._board.tell(told)) is not None:
                ended.append(found)
        return lines + ended_lines(ended, self._board, style=self._console.style, width=width)
