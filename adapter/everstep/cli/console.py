"""The terminal of this process: lines that stay, below them a few that change, and what the user's code prints.

While workflows run, what they print goes to stderr, so that stdout holds the result and nothing else, and it goes
through here, so that it does not tear the changing lines apart.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from everstep.cli.exits import Exit, ExitCode
from everstep.cli.styles import Style
from everstep.cli.text import width_of


def style_of(stream: TextIO, environment: Mapping[str, str]) -> Style:
    """What the stream can show. ``NO_COLOR`` (https://no-color.org) turns colours off."""
    terminal = stream.isatty() and environment.get("TERM") != "dumb"
    encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "").replace("_", "")
    return Style(color=terminal and not environment.get("NO_COLOR"), symbols=encoding.startswith("utf"))


def can_redraw(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether the stream is a terminal on which lines can be drawn again."""
    return stream.isatty() and environment.get("TERM", "dumb") != "dumb"


def size_of(stream: TextIO) -> tuple[int, int]:
    """Columns and lines of the terminal."""
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return 80, 24
    return size.columns or 80, size.lines or 24


def width_if_terminal(stream: TextIO) -> int | None:
    """The columns lines must fit into; None when they may have any length: a file, a pipe."""
    return size_of(stream)[0] if stream.isatty() else None


def redraw(previous: Sequence[str], above: Sequence[str], below: Sequence[str], width: int) -> str:
    """What to write to replace the lines `previous` by the lines `above`, which stay, and `below`, which change.

    The cursor is at the beginning of the line after them, before and afterwards. All is one text, and each line is
    overwritten before the rest of it is erased, so nothing flickers. Lines that were drawn on a wider terminal
    have been wrapped meanwhile, which is allowed for.
    """
    rows = sum(max(1, -(-width_of(line) // max(width, 1))) for line in previous)
    up = f"\x1b[{rows}A\r" if rows else ""
    return up + "".join(f"{line}\x1b[K\n" for line in (*above, *below)) + ("\x1b[J" if rows else "")


def write_data(stream: TextIO, text: str) -> None:
    """Write a line of data. Ends the command when nobody reads any more."""
    try:
        try:
            stream.write(text + "\n")
        except UnicodeEncodeError:
            stream.write(text.encode("ascii", "backslashreplace").decode() + "\n")
        stream.flush()
    except BrokenPipeError:
        raise Exit(ExitCode.BROKEN_PIPE) from None


class _OneByOne:
    """Writes texts one after the other, also one that a signal brings in the middle of another.

    A buffered stream refuses to be entered twice. Called by one thread at a time.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._do = write
        self._waiting: deque[str] = deque()
        self._writing = False

    def write(self, text: str) -> None:
        self._waiting.append(text)
        while self._waiting and not self._writing:
            self._writing = True
            try:
                if self._waiting:  # a signal may have come since it was asked, and have had them written
                    self._do(self._waiting.popleft())
            finally:
                self._writing = False


class Console:
    """stdout and stderr of this process. Safe to use from threads and from signal handlers.

    `attach` puts it in the place of ``sys.stdout`` and ``sys.stderr``, for all that others print.
    """

    def __init__(self, out: TextIO, err: TextIO, *, keep_stdout: bool = False) -> None:
        self.out = out
        self.err = err
        self.style = style_of(err, os.environ)
        self._lock = threading.RLock()
        self._to_out = _OneByOne(lambda text: write_data(out, text))
        self._to_err = _OneByOne(self._put)
        self._region: list[str] = []
        self._sink: Callable[[Sequence[str]], None] | None = None
        self._at_line_start = True
        self._passages = (self.out if keep_stdout else _Passage(self), _Passage(self))

    def attach(self) -> None:
        sys.stdout, sys.stderr = self._passages

    def detach(self) -> None:
        for passage in self._passages:
            if isinstance(passage, _Passage):
                passage.drain()
        sys.stdout, sys.stderr = self.out, self.err

    def say(self, *lines: str) -> None:
        """Write lines to stderr, for people, above the changing ones."""
        with self._lock:
            if self._sink is not None:
                self._sink(lines)
            else:
                begin = "" if self._at_line_start else "\n"
                self._write(begin + "".join(f"{line}\n" for line in lines))

    def data(self, text: str) -> None:
        """Write a line of data to stdout."""
        with self._lock:
            self._to_out.write(text)

    def send_lines(self, sink: Callable[[Sequence[str]], None] | None) -> None:
        """From now on, hand what is said and printed to whoever draws the changing lines, to draw it above them."""
        with self._lock:
            self._sink = sink

    def draw(self, above: Sequence[str], below: Sequence[str]) -> None:
        """Show these lines at the bottom, and those above them for good."""
        with self._lock:
            if above or list(below) != self._region:
                self._write(redraw(self._region, above, below, size_of(self.err)[0]))
            self._region = list(below)

    def _write(self, text: str) -> None:
        if not text:
            return
        self._at_line_start = text.endswith("\n")
        self._to_err.write(text)

    def _put(self, text: str) -> None:
        try:
            self.err.write(text)
        except UnicodeEncodeError:
            self.err.write(text.encode("ascii", "backslashreplace").decode())
        except (OSError, ValueError):  # nobody reads it any more: that must not stop the work
            return
        try:
            self.err.flush()
        except (OSError, ValueError):
            return


class _Passage(io.TextIOBase):
    """What stands in for ``sys.stdout`` and ``sys.stderr``: text goes to the console, whole lines at a time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rest = ""

    def write(self, text: str) -> int:
        console = self._console
        with console._lock:
            if console._sink is None and not self._rest:
                console._write(text)
                return len(text)
            whole, newline, self._rest = (self._rest + text).rpartition("\n")
            if newline:
                console.say(*whole.split("\n"))
        return len(text)

    def drain(self) -> None:
        """Write what has no line end yet."""
        with self._console._lock:
            if self._rest:
                self._console.say(self._rest)
                self._rest = ""

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return self._console.err.isatty()

    def fileno(self) -> int:
        return self._console.err.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._console.err.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._console.err.errors

    @property
    def buffer(self) -> Any:
        return self._console.err.buffer
