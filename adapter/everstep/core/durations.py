"""How long and until when: the forms `sleep`, timeouts and ``retry_after`` accept."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from everstep.core.history import Micros

Duration: TypeAlias = float | timedelta | str
"""Seconds, a `timedelta`, or text such as ``"1h 30m"``."""

When: TypeAlias = Duration | datetime
"""A duration from now, or a moment: a `datetime` with a time zone."""

_UNITS: Final[dict[str, int]] = {
    name: micros
    for names, micros in (
        (("ms", "msec", "msecs", "millisecond", "milliseconds"), 1_000),
        (("s", "sec", "secs", "second", "seconds"), 1_000_000),
        (("m", "min", "mins", "minute", "minutes"), 60_000_000),
        (("h", "hr", "hrs", "hour", "hours"), 3_600_000_000),
        (("d", "day", "days"), 86_400_000_000),
        (("w", "week", "weeks"), 604_800_000_000),
    )
    for name in names
}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)", re.IGNORECASE)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO: Final = timedelta(microseconds=1)
LATEST: Final[Micros] = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) // _MICRO
"""The last moment that can be waited for."""


def to_micros(moment: datetime) -> Micros:
    """The moment as microseconds; a naive `datetime` is a ValueError."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone; give one, for example datetime.now(UTC)")
    return (moment - _EPOCH) // _MICRO


def to_datetime(micros: Micros) -> datetime:
    """The moment as a `datetime` in UTC."""
    return _EPOCH + timedelta(microseconds=micros)


def duration_micros(value: Duration) -> int:
    """A duration in microseconds. ValueError or TypeError when it is none, or negative."""
    if isinstance(value, str):
        micros = _parse(value)
    elif isinstance(value, timedelta):
        micros = value // _MICRO
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if not -1e15 < value < 1e15:  # also refuses nan and the infinities
            raise ValueError(f"{value!r} seconds is not a duration that can be waited for")
        micros = round(value * 1_000_000)
    else:
        raise TypeError(
            f"a duration is seconds, a timedelta or text such as '1h 30m', not {type(value).__name__}: {value!r}"
        )
    if micros < 0:
        raise ValueError(f"a duration cannot be negative: {value!r}")
    return micros


def moment_after(value: When, now: Micros) -> Micros:
    """The moment a `When` means at `now`; at most the year 9999."""
    due = to_micros(value) if isinstance(value, datetime) else now + duration_micros(value)
    return min(due, LATEST)


def _parse(text: str) -> int:
    total = 0.0
    position = 0
    stripped = text.strip()
    while position < len(stripped):
        match = _PART.match(stripped, position)
        unit = _UNITS.get(match[2].lower()) if match else None
        if match is None or unit is None:
            break
        total += float(match[1]) * unit
        position = match.end()
        while position < len(stripped) and stripped[position] in " ,":
            position += 1
    if not stripped or position < len(stripped):
        raise ValueError(
            f"cannot read {text!r} as a duration: write numbers with units, such as '90s', '1h 30m' or '2 days' "
            f"(units: ms, s, m, h, d, w), or give seconds as a number"
        )
    return round(total)
