"""Lines that stay above lines that change, and what others print in between."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

import pytest

from everstep.cli.console import Console, can_redraw, redraw, style_of
from everstep.cli.text import width_of
from tests.cli.screen import Screen


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def screen_after(*texts: str, width: int = 80) -> list[str]:
    screen = Screen(width)
    for text in texts:
        screen.feed(text)
    assert screen.unknown == []
    return screen.lines


# --- drawing ---------------------------------------------------------------------------------------


def test_changing_lines_are_replaced_and_others_stay():
    first = redraw([], ["a"], ["spin 1", "total 1"], 80)
    second = redraw(["spin 1", "total 1"], ["b"], ["spin 2"], 80)
    assert screen_after(first) == ["a", "spin 1", "total 1"]
    assert screen_after(first, second) == ["a", "b", "spin 2"]
    assert screen_after(first, second, redraw(["spin 2"], ["c"], [], 80)) == ["a", "b", "c"]


def test_a_shorter_line_leaves_nothing_of_the_longer_one():
    assert screen_after(redraw([], [], ["a long line"], 80), redraw(["a long line"], [], ["x"], 80)) == ["x"]


def test_one_frame_is_one_text_that_never_shows_an_empty_screen():
    text = redraw(["a", "b"], [], ["a", "c"], 80)
    screen = Screen()
    screen.feed("a\nb\n")
    for piece in re.findall(r"\x1b\[\d*[A-Z]|.", text, re.DOTALL):
        screen.feed(piece)
        assert screen.lines[0] == "a"
        assert screen.lines[1] in ("b", "c")
    assert screen.lines == ["a", "c"]


def test_lines_that_wrapped_because_the_terminal_became_narrower_are_all_replaced():
    screen = Screen(width=10)
    screen.feed("0123456789abcdef\nx\n")  # 2 rows and 1 row
    screen.feed(redraw(["0123456789abcdef", "x"], [], ["new"], 10))
    assert screen.lines == ["new"]


def test_colours_take_no_width():
    assert width_of("\x1b[31mred\x1b[0m") == 3
    assert redraw(["\x1b[31m" + "x" * 10 + "\x1b[0m"], [], [], 10).startswith("\x1b[1A")


# --- what a stream can show ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "color", "live"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, False, False),
        ({}, True, False),
    ],
)
def test_terminals(environment, color, live):
    terminal = Terminal()
    assert style_of(terminal, environment).color is color
    assert can_redraw(terminal, environment) is live
    assert not can_redraw(io.StringIO(), environment)
    assert not style_of(io.StringIO(), environment).color


def test_a_stream_without_unicode_gets_ascii_symbols():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert not style_of(stream, {}).symbols


# --- what others print -----------------------------------------------------------------------------


@contextmanager
def attached() -> Iterator[Console]:
    """A console in the place of this process's streams. Not a fixture: pytest changes the streams after those."""
    streams = sys.stdout, sys.stderr
    console = Console(io.StringIO(), Terminal())
    console.attach()
    try:
        yield console
    finally:
        console.detach()
        sys.stdout, sys.stderr = streams


def written(stream: TextIO) -> str:
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def test_what_is_printed_goes_to_stderr_and_data_to_stdout():
    with attached() as console:
        print("from a step")
        print("a warning", file=sys.stderr)
        console.data('{"a": 1}')
    assert written(console.out) == '{"a": 1}\n'
    assert written(console.err) == "from a step\na warning\n"


def test_while_lines_change_whole_lines_go_to_whoever_draws() -> None:
    taken: list[str] = []
    with attached() as console:
        console.send_lines(taken.extend)
        print("half", end="")
        assert taken == []
        print(" and half\nnext")
        handler = logging.StreamHandler()
        handler.emit(logging.LogRecord("test", logging.WARNING, "", 0, "logged", (), None))
        assert taken == ["half and half", "next", "logged"]
        print("rest", end="")
        console.send_lines(None)
    assert written(console.err) == "rest\n"


def test_lines_from_many_threads_stay_whole() -> None:
    taken: list[str] = []

    def print_lines(number: int) -> None:
        for _ in range(50):
            sys.stdout.write(f"{number} " * 20 + "\n")

    with attached() as console:
        console.send_lines(taken.extend)
        threads = [threading.Thread(target=print_lines, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        console.send_lines(None)
    assert sorted(taken) == sorted(f"{number} " * 20 for number in range(4) for _ in range(50))


class Interrupted(Terminal):
    """A stream that a signal interrupts in the middle of a write, and that refuses to be entered again, as files do."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = False
        self.handlers: list[Callable[[], None]] = []

    def write(self, text: str) -> int:
        if self.entered:
            raise RuntimeError("reentrant call")
        self.entered = True
        try:
            if self.handlers:
                self.handlers.pop()()
            return super().write(text)
        finally:
            self.entered = False


def test_what_a_signal_handler_says_in_the_middle_of_a_line_comes_after_it() -> None:
    console = Console(Interrupted(), Interrupted())
    for stream, write in ((console.err, console.say), (console.out, console.data)):
        assert isinstance(stream, Interrupted)
        stream.handlers = [lambda write=write: write("stopping")]  # type: ignore[misc]
        write("a line")
        write("another")
        assert written(stream) == "a line\nstopping\nanother\n"


def test_what_is_said_begins_on_a_line_of_its_own():
    with attached() as console:
        print("half", end="")
        console.say("said")
    assert written(console.err) == "half\nsaid\n"


def test_an_unchanged_frame_is_not_written_again():
    console = Console(io.StringIO(), Terminal())
    console.draw((), ["same"])
    before = written(console.err)
    console.draw((), ["same"])
    assert written(console.err) == before


def test_a_reader_that_has_gone_does_not_stop_the_work():
    console = Console(io.StringIO(), Terminal())
    console.err.close()
    console.say("nobody hears this")


# --- the real thing --------------------------------------------------------------------------------


def test_on_a_terminal_the_display_leaves_a_clean_screen(folder):
    main, side = pty.openpty()
    environment = {**folder.environment, "TERM": "xterm", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(
        [sys.executable, "-m", "everstep", "run", "shop:greet", "--input", '{"name": "Ada", "times": 9}'],
        cwd=folder.path,
        env=environment,
        stdin=side,
        stdout=side,
        stderr=side,
    )
    os.close(side)
    data = b""
    while True:
        try:
            chunk = os.read(main, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not chunk:
            break
        data += chunk
    os.close(main)
    assert process.wait(20) == 0
    screen = Screen(80)
    screen.feed(data.decode())
    assert screen.unknown == []
    text = "\n".join(screen.lines)
    assert "of greet" in screen.lines[0]
    assert text.count("✓ salute  ") == 5
    assert text.count("a step prints") == 9
    assert "✓ salute × 4 more, up to" in text
    assert "✓ greet completed in" in text
    assert '[\n  "Hello Ada",' in text
    assert "steps done" not in text
