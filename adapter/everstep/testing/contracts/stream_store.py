"""The contract of `everstep.ports.StreamStore`."""

from __future__ import annotations

import pytest

from everstep.ports import Backend, StreamRecord
from everstep.testing.contracts.samples import Contract, in_other_thread, race, run_id

RUN = run_id()


class StreamStoreContract(Contract):
    # --- append ------------------------------------------------------------------------------------

    def test_append_keeps_what_it_is_given(self, backend: Backend) -> None:
        kept = record(0, body=bytes(range(256)))
        assert backend.streams.append(RUN, "main", kept) is True
        assert list(backend.streams.read(RUN, "main", first=0, limit=10)) == [kept]

    def test_append_keeps_large_records(self, backend: Backend) -> None:
        large = record(0, body=b"zlib:" + bytes(range(256)) * 20_000)
        assert backend.streams.append(RUN, "main", large) is True
        assert backend.streams.find(RUN, "main") == large

    def test_append_takes_a_position_once(self, backend: Backend) -> None:
        assert backend.streams.append(RUN, "main", record(0, nonce="first")) is True
        assert backend.streams.append(RUN, "main", record(0, nonce="second", body=b"[]")) is False
        assert backend.streams.find(RUN, "main") == record(0, nonce="first")

    def test_append_repeated_is_ours(self, backend: Backend) -> None:
        backend.streams.append(RUN, "main", record(0))
        backend.streams.append(RUN, "main", record(3))
        assert backend.streams.append(RUN, "main", record(3)) is True
        assert backend.streams.append(RUN, "main", record(0)) is True
        assert len(backend.streams.read(RUN, "main", first=0, limit=10)) == 2

    def test_append_has_one_winner(self, backend: Backend) -> None:
        for position in range(10):
            results = race(6, lambda number, at=position: _append(backend, at, number))  # type: ignore[misc]
            assert sorted(results) == [False] * 5 + [True]
            found = backend.streams.find(RUN, "main")
            assert found is not None
            assert found.nonce == f"{results.index(True)}"

    def test_streams_do_not_meet(self, backend: Backend) -> None:
        places = [(RUN, "main"), (RUN, "mai"), (RUN, "main#"), (RUN, "Main"), (run_id(1), "main"), (RUN, "ü / 🎈 ?")]
        for number, place in enumerate(places):
            assert backend.streams.append(*place, record(0, nonce=f"{number}")) is True
        for number, place in enumerate(places):
            assert list(backend.streams.read(*place, first=0, limit=10)) == [record(0, nonce=f"{number}")]

    # --- read and find -----------------------------------------------------------------------------

    def test_read_is_in_order_and_limited(self, backend: Backend) -> None:
        kept = fill(backend, [0, 1, 9, 10, 11, 100, 2_000])
        assert list(backend.streams.read(RUN, "main", first=0, limit=100)) == kept
        assert list(backend.streams.read(RUN, "main", first=0, limit=3)) == kept[:3]
        assert list(backend.streams.read(RUN, "main", first=10, limit=2)) == kept[3:5]
        assert list(backend.streams.read(RUN, "main", first=12, limit=100)) == kept[5:]
        assert list(backend.streams.read(RUN, "main", first=2_001, limit=100)) == []

    def test_read_of_what_is_not_there(self, backend: Backend) -> None:
        assert list(backend.streams.read(RUN, "main", first=0, limit=1)) == []
        assert backend.streams.find(RUN, "main") is None
        assert backend.streams.find(RUN, "main", 7) is None

    @pytest.mark.parametrize(
        ("position", "first"), [(0, 0), (1, 1), (8, 1), (9, 9), (10, 10), (99, 11), (100, 100), (5_000_000, 100)]
    )
    def test_find_gives_what_holds_the_position(self, backend: Backend, position: int, first: int) -> None:
        fill(backend, [0, 1, 9, 10, 11, 100])
        assert backend.streams.find(RUN, "main", position) == record(first)

    def test_find_without_a_position_gives_the_last(self, backend: Backend) -> None:
        for position in (0, 9, 10, 99, 100):
            backend.streams.append(RUN, "main", record(position))
            assert backend.streams.find(RUN, "main") == record(position)

    def test_what_was_appended_is_found_at_once(self, backend: Backend) -> None:
        for position in range(5):
            backend.streams.append(RUN, "main", record(position))
            found = in_other_thread(lambda at=position: backend.streams.read(RUN, "main", first=at, limit=9))  # type: ignore[misc]
            assert list(found) == [record(position)]

    # --- enter -------------------------------------------------------------------------------------

    def test_enter_keeps_the_first_position(self, backend: Backend) -> None:
        assert backend.streams.enter(RUN, "main", "step_1", 0) == 0
        assert backend.streams.enter(RUN, "main", "step_1", 17) == 0
        assert backend.streams.enter(RUN, "main", "step_2", 17) == 17
        assert backend.streams.enter(RUN, "main", "step_2", 3) == 17

    def test_enter_is_for_a_step_and_a_stream(self, backend: Backend) -> None:
        backend.streams.enter(RUN, "main", "step_1", 5)
        assert backend.streams.enter(RUN, "other", "step_1", 6) == 6
        assert backend.streams.enter(run_id(1), "main", "step_1", 7) == 7

    def test_those_who_enter_at_once_agree(self, backend: Backend) -> None:
        results = race(6, lambda number: backend.streams.enter(RUN, "main", "step_1", number))
        assert len(set(results)) == 1

    def test_who_has_only_entered_is_not_read(self, backend: Backend) -> None:
        backend.streams.enter(RUN, "main", "step_1", 0)
        assert backend.streams.find(RUN, "main") is None
        assert list(backend.streams.read(RUN, "main", first=0, limit=9)) == []
        assert list(backend.streams.names(RUN)) == []
        backend.streams.append(RUN, "main", record(0))
        assert backend.streams.find(RUN, "main") == record(0)

    # --- names -------------------------------------------------------------------------------------

    def test_names_are_those_of_the_run_in_order(self, backend: Backend) -> None:
        for name in ("main", "log", "$system", "Ünïcødé 🎈", "log.2"):
            backend.streams.append(RUN, name, record(0))
            backend.streams.append(RUN, name, record(1))
        backend.streams.append(run_id(1), "other", record(0))
        assert list(backend.streams.names(RUN)) == ["$system", "log", "log.2", "main", "Ünïcødé 🎈"]
        assert list(backend.streams.names(run_id(2))) == []

    def test_streams_do_not_disturb_the_run(self, backend: Backend) -> None:
        backend.streams.append(RUN, "main", record(0))
        backend.streams.enter(RUN, "main", "step_1", 0)
        assert backend.runs.load(RUN) is None
        assert list(backend.steps.failed_attempts(RUN)) == []


def record(first: int, *, nonce: str = "mine", body: bytes = b'[1,"ch"]') -> StreamRecord:
    return StreamRecord(first=first, nonce=nonce, body=body)


def fill(backend: Backend, positions: list[int]) -> list[StreamRecord]:
    """Append a record at each of these positions; the records."""
    records = [record(first) for first in positions]
    for each in records:
        assert backend.streams.append(RUN, "main", each) is True
    return records


def _append(backend: Backend, first: int, number: int) -> bool:
    return backend.streams.append(RUN, "main", record(first, nonce=f"{number}"))
