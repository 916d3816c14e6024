"""Text for terminals: durations, moments, widths, tables. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo
from typing import Final

from everstep.core.durations import to_datetime
from everstep.core.history import Micros

SECOND: Final = 1_000_000
_MINUTE: Final = 60 * SECOND
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_ANSI: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def duration_text(micros: int) -> str:
    """A length of time in the two units that matter: ``12 ms``, ``3.4 s``, ``2 m 5 s``, ``1 d 3 h``."""
    if micros < 1000:
        return f"{max(micros, 0)} µs"
    if micros < SECOND:
        return f"{micros // 1000} ms"
    if micros < 100 * SECOND:
        return f"{micros // (SECOND // 10) / 10:.1f} s"
    for unit, name, below, below_name in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "m"),
        (_MINUTE, "m", SECOND, "s"),
    ):
        if micros >= unit:
            rest = micros % unit // below
            return f"{micros // unit} {name}" + (f" {rest} {below_name}" if rest else "")
    raise AssertionError(micros)


def rough_text(micros: int) -> str:
    """A length of time in one unit, for ages: ``now``, ``12 s``, ``3 m``, ``2 h``, ``5 d``."""
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "m"), (SECOND, "s")):
        if micros >= unit:
            return f"{micros // unit} {name}"
    return "now"


def moment_text(moment: Micros, zone: tzinfo | None = None) -> str:
    """Date and time, to the second, in `zone` or the machine's."""
    return to_datetime(moment).astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")


def clock_text(moment: Micros, zone: tzinfo | None = None) -> str:
    """Time of day to the millisecond."""
    local = to_datetime(moment).astimezone(zone)
    return f"{local:%H:%M:%S}.{local.microsecond // 1000:03d}"


def age_text(moment: Micros, now: Micros) -> str:
    """How long ago, or in how long."""
    away = now - moment
    if abs(away) < SECOND:
        return "now"
    return f"{rough_text(away)} ago" if away > 0 else f"in {rough_text(-away)}"


def moment_and_age(moment: Micros, now: Micros, zone: tzinfo | None = None) -> str:
    return f"{moment_text(moment, zone)} ({age_text(moment, now)})"


def iso_text(moment: Micros) -> str:
    """ISO 8601 in UTC with microseconds, always of the same length: for programs."""
    return to_datetime(moment).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_moment(text: str) -> datetime | None:
    """An ISO 8601 date or time; without an offset it is local. None when it is neither."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.astimezone() if moment.tzinfo is None else moment


# --- widths ----------------------------------------------------------------------------------------


def one_line(text: str) -> str:
    """The text without line ends and control characters, which would move the cursor or change colours."""
    if text.isascii() and text.isprintable():
        return text
    spaced = " ".join(_ANSI.sub("", text).split())
    return "".join(each for each in spaced if each == " " or unicodedata.category(each) not in ("Cc", "Cf", "Cs", "Co"))


def width_of(text: str) -> int:
    """The columns a text takes. Colours take none."""
    if "\x1b" in text:
        text = _ANSI.sub("", text)
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def fit(text: str, width: int, *, ellipsis: str = "…") -> str:
    """The text, cut to `width` columns."""
    if width_of(text) <= width:
        return text
    room = width - width_of(ellipsis)
    taken = []
    for character in text:
        room -= _columns(character)
        if room < 0:
            break
        taken.append(character)
    return "".join(taken).rstrip() + ellipsis if width > 0 else ""


def pad(text: str, width: int, *, right: bool = False) -> str:
    """The text, filled up to `width` columns; at its left side if `right`."""
    gap = " " * max(width - width_of(text), 0)
    return gap + text if right else text + gap


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: frozenset[int] = frozenset(),
    width: int | None = None,
) -> list[str]:
    """Aligned lines, two spaces between columns.

    Args:
        right: the columns that are aligned to the right.
        width: cut the last column so that lines fit; None: never.
    """
    widths = [max(width_of(row[column]) for row in (headers, *rows)) for column in range(len(headers))]
    lines = []
    for row in (headers, *rows):
        cells = [pad(cell, widths[column], right=column in right) for column, cell in enumerate(row)]
        line = "  ".join(cells).rstrip()
        lines.append(line if width is None else fit(line, max(width, 40)))
    return lines
