"""The contract of `Backend.unit` for backends whose units are transactions."""

from __future__ import annotations

import threading

import pytest

from everstep.core.run import RunStatus, Started
from everstep.errors import StoreError
from everstep.ports import Backend
from everstep.testing.contracts.samples import (
    MINUTE,
    NOW,
    Contract,
    entry,
    in_other_thread,
    outgoing,
    race,
    run_id,
    run_record,
    sent_id,
    turn,
)

RUN = run_id()


class _Oops(Exception):
    pass


class UnitContract(Contract):
    def test_a_unit_does_everything(self, backend: Backend) -> None:
        backend.source.register("ann", until=NOW + MINUTE)
        backend.queue.send([outgoing(0)])
        with backend.unit():
            _do_everything(backend)
        assert _done(backend) == [True] * 6

    @pytest.mark.parametrize("error", [_Oops, KeyboardInterrupt, GeneratorExit])
    def test_an_exception_undoes_everything(self, backend: Backend, error: type[BaseException]) -> None:
        backend.queue.send([outgoing(0)])
        with pytest.raises(error), backend.unit():
            _do_everything(backend)
            raise error
        assert _done(backend) == [False] * 6
        with backend.unit():  # and leaves nothing behind that hinders the next
            _do_everything(backend)
        assert _done(backend) == [True] * 6

    def test_a_unit_sees_its_own_work(self, backend: Backend) -> None:
        backend.queue.send([outgoing(0)])
        with backend.unit():
            _do_everything(backend)
            assert _done(backend) == [True] * 6

    def test_others_see_a_unit_only_at_its_end(self, backend: Backend) -> None:
        backend.queue.send([outgoing(0)])
        with backend.unit():
            _do_everything(backend)
            assert in_other_thread(lambda: backend.runs.load(RUN)) is None
            assert in_other_thread(lambda: backend.inspector.get_run(RUN)) is None
            assert list(in_other_thread(lambda: backend.inspector.history(RUN))) == []
            assert in_other_thread(backend.source.next_due) == NOW  # the message that the unit acknowledged
        assert in_other_thread(lambda: _done(backend)) == [True] * 6

    def test_changes_tells_of_a_unit_at_its_end(self, backend: Backend) -> None:
        before = backend.source.changes()
        inside, go_on = threading.Event(), threading.Event()

        def work() -> None:
            with backend.unit():
                backend.queue.send([outgoing(0)])
                inside.set()
                go_on.wait(30)

        thread = threading.Thread(target=work)
        thread.start()
        assert inside.wait(30)
        during = backend.source.changes()
        go_on.set()
        thread.join(30)
        assert before == during != backend.source.changes()

    def test_nested_units_join_the_outermost(self, backend: Backend) -> None:
        with backend.unit():
            backend.runs.create(run_record(0))
            with backend.unit(), backend.unit():
                backend.runs.create(run_record(1))
            assert in_other_thread(lambda: backend.inspector.get_run(run_id(1))) is None
            backend.runs.create(run_record(2))
        assert [backend.inspector.get_run(run_id(n)) for n in range(3)] == [run_record(n) for n in range(3)]

    def test_the_outermost_undoes_nested_units(self, backend: Backend) -> None:
        with pytest.raises(_Oops), backend.unit():
            with backend.unit():
                backend.runs.create(run_record())
            raise _Oops
        assert backend.inspector.get_run(RUN) is None

    def test_a_nested_unit_that_fails_undoes_the_outermost(self, backend: Backend) -> None:
        """Even if its exception is caught: half a unit is never kept. The outermost then raises `StoreError`."""
        with pytest.raises(StoreError), backend.unit():
            backend.runs.create(run_record(0))
            try:
                with backend.unit():
                    backend.runs.create(run_record(1))
                    raise _Oops
            except _Oops:
                pass
        assert backend.inspector.get_run(run_id(0)) is None
        assert backend.inspector.get_run(run_id(1)) is None
        assert backend.runs.create(run_record(0)) is True

    def test_a_unit_may_be_empty(self, backend: Backend) -> None:
        with backend.unit():
            pass
        with backend.unit():
            backend.runs.load(RUN)

    def test_units_belong_to_a_thread(self, backend: Backend) -> None:
        def work(number: int) -> None:
            for turn_number in range(20):
                try:
                    with backend.unit():
                        backend.runs.append(run_id(number), turn(turn_number))
                        backend.runs.append(run_id(number), turn(turn_number + 1))
                        raise _Oops
                except _Oops:
                    pass
                with backend.unit():
                    assert backend.runs.append(run_id(number), turn(turn_number, nonce="kept")) is True

        race(4, work)
        for number in range(4):
            kept = backend.inspector.history(run_id(number))
            assert [(item.number, item.nonce) for item in kept] == [(n, "kept") for n in range(20)]

    def test_of_racing_units_one_does_its_work(self, backend: Backend) -> None:
        """The unit of an advance: whoever loses the append must leave nothing else behind."""

        def work(number: int) -> bool:
            try:
                with backend.unit():
                    backend.queue.send([outgoing(number + 1)])
                    if not backend.runs.append(RUN, turn(nonce=f"{number}")):
                        raise _Oops
            except _Oops:
                return False
            return True

        results = race(6, work)
        assert sorted(results) == [False] * 5 + [True]
        backend.source.register("ann", until=NOW + MINUTE)
        received = backend.source.receive("ann", limit=10, now=NOW)
        assert [item.message_id for item in received] == [sent_id(results.index(True) + 1)]


def _do_everything(backend: Backend) -> None:
    backend.source.acknowledge([sent_id(0)])
    backend.runs.create(run_record())
    backend.runs.append(RUN, turn())
    backend.runs.mark(RUN, Started(at=NOW))
    backend.inbox.deposit(RUN, entry())
    backend.queue.send([outgoing(1, due=NOW + 1), outgoing(2, due=NOW + 2)])


def _done(backend: Backend) -> list[bool]:
    snapshot = backend.runs.load(RUN)
    return [
        backend.source.next_due() == NOW + 1,
        snapshot is not None,
        snapshot is not None and list(snapshot.turns) == [turn()],
        snapshot is not None and snapshot.run.status is RunStatus.RUNNING,
        snapshot is not None and list(snapshot.inbox) == [entry()],
        list(backend.inspector.history(RUN)) == [turn()],
    ]
