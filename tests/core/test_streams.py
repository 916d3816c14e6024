"""Positions, indexes and views."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everstep.core.streams import View

ranges = st.tuples(st.integers(0, 30), st.integers(1, 6)).map(lambda pair: (pair[0], pair[0] + pair[1]))
views = st.lists(ranges, max_size=6).map(lambda gaps: View(number=1, gaps=View().gaps_and(gaps)))


@settings(max_examples=300)
@given(view=views)
def test_indexes_number_what_counts(view: View) -> None:
    counted = [position for position in range(60) if view.counts(position)]
    for index, position in enumerate(counted):
        assert view.index_of(position) == index
        assert view.position_of(index) == position
    for position in range(60):
        assert view.index_of(position) == sum(each < position for each in counted)


@settings(max_examples=300)
@given(view=views, more=st.lists(ranges, max_size=4))
def test_gaps_are_merged(view: View, more: list[tuple[int, int]]) -> None:
    newer = View(number=2, gaps=view.gaps_and(more))
    for position in range(60):
        in_more = any(begin <= position < end for begin, end in more)
        assert newer.counts(position) == (view.counts(position) and not in_more)
    assert all(earlier[1] < later[0] for earlier, later in zip(newer.gaps, newer.gaps[1:], strict=False))


@settings(max_examples=300)
@given(old=views, newer=views, before=st.integers(0, 50))
def test_the_first_that_was_lost(old: View, newer: View, before: int) -> None:
    lost = [position for position in range(before) if old.counts(position) and not newer.counts(position)]
    assert old.first_lost(newer, before) == (lost[0] if lost else None)


@pytest.mark.parametrize(("gaps", "index", "position"), [((), 7, 7), (((0, 3),), 0, 3), (((1, 2), (4, 9)), 3, 9)])
def test_positions_by_example(gaps: tuple[tuple[int, int], ...], index: int, position: int) -> None:
    assert View(number=1, gaps=gaps).position_of(index) == position
