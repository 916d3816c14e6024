"""Durations, moments, widths, tables."""

from __future__ import annotations

from datetime import UTC, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep.cli.text import (
    age_text,
    duration_text,
    fit,
    iso_text,
    moment_and_age,
    moment_text,
    one_line,
    pad,
    parse_moment,
    table,
    width_of,
)

SECOND = 1_000_000
MOMENT = 1_750_000_000_123_456


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "0 µs"),
        (999, "999 µs"),
        (1000, "1 ms"),
        (999_999, "999 ms"),
        (SECOND, "1.0 s"),
        (99_990_000, "99.9 s"),
        (100 * SECOND, "1 m 40 s"),
        (3600 * SECOND, "1 h"),
        (3661 * SECOND, "1 h 1 m"),
        (90_000 * SECOND, "1 d 1 h"),
        (-5, "0 µs"),
    ],
)
def test_durations(micros, text):
    assert duration_text(micros) == text


def test_moments_are_local_and_for_programs_in_utc():
    assert moment_text(MOMENT, timezone(timedelta(hours=2))) == "2025-06-15 17:06:40"
    assert iso_text(MOMENT) == "2025-06-15T15:06:40.123456Z"
    assert iso_text(MOMENT - 123_456) == "2025-06-15T15:06:40.000000Z"
    assert moment_and_age(MOMENT, MOMENT + 200 * SECOND, UTC) == "2025-06-15 15:06:40 (3 m ago)"
    assert age_text(MOMENT, MOMENT - 7200 * SECOND) == "in 2 h"
    assert age_text(MOMENT, MOMENT) == "now"


def test_a_moment_without_an_offset_is_local():
    moment = parse_moment("2025-06-15T12:00")
    assert moment is not None
    assert moment.tzinfo is not None
    assert parse_moment("2025-06-15T12:00Z") is not None
    assert parse_moment("an hour ago") is None


def test_one_line_has_no_control_characters():
    assert one_line("a\n  b\tc\x00\x1b[1;31md\u202e") == "a b cd"
    assert one_line("plain") == "plain"


@given(st.text(), st.integers(min_value=1, max_value=40))
def test_a_text_that_was_cut_fits(text, width):
    line = one_line(text)
    assert width_of(fit(line, width)) <= width
    assert width_of(pad(fit(line, width), width)) == width


def test_tables_are_aligned_also_with_wide_characters():
    assert table(["A", "NUMBER"], [["名", "1"], ["abc", "22"]], right=frozenset({1})) == [
        "A    NUMBER",
        "名        1",
        "abc      22",
    ]
    assert table(["A"], [["x" * 60]], width=50)[1] == "x" * 49 + "…"
