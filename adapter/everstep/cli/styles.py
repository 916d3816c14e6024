"""How a terminal is written to: colours and symbols, if it has them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_CODES: Final = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """What a stream can show.

    Attributes:
        color: ANSI colours.
        symbols: characters beyond ASCII.
    """

    color: bool = False
    symbols: bool = True

    def paint(self, text: str, *names: str) -> str:
        if not self.color or not names or not text:
            return text
        return f"\x1b[{';'.join(_CODES[name] for name in names)}m{text}\x1b[0m"

    def symbol(self, name: str) -> str:
        fancy, plain = _SYMBOLS[name]
        return fancy if self.symbols else plain

    def spinner(self, frame: int) -> str:
        frames = _SPINNER if self.symbols else _PLAIN_SPINNER
        return frames[frame % len(frames)]

    def status(self, status: str) -> str:
        """A status or state in its colour."""
        return self.paint(status, *_STATUS_COLORS.get(status, ()))


_SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_PLAIN_SPINNER: Final = "|/-\\"
_SYMBOLS: Final = {
    "done": ("✓", "+"),
    "failed": ("✗", "x"),
    "retry": ("↻", "~"),
    "timer": ("◷", "@"),
    "parked": ("■", "#"),
    "continued": ("↪", ">"),
    "times": ("×", "x"),
    "dot": ("·", "-"),
    "arrow": ("→", "->"),
    "back": ("←", "<-"),
    "ellipsis": ("…", "..."),
}
_STATUS_COLORS: Final = {
    "completed": ("green",),
    "fired": ("green",),
    "failed": ("red",),
    "parked": ("magenta",),
    "retrying": ("yellow",),
    "running": ("cyan",),
    "waiting": ("cyan",),
    "pending": ("dim",),
    "cancelled": ("dim",),
    "continued": ("dim",),
    "abandoned": ("dim",),
}
