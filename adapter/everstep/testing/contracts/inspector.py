"""The contract of `everstep.ports.Inspector`."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from everstep.core.run import Closed, Parked, Paused, Published, RunStatus, Started, Unparked, Unpaused
from everstep.errors import ConfigurationError
from everstep.ports import Backend, RunQuery
from everstep.testing.contracts.samples import NOW, Contract, problem, run_id, run_record, turn


class InspectorContract(Contract):
    # --- one run -----------------------------------------------------------------------------------

    def test_get_run(self, backend: Backend) -> None:
        assert backend.inspector.get_run(run_id()) is None
        backend.runs.create(run_record(attributes={"a": "b"}))
        assert backend.inspector.get_run(run_id()) == run_record(attributes={"a": "b"})

    def test_history(self, backend: Backend) -> None:
        assert list(backend.inspector.history(run_id())) == []
        for number in range(11):
            backend.runs.append(run_id(), turn(number))
        backend.runs.append(run_id(1), turn())
        assert list(backend.inspector.history(run_id())) == [turn(number) for number in range(11)]

    # --- conditions --------------------------------------------------------------------------------

    def test_a_list_of_nothing(self, backend: Backend) -> None:
        page = backend.inspector.list_runs(RunQuery())
        assert (list(page.runs), page.cursor) == ([], None)

    def test_runs_are_listed_whole_and_newest_first(self, backend: Backend) -> None:
        for number in (3, 1, 4, 0, 2):
            backend.runs.create(run_record(number, attributes={"n": f"{number}"}))
        page = backend.inspector.list_runs(RunQuery())
        assert list(page.runs) == [run_record(n, attributes={"n": f"{n}"}) for n in (4, 3, 2, 1, 0)]
        assert page.cursor is None

    def test_by_workflow(self, backend: Backend) -> None:
        for number in range(6):
            backend.runs.create(run_record(number, workflow=f"workflow-{number % 2}"))
        assert _list(backend, workflow="workflow-1") == [5, 3, 1]
        assert _list(backend, workflow="workflow") == []

    def test_by_status_as_shown(self, backend: Backend) -> None:
        for number in range(12):
            backend.runs.create(run_record(number))
        for number in range(2, 11):
            backend.runs.append(run_id(number), turn())
            backend.runs.mark(run_id(number), Started(at=NOW))
        for number, status in enumerate(("completed", "failed", "cancelled", "continued"), 4):
            backend.runs.mark(run_id(number), Closed(at=NOW, status=RunStatus(status)))
        backend.runs.mark(run_id(8), Parked(problem=problem()))
        backend.runs.mark(run_id(1), Parked(problem=problem()))
        backend.runs.mark(run_id(9), Parked(problem=problem()))
        backend.runs.mark(run_id(9), Unparked())
        for number in (8, 9, 10, 11):
            backend.runs.mark(run_id(number), Paused(at=NOW))
        backend.runs.mark(run_id(9), Unpaused())
        assert {status.value: _list(backend, status=status) for status in RunStatus} == {
            "pending": [0],
            "running": [9, 3, 2],
            "parked": [8, 1],
            "paused": [11, 10],
            "completed": [4],
            "failed": [5],
            "cancelled": [6],
            "continued": [7],
        }

    def test_by_time(self, backend: Backend) -> None:
        for number in range(6):
            backend.runs.create(run_record(number))
        assert _list(backend, created_from=NOW + 4) == [5, 4]
        assert _list(backend, created_before=NOW + 2) == [1, 0]
        assert _list(backend, created_from=NOW + 2, created_before=NOW + 4) == [3, 2]
        assert _list(backend, created_from=NOW + 6) == []

    def test_by_attributes(self, backend: Backend) -> None:
        for number in range(8):
            attributes = {"even": f"{number % 2 == 0}", "half": f"{number // 4}", "näme": "ü\"'%"}
            backend.runs.create(run_record(number, attributes=attributes if number else {}))
        assert _list(backend, attributes={"even": "True"}) == [6, 4, 2]
        assert _list(backend, attributes={"even": "True", "half": "1"}) == [6, 4]
        assert _list(backend, attributes={"half": "1", "even": "False", "näme": "ü\"'%"}) == [7, 5]
        assert _list(backend, attributes={"even": "1"}) == []
        assert _list(backend, attributes={"unknown": "True"}) == []

    def test_all_conditions_must_hold(self, backend: Backend) -> None:
        for number in range(16):
            backend.runs.create(
                run_record(number, workflow=f"w{number & 1}", attributes={"a": f"{number & 2}", "b": "same"})
            )
            if number & 4:
                backend.runs.mark(run_id(number), Closed(at=NOW, status=RunStatus.FAILED))
        attributes = {"b": "same", "a": "2"}
        conditions: dict[str, Any] = {"workflow": "w1", "status": RunStatus.FAILED, "attributes": attributes}
        assert _list(backend, **conditions) == [15, 7]
        assert _list(backend, **conditions, created_before=NOW + 15) == [7]
        assert _list(backend, **conditions, created_from=NOW + 8) == [15]

    # --- pages -------------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7])
    def test_pages_have_no_gaps_and_no_repeats(self, backend: Backend, size: int) -> None:
        for number in range(6):  # two and two created in the same moment
            backend.runs.create(run_record(number, created_at=NOW + number // 2))
        pages = list(_pages(backend, RunQuery(limit=size)))
        assert [len(page) for page in pages] == [size] * (6 // size) + ([6 % size] if 6 % size else [])
        assert [run for page in pages for run in page] == [5, 4, 3, 2, 1, 0]

    @pytest.mark.parametrize(
        "conditions",
        [{}, {"workflow": "orders"}, {"status": RunStatus.PENDING}, {"attributes": {"a": "b"}}],
        ids=["all", "workflow", "status", "attributes"],
    )
    def test_pages_while_runs_are_created(self, backend: Backend, conditions: dict[str, Any]) -> None:
        for number in range(0, 40, 2):
            backend.runs.create(run_record(number, attributes={"a": "b"}))
        seen: list[int] = []
        newer = iter(range(41, 81, 2))
        between = iter(range(1, 41, 2))
        for page in _pages(backend, RunQuery(limit=3, **conditions)):
            seen += page
            for number in (next(newer), next(between)):  # before and after where the reader is
                backend.runs.create(run_record(number, attributes={"a": "b"}))
        assert len(seen) == len(set(seen))
        assert [number for number in seen if number % 2 == 0] == list(range(38, -1, -2))

    @pytest.mark.parametrize("limit", [0, -1, 1001])
    def test_limit_is_checked(self, backend: Backend, limit: int) -> None:
        with pytest.raises(ConfigurationError, match="limit"):
            backend.inspector.list_runs(RunQuery(limit=limit))

    def test_limit_may_be_the_largest(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        assert _list(backend, limit=1000) == [0]

    @pytest.mark.parametrize(
        "cursor",
        ["", "x", "nonsense", "ünïcode", *(base64.b64encode(text).decode() for text in (b"[]", b'["a",1]', b"\xff"))],
    )
    def test_a_cursor_that_is_not_ours_is_refused(self, backend: Backend, cursor: str) -> None:
        backend.runs.create(run_record())
        with pytest.raises(ConfigurationError, match="cursor"):
            backend.inspector.list_runs(RunQuery(cursor=cursor))

    # --- parked ------------------------------------------------------------------------------------

    def test_parked_by_another_build_longest_first(self, backend: Backend) -> None:
        for number, (build, at) in enumerate([("old", 3), ("new", 1), ("older", 2), ("old", 1)]):
            backend.runs.create(run_record(number))
            backend.runs.mark(run_id(number), Parked(problem=problem(build, at=NOW + at)))
        backend.runs.create(run_record(4))
        assert list(backend.inspector.parked(not_by="new")) == [run_id(3), run_id(2), run_id(0)]
        assert list(backend.inspector.parked(not_by="new", limit=2)) == [run_id(3), run_id(2)]
        assert list(backend.inspector.parked(not_by="old")) == [run_id(1), run_id(2)]

    def test_parked_leaves_out_the_unparked_and_the_closed(self, backend: Backend) -> None:
        for number in range(3):
            backend.runs.create(run_record(number))
            backend.runs.mark(run_id(number), Parked(problem=problem("old")))
        backend.runs.mark(run_id(0), Unparked())
        backend.runs.mark(run_id(1), Closed(at=NOW, status=RunStatus.CANCELLED))
        assert list(backend.inspector.parked(not_by="new")) == [run_id(2)]

    # --- published ---------------------------------------------------------------------------------

    def test_published_of_no_run_and_of_none(self, backend: Backend) -> None:
        assert backend.inspector.published(run_id()) == {}
        backend.runs.create(run_record())
        assert backend.inspector.published(run_id()) == {}

    def test_published_by_name(self, backend: Backend) -> None:
        values = {"progress": b'{"done":1}', "näme / with #all": b"", "x" * 128: bytes(range(256)) * 250}
        for number in range(2):
            backend.runs.create(run_record(number))
        for name, value in values.items():
            backend.runs.mark(run_id(), Published(turn=0, name=name, value=value))
        assert backend.inspector.published(run_id()) == values
        assert backend.inspector.published(run_id(1)) == {}


def _list(backend: Backend, **conditions: Any) -> list[int]:
    page = backend.inspector.list_runs(RunQuery(**conditions))
    return [int(run.run_id.removeprefix("wrun_")) for run in page.runs]


def _pages(backend: Backend, query: RunQuery) -> Iterator[list[int]]:
    while True:
        page = backend.inspector.list_runs(query)
        yield [int(run.run_id.removeprefix("wrun_")) for run in page.runs]
        if page.cursor is None:
            return
        query = replace(query, cursor=page.cursor)
