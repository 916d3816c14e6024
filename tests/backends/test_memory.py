"""What only the memory backend does."""

from __future__ import annotations

import pytest

from everstep.backends.memory import open_memory
from everstep.errors import StoreError
from everstep.testing.contracts.samples import outgoing, run_record, turn


def test_without_atomic_units_each_call_stays() -> None:
    backend = open_memory(atomic_units=False)
    with pytest.raises(ZeroDivisionError), backend.unit():
        backend.runs.create(run_record())
        backend.queue.send([outgoing()])
        raise ZeroDivisionError
    assert backend.inspector.get_run(run_record().run_id) == run_record()
    assert backend.source.next_due() is not None


def test_a_gap_in_a_history_is_refused() -> None:
    backend = open_memory(atomic_units=True)
    backend.runs.append("wrun_1", turn(0))
    with pytest.raises(StoreError, match=r"turn 2 .* does not follow turn 0"):
        backend.runs.append("wrun_1", turn(2))


def test_a_closed_store_says_so() -> None:
    backend = open_memory(atomic_units=True)
    backend.close()
    with pytest.raises(StoreError, match="closed"):
        backend.runs.load("wrun_1")
