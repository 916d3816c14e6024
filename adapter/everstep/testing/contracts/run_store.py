"""The contract of `everstep.ports.RunStore`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from everstep.core.history import CompleteRun, Micros
from everstep.core.run import (
    CLOSED,
    AttributesSet,
    Closed,
    Origin,
    Parent,
    Parked,
    Paused,
    Published,
    RunChange,
    RunRecord,
    RunStatus,
    Started,
    Unparked,
    Unpaused,
)
from everstep.ports import Backend, RunQuery
from everstep.testing.contracts.samples import (
    EVERYTHING,
    NOW,
    SECOND,
    Contract,
    entry,
    in_other_thread,
    problem,
    race,
    run_id,
    run_record,
    turn,
)

RUN = run_id()
CLOSE = Closed(at=NOW + 9, status=RunStatus.COMPLETED, result=b'"paid"')

NEWER: list[RunChange] = [
    Paused(at=NOW),
    Unpaused(),
    AttributesSet(turn=2, attributes={"a": "b"}, first={}),
]


class RunStoreContract(Contract):
    # --- create ------------------------------------------------------------------------------------

    def test_create_stores_every_field(self, backend: Backend) -> None:
        full = run_record(
            root_id="wrun_root",
            attributes={"customer": "Zoë", "$parent": "wrun_root", "": "empty key"},
            status=RunStatus.FAILED,
            started_at=NOW + 1,
            completed_at=NOW + 2,
            result=b'{"a":1}',
            error=bytes(range(256)) * 20,
            continued_from="wrun_before",
            continued_to="wrun_after",
            problem=problem(),
            reason="no longer needed – why?",
            parent=Parent(run_id="wrun_parent", workflow="pärent", op=7),
            paused_at=NOW + 3,
            origin=Origin(run_id="wrun_first", turns=4),
            attributes_turn=5,
            first_attributes={"customer": "Zoë", "": "x"},
        )
        assert backend.runs.create(full) is True
        assert _record(backend) == full

    def test_create_stores_the_smallest_record(self, backend: Backend) -> None:
        assert backend.runs.create(run_record(input=b"")) is True
        assert _record(backend) == run_record(input=b"")

    def test_create_leaves_an_existing_run_as_it_is(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        assert backend.runs.create(run_record(workflow="other", input=b"other", attributes={"a": "b"})) is False
        assert _record(backend) == run_record()

    def test_create_has_one_winner(self, backend: Backend) -> None:
        results = race(8, lambda number: backend.runs.create(run_record(workflow=f"workflow-{number}")))
        assert sorted(results) == [False] * 7 + [True]
        assert _record(backend).workflow == f"workflow-{results.index(True)}"

    # --- load --------------------------------------------------------------------------------------

    def test_load_of_an_unknown_run_is_none(self, backend: Backend) -> None:
        assert backend.runs.load(RUN) is None

    def test_load_needs_the_record(self, backend: Backend) -> None:
        backend.runs.append(RUN, turn())
        backend.inbox.deposit(RUN, entry())
        assert backend.runs.load(RUN) is None
        backend.runs.create(run_record())
        snapshot = backend.runs.load(RUN)
        assert snapshot is not None
        assert (list(snapshot.turns), list(snapshot.inbox)) == ([turn()], [entry()])

    def test_load_of_a_new_run_has_no_turns_and_no_inbox(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        snapshot = backend.runs.load(RUN)
        assert snapshot is not None
        assert (list(snapshot.turns), list(snapshot.inbox)) == ([], [])

    def test_load_gives_turns_in_order_from_the_first_asked_for(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        for number in range(12):
            backend.runs.append(RUN, turn(number))
        for first in (0, 1, 9, 10, 11):
            assert _numbers(backend, first) == list(range(first, 12))

    def test_load_may_begin_beyond_the_end(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        backend.runs.append(RUN, turn())
        assert _numbers(backend, 1) == []
        assert _numbers(backend, 100) == []

    def test_load_sees_only_its_own_run(self, backend: Backend) -> None:
        for number in (0, 1):
            backend.runs.create(run_record(number))
            backend.runs.append(run_id(number), turn(nonce=f"of {number}"))
            backend.runs.mark(run_id(number), Started(at=NOW))
            backend.inbox.deposit(run_id(number), entry(number))
        snapshot = backend.runs.load(run_id(1))
        assert snapshot is not None
        assert snapshot.run == run_record(1, status=RunStatus.RUNNING, started_at=NOW)
        assert [item.nonce for item in snapshot.turns] == ["of 1"]
        assert list(snapshot.inbox) == [entry(1)]

    def test_load_sees_at_once_what_another_thread_wrote(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        for number in range(20):
            assert in_other_thread(partial(backend.runs.append, RUN, turn(number))) is True
            assert _numbers(backend, 0) == list(range(number + 1))

    def test_load_is_consistent_while_others_append(self, backend: Backend) -> None:
        backend.runs.create(run_record())

        def work(worker: int) -> None:
            for number in range(100):
                if worker == 0:
                    backend.runs.append(RUN, turn(number))
                else:
                    seen = _numbers(backend, 0)
                    assert seen == list(range(len(seen)))

        race(3, work)

    # --- append ------------------------------------------------------------------------------------

    def test_append_keeps_everything_in_a_turn(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        assert backend.runs.append(RUN, EVERYTHING) is True
        snapshot = backend.runs.load(RUN)
        assert snapshot is not None
        assert list(snapshot.turns) == [EVERYTHING]

    def test_append_needs_no_record(self, backend: Backend) -> None:
        assert backend.runs.append(RUN, turn()) is True
        assert list(backend.inspector.history(RUN)) == [turn()]

    def test_append_refuses_a_number_that_is_taken(self, backend: Backend) -> None:
        backend.runs.append(RUN, turn(nonce="first"))
        assert backend.runs.append(RUN, turn(nonce="second", build="build-2")) is False
        assert list(backend.inspector.history(RUN)) == [turn(nonce="first")]

    def test_append_of_our_own_turn_again_is_true(self, backend: Backend) -> None:
        backend.runs.append(RUN, turn())
        backend.runs.append(RUN, turn(1))
        assert backend.runs.append(RUN, turn()) is True
        assert list(backend.inspector.history(RUN)) == [turn(), turn(1)]

    def test_append_is_about_one_run(self, backend: Backend) -> None:
        assert backend.runs.append(run_id(0), turn(nonce="a")) is True
        assert backend.runs.append(run_id(1), turn(nonce="b")) is True

    def test_append_has_exactly_one_winner(self, backend: Backend) -> None:
        for number in range(10):
            results = race(8, partial(_append, backend, number))
            assert sorted(results) == [False] * 7 + [True]
            assert backend.inspector.history(RUN)[number].nonce == f"{results.index(True)}"

    def test_append_of_the_same_nonce_wins_in_every_thread(self, backend: Backend) -> None:
        assert race(8, lambda _: backend.runs.append(RUN, turn())) == [True] * 8
        assert list(backend.inspector.history(RUN)) == [turn()]

    def test_append_in_a_race_leaves_a_dense_history(self, backend: Backend) -> None:
        def work(worker: int) -> int:
            won = 0
            while (number := len(backend.inspector.history(RUN))) < 60:
                won += backend.runs.append(RUN, turn(number, nonce=f"{worker}"))
            return won

        assert sum(race(4, work)) == 60
        assert [item.number for item in backend.inspector.history(RUN)] == list(range(60))

    def test_append_keeps_large_turns(self, backend: Backend) -> None:
        large = turn(commands=(CompleteRun(result=bytes(range(256)) * 4096),))
        assert backend.runs.append(RUN, large) is True
        assert list(backend.inspector.history(RUN)) == [large]

    # --- mark --------------------------------------------------------------------------------------

    @pytest.mark.parametrize("change", [Started(at=NOW), CLOSE, Parked(problem=problem()), Unparked(), *NEWER])
    def test_mark_without_a_record_has_no_effect(self, backend: Backend, change: RunChange) -> None:
        backend.runs.mark(RUN, change)
        assert backend.runs.load(RUN) is None
        assert backend.runs.create(run_record()) is True
        assert _record(backend) == run_record()

    @pytest.mark.parametrize("change", [Started(at=NOW + 5), CLOSE, Parked(problem=problem()), Unparked(), *NEWER])
    def test_mark_twice_is_as_once(self, backend: Backend, change: RunChange) -> None:
        backend.runs.create(run_record())
        backend.runs.mark(RUN, change)
        once = _record(backend)
        backend.runs.mark(RUN, change)
        assert _record(backend) == once

    def test_mark_started(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        _start(backend, NOW + 5)
        assert _record(backend) == run_record(status=RunStatus.RUNNING, started_at=NOW + 5)

    def test_mark_started_keeps_an_earlier_start(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        _start(backend, NOW + 5)
        backend.runs.mark(RUN, Started(at=NOW + SECOND))
        assert _record(backend).started_at == NOW + 5

    @pytest.mark.parametrize("status", sorted(CLOSED))
    def test_mark_closed(self, backend: Backend, status: RunStatus) -> None:
        backend.runs.create(run_record())
        _start(backend, NOW)
        change = Closed(at=NOW + 9, status=status, result=b"[]", error=b"{}", continued_to="wrun_next")
        backend.runs.mark(RUN, change)
        assert _record(backend) == run_record(
            status=status,
            started_at=NOW,
            completed_at=NOW + 9,
            result=b"[]",
            error=b"{}",
            continued_to="wrun_next",
        )

    def test_mark_closed_needs_no_start(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        backend.runs.mark(RUN, CLOSE)
        assert _record(backend).status is RunStatus.COMPLETED

    def test_mark_closed_removes_a_problem(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        backend.runs.mark(RUN, Parked(problem=problem()))
        backend.runs.mark(RUN, CLOSE)
        assert _record(backend).problem is None

    @pytest.mark.parametrize(
        "change",
        [
            Started(at=NOW + 1),
            Closed(at=NOW, status=RunStatus.FAILED, reason="late"),
            Parked(problem=problem()),
            Unparked(),
            Paused(at=NOW),
            Unpaused(),
        ],
    )
    def test_mark_leaves_a_closed_run_as_it_is(self, backend: Backend, change: RunChange) -> None:
        backend.runs.create(run_record())
        backend.runs.mark(RUN, CLOSE)
        closed = _record(backend)
        backend.runs.mark(RUN, change)
        assert _record(backend) == closed

    def test_mark_parked_and_unparked(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        backend.runs.mark(RUN, Parked(problem=problem()))
        assert _record(backend) == run_record(problem=problem())
        backend.runs.mark(RUN, Parked(problem=problem("build-2")))
        assert _record(backend) == run_record(problem=problem("build-2"))
        backend.runs.mark(RUN, Unparked())
        assert _record(backend) == run_record()

    def test_mark_parked_takes_text_that_is_not_unicode(self, backend: Backend) -> None:
        """A message may quote the name of a file. How the part that is no text is shown is left to the backend."""
        backend.runs.create(run_record())
        backend.runs.mark(RUN, Parked(problem=replace(problem(), message="cannot read caf\udce9.py")))
        stored = _record(backend).problem
        assert stored is not None
        assert stored.message.startswith("cannot read caf")
        assert replace(stored, message="") == replace(problem(), message="")

    # --- mark: paused --------------------------------------------------------------------------------

    def test_mark_paused_and_unpaused(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        backend.runs.mark(RUN, Paused(at=NOW + 5))
        assert _record(backend) == run_record(paused_at=NOW + 5)
        backend.runs.mark(RUN, Paused(at=NOW + SECOND))
        assert _record(backend).paused_at == NOW + 5
        backend.runs.mark(RUN, Unpaused())
        assert _record(backend) == run_record()
        backend.runs.mark(RUN, Paused(at=NOW + SECOND))
        assert _record(backend).paused_at == NOW + SECOND

    def test_mark_closed_unpauses_and_keeps_the_reason(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        backend.runs.mark(RUN, Paused(at=NOW))
        backend.runs.mark(RUN, Closed(at=NOW + 9, status=RunStatus.CANCELLED, reason="Grund – 理由"))
        record = _record(backend)
        assert (record.status, record.paused_at, record.reason) == (RunStatus.CANCELLED, None, "Grund – 理由")

    def test_paused_and_parked_are_told_apart(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        backend.runs.mark(RUN, Paused(at=NOW))
        backend.runs.mark(RUN, Parked(problem=problem()))
        assert _record(backend) == run_record(paused_at=NOW, problem=problem())
        backend.runs.mark(RUN, Unparked())
        assert _record(backend) == run_record(paused_at=NOW)

    # --- mark: attributes ----------------------------------------------------------------------------

    def test_mark_attributes(self, backend: Backend) -> None:
        backend.runs.create(run_record(attributes={"a": "1", "b": "1"}))
        _set(backend, 3, {"b": "2", "näme": "ö", "": "empty"})
        assert _record(backend) == run_record(
            attributes={"b": "2", "näme": "ö", "": "empty"}, attributes_turn=3, first_attributes={"a": "1"}
        )
        assert _found(backend, b="2") == [RUN]
        assert _found(backend, a="1") == _found(backend, b="1") == []

    def test_mark_attributes_of_an_earlier_turn_has_no_effect(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        _set(backend, 3, {"a": "3"})
        for turn_number in (2, 3, 0):
            _set(backend, turn_number, {"a": "earlier"})
        assert _record(backend).attributes == {"a": "3"}
        assert _found(backend, a="earlier") == []
        _set(backend, 4, {})
        assert (_record(backend).attributes, _record(backend).attributes_turn) == ({}, 4)
        assert _found(backend, a="3") == []

    def test_mark_attributes_of_the_first_turn(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        _set(backend, 0, {"a": "0"})
        assert (_record(backend).attributes, _record(backend).attributes_turn) == ({"a": "0"}, 0)

    def test_mark_attributes_of_a_closed_run(self, backend: Backend) -> None:
        """The last turn's may come after the end."""
        backend.runs.create(run_record(attributes={"a": "1"}))
        backend.runs.mark(RUN, CLOSE)
        _set(backend, 3, {"a": "2"})
        record = _record(backend)
        assert (record.status, record.attributes) == (RunStatus.COMPLETED, {"a": "2"})
        assert _found(backend, a="2") == [RUN]

    def test_mark_attributes_in_a_race_keeps_the_latest(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        race(8, lambda number: _set(backend, number, {"a": f"{number}"}))
        assert _record(backend).attributes == {"a": "7"}
        assert [number for number in range(8) if _found(backend, a=f"{number}")] == [7]

    # --- mark: published values ----------------------------------------------------------------------

    def test_mark_published_of_an_earlier_turn_has_no_effect(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        for turn_number, value in [(3, b"3"), (2, b"2"), (0, b"0")]:
            backend.runs.mark(RUN, Published(turn=turn_number, name="a", value=value))
        assert backend.inspector.published(RUN) == {"a": b"3"}
        backend.runs.mark(RUN, Published(turn=4, name="a", value=b"4"))
        backend.runs.mark(RUN, Published(turn=1, name="b", value=b"1"))
        assert backend.inspector.published(RUN) == {"a": b"4", "b": b"1"}
        assert _record(backend) == run_record()

    def test_mark_published_of_a_closed_run(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        backend.runs.mark(RUN, CLOSE)
        backend.runs.mark(RUN, Published(turn=3, name="a", value=b"3"))
        assert backend.inspector.published(RUN) == {"a": b"3"}

    def test_mark_published_in_a_race_keeps_the_latest(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        race(8, lambda number: backend.runs.mark(RUN, Published(turn=number, name="a", value=b"%d" % number)))
        assert backend.inspector.published(RUN) == {"a": b"7"}

    def test_mark_closed_has_one_winner(self, backend: Backend) -> None:
        backend.runs.create(run_record())
        race(8, lambda number: backend.runs.mark(RUN, replace(CLOSE, at=NOW + number, result=b"%d" % number)))
        record = _record(backend)
        assert record.completed_at is not None
        assert record.result == b"%d" % (record.completed_at - NOW)


def _append(backend: Backend, number: int, racer: int) -> bool:
    return backend.runs.append(RUN, turn(number, nonce=f"{racer}"))


def _set(backend: Backend, turn_number: int, attributes: dict[str, str]) -> None:
    backend.runs.mark(RUN, AttributesSet(turn=turn_number, attributes=attributes, first={"a": "1"}))


def _found(backend: Backend, **attributes: str) -> list[str]:
    return [run.run_id for run in backend.inspector.list_runs(RunQuery(attributes=attributes)).runs]


def _start(backend: Backend, at: Micros) -> None:
    """As the runtime does: turn 0, then the mark. A backend may read off the turn what the mark says."""
    assert backend.runs.append(RUN, turn(at=at)) is True
    backend.runs.mark(RUN, Started(at=at))


def _record(backend: Backend) -> RunRecord:
    snapshot = backend.runs.load(RUN)
    assert snapshot is not None
    return snapshot.run


def _numbers(backend: Backend, first: int) -> list[int]:
    snapshot = backend.runs.load(RUN, first_turn=first)
    assert snapshot is not None
    return [item.number for item in snapshot.turns]
