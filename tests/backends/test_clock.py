"""The virtual clock of the test kit."""

from __future__ import annotations

from datetime import timedelta

import pytest

from everstep.ports import Clock
from everstep.testing.clock import VirtualClock
from everstep.testing.contracts.samples import race


def test_it_stands_still() -> None:
    clock: Clock = VirtualClock(start=5)
    assert clock.now() == clock.now() == 5


def test_it_advances() -> None:
    clock = VirtualClock(start=5)
    assert clock.advance(7) == 12
    assert clock.advance(timedelta(seconds=1)) == clock.now() == 1_000_012


def test_it_goes_back_only_when_set() -> None:
    clock = VirtualClock(start=5)
    with pytest.raises(ValueError, match="set"):
        clock.advance(-1)
    clock.set(3)
    assert clock.now() == 3


def test_no_advance_is_lost() -> None:
    clock = VirtualClock(start=0)
    race(8, lambda _: [clock.advance(1) for _ in range(500)])
    assert clock.now() == 4000
