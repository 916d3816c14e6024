"""The contract of `everstep.ports.MessageSource`."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from everstep.core.history import Micros
from everstep.core.messages import Outgoing
from everstep.ports import Backend, Delivery
from everstep.testing.contracts.samples import (
    MINUTE,
    NOW,
    Contract,
    in_other_thread,
    outgoing,
    race,
    run_record,
    sent_id,
)

ANN, BOB = "ann", "bob"
LATER = NOW + MINUTE


class MessageSourceContract(Contract):
    def kill(self, backend: Backend, worker: str) -> None:
        """Make the worker's process dead, if the backend can tell. Override it; otherwise those tests are skipped."""
        pytest.skip("this backend cannot tell that a process has ended, or its tests do not say how")

    # --- receive -----------------------------------------------------------------------------------

    def test_receive_leases(self, backend: Backend) -> None:
        _send(backend, outgoing())
        assert _ids(_receive(backend, ANN)) == [sent_id()]
        assert _receive(backend, ANN) == []
        assert _receive(backend, BOB, now=NOW + 100 * MINUTE) == []

    def test_receive_gives_those_due_first_first(self, backend: Backend) -> None:
        _send(backend, *(outgoing(number, due=NOW - number * 7919 % 50) for number in range(50)))
        dues = [delivery.due for _ in range(5) for delivery in _receive(backend, ANN, limit=10)]
        assert len(dues) == 50
        assert dues == sorted(dues)

    def test_receive_gives_no_more_than_asked_for(self, backend: Backend) -> None:
        _send(backend, *(outgoing(number) for number in range(5)))
        assert len(_receive(backend, ANN, limit=2)) == 2
        assert len(_receive(backend, ANN, limit=0)) == 0
        assert len(_receive(backend, ANN, limit=10)) == 3

    def test_receive_of_one_family(self, backend: Backend) -> None:
        _send(backend, *(outgoing(number, root_id=f"root-{number % 2}") for number in range(6)))
        mine = _receive(backend, ANN, root_id="root-1")
        assert sorted(_ids(mine)) == [sent_id(1), sent_id(3), sent_id(5)]
        assert {delivery.root_id for delivery in mine} == {"root-1"}
        assert _receive(backend, ANN, root_id="root-2") == []
        assert len(_receive(backend, ANN)) == 3

    def test_receive_gives_each_message_to_one(self, backend: Backend) -> None:
        _send(backend, *(outgoing(number) for number in range(60)))

        def work(number: int) -> list[str]:
            mine: list[str] = []
            while batch := _receive(backend, f"worker-{number}", limit=3):
                mine += _ids(batch)
            return mine

        received = [message_id for mine in race(4, work) for message_id in mine]
        assert sorted(received) == sorted(sent_id(number) for number in range(60))

    def test_receive_in_a_race_for_one_message(self, backend: Backend) -> None:
        for number in range(10):
            _send(backend, outgoing(number))
            results = race(6, lambda racer: len(_receive(backend, f"worker-{racer}")))
            assert sorted(results) == [0] * 5 + [1]

    # --- lease_to ----------------------------------------------------------------------------------

    def test_lease_to_is_as_received_by_that_worker(self, backend: Backend) -> None:
        _send(backend, outgoing(lease_to=ANN))
        assert _receive(backend, ANN) == []
        assert _receive(backend, BOB) == []
        assert backend.source.next_due() is None

    def test_lease_to_counts_as_a_receive(self, backend: Backend) -> None:
        _send(backend, outgoing(lease_to=ANN))
        assert backend.source.recover(now=LATER) == 1
        assert [delivery.receives for delivery in _receive(backend, BOB)] == [2]

    def test_lease_to_can_be_released(self, backend: Backend) -> None:
        _send(backend, outgoing(lease_to=ANN))
        backend.source.release(ANN, [sent_id()])
        assert [delivery.receives for delivery in _receive(backend, BOB)] == [1]

    def test_lease_to_does_not_take_a_message_from_another(self, backend: Backend) -> None:
        _send(backend, outgoing())
        _receive(backend, BOB)
        _send(backend, outgoing(lease_to=ANN))
        backend.source.release(ANN, [sent_id()])
        assert _receive(backend, ANN) == []

    # --- acknowledge -------------------------------------------------------------------------------

    def test_acknowledge_removes(self, backend: Backend) -> None:
        _send(backend, *(outgoing(number) for number in range(4)))
        _receive(backend, ANN)
        backend.source.acknowledge([sent_id(0)])
        backend.source.acknowledge([sent_id(1), sent_id(2)])
        assert backend.source.recover(now=LATER) == 1
        assert _ids(_receive(backend, BOB)) == [sent_id(3)]

    def test_acknowledge_removes_whoever_holds_it(self, backend: Backend) -> None:
        _send(backend, outgoing(0), outgoing(1))
        _receive(backend, ANN, limit=1)
        backend.source.acknowledge([sent_id(0), sent_id(1)])  # one is leased to Ann, one to nobody
        backend.source.recover(now=LATER)
        assert _receive(backend, BOB) == []

    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_acknowledge_of_the_unknown_is_no_error(self, backend: Backend, count: int) -> None:
        backend.source.acknowledge(["unknown"] * count)

    # --- release -----------------------------------------------------------------------------------

    def test_release_gives_back_uncounted(self, backend: Backend) -> None:
        _send(backend, outgoing(0), outgoing(1))
        _receive(backend, ANN)
        backend.source.release(ANN, [sent_id(0), sent_id(1), "unknown"])
        assert [delivery.receives for delivery in _receive(backend, BOB)] == [1, 1]

    def test_release_needs_the_lease(self, backend: Backend) -> None:
        _send(backend, outgoing())
        _receive(backend, ANN)
        backend.source.release(BOB, [sent_id()])
        assert _receive(backend, BOB) == []

    def test_release_of_what_nobody_holds_changes_nothing(self, backend: Backend) -> None:
        _send(backend, outgoing())
        backend.source.release(ANN, [sent_id()])
        backend.source.release(ANN, [])
        assert [delivery.receives for delivery in _receive(backend, BOB)] == [1]

    # --- register, recover, leave ------------------------------------------------------------------

    def test_recover_leaves_the_living_alone(self, backend: Backend) -> None:
        _send(backend, outgoing())
        _receive(backend, ANN)
        assert backend.source.recover(now=LATER - 1) == 0
        assert _receive(backend, BOB) == []

    def test_recover_gives_back_what_a_late_worker_holds(self, backend: Backend) -> None:
        _send(backend, outgoing(0), outgoing(1), outgoing(2))
        _receive(backend, ANN, limit=2)
        backend.source.register(BOB, until=LATER + MINUTE)
        assert backend.source.recover(now=LATER) == 2
        assert backend.source.recover(now=LATER) == 0
        assert sorted((item.message_id, item.receives) for item in _receive(backend, BOB)) == [
            (sent_id(0), 2),
            (sent_id(1), 2),
            (sent_id(2), 1),
        ]

    def test_recover_counts_every_delivery(self, backend: Backend) -> None:
        _send(backend, outgoing())
        for times in range(1, 6):
            assert [delivery.receives for delivery in _receive(backend, f"worker-{times}")] == [times]
            assert backend.source.recover(now=LATER) == 1

    def test_register_again_renews(self, backend: Backend) -> None:
        _send(backend, outgoing())
        _receive(backend, ANN)
        backend.source.register(ANN, until=LATER + MINUTE)
        assert backend.source.recover(now=LATER) == 0
        assert backend.source.recover(now=LATER + MINUTE) == 1

    def test_register_says_nothing_about_messages(self, backend: Backend) -> None:
        _send(backend, outgoing())
        _receive(backend, ANN)
        backend.source.register(ANN, until=LATER + MINUTE)
        assert _receive(backend, BOB) == []

    def test_a_late_worker_may_come_back(self, backend: Backend) -> None:
        _send(backend, outgoing())
        _receive(backend, ANN)
        backend.source.recover(now=LATER)
        backend.source.register(ANN, until=LATER + MINUTE)
        assert len(backend.source.receive(ANN, limit=10, now=LATER)) == 1
        assert backend.source.recover(now=LATER) == 0

    def test_recover_gives_back_what_the_dead_hold(self, backend: Backend) -> None:
        _send(backend, outgoing(0), outgoing(1, lease_to=ANN), outgoing(2))
        _receive(backend, ANN, limit=1)
        _receive(backend, BOB)
        self.kill(backend, ANN)
        assert backend.source.recover(now=NOW) == 2
        assert [delivery.receives for delivery in _receive(backend, BOB)] == [2, 2]

    def test_recover_in_a_race_counts_each_message_once(self, backend: Backend) -> None:
        _send(backend, *(outgoing(number) for number in range(20)))
        _receive(backend, ANN)
        assert sum(race(6, lambda _: backend.source.recover(now=LATER))) == 20

    def test_leave_gives_back_everything(self, backend: Backend) -> None:
        _send(backend, outgoing(0), outgoing(1, lease_to=ANN), outgoing(2))
        _receive(backend, ANN, limit=1)
        backend.source.leave(ANN)
        assert len(_receive(backend, BOB)) == 3
        assert backend.source.recover(now=NOW) == 0

    def test_leave_of_an_unknown_worker_is_no_error(self, backend: Backend) -> None:
        backend.source.leave(ANN)

    def test_a_worker_may_register_after_leaving(self, backend: Backend) -> None:
        backend.source.register(ANN, until=LATER)
        backend.source.leave(ANN)
        _send(backend, outgoing())
        assert len(_receive(backend, ANN)) == 1
        assert backend.source.recover(now=NOW) == 0

    # --- next_due ----------------------------------------------------------------------------------

    def test_next_due_is_the_earliest_unleased(self, backend: Backend) -> None:
        assert backend.source.next_due() is None
        _send(backend, outgoing(0, due=NOW + 5), outgoing(1, due=NOW + 3), outgoing(2, due=NOW, root_id="other"))
        assert backend.source.next_due() == NOW
        assert backend.source.next_due(root_id="root") == NOW + 3
        assert backend.source.next_due(root_id="unknown") is None
        _receive(backend, ANN, now=NOW + 3)
        assert backend.source.next_due() == NOW + 5
        assert backend.source.next_due(root_id="other") is None
        backend.source.release(ANN, [sent_id(2)])
        assert backend.source.next_due() == NOW

    # --- workflows ---------------------------------------------------------------------------------

    def test_a_worker_is_given_only_the_workflows_it_asks_for(self, backend: Backend) -> None:
        _send(backend, outgoing(0, workflow="order"), outgoing(1, workflow="trial", due=NOW - 1))
        backend.source.register(ANN, until=LATER)
        assert _ids(list(backend.source.receive(ANN, limit=9, now=NOW, workflows=["order", "x"]))) == [sent_id(0)]
        assert backend.source.next_due(workflows=["order"]) is None
        assert backend.source.next_due(workflows=["trial"]) == NOW - 1
        assert backend.source.receive(ANN, limit=9, now=NOW, workflows=[]) == []
        (rest,) = backend.source.receive(ANN, limit=9, now=NOW, workflows={"trial"}, root_id="root")
        assert (rest.message_id, rest.workflow) == (sent_id(1), "trial")

    def test_orphans_are_late_messages_of_other_workflows(self, backend: Backend) -> None:
        _send(
            backend,
            outgoing(0, workflow="unknown", due=NOW - 5),
            outgoing(1, workflow="unknown", due=NOW),
            outgoing(2, workflow="order", due=NOW - 5),
            outgoing(3, workflow="unknown", due=NOW - 9, lease_to=ANN),
            outgoing(4, workflow="lost", due=NOW - 7),
        )
        assert backend.source.orphans(known=["order"], due_before=NOW) == [sent_id(4), sent_id(0)]
        assert backend.source.orphans(known=["order", "unknown", "lost"], due_before=NOW) == []
        assert len(backend.source.orphans(known=[], due_before=NOW)) == 3

    # --- changes -----------------------------------------------------------------------------------

    def test_changes_is_steady_while_nothing_happens(self, backend: Backend) -> None:
        _send(backend, outgoing())
        before = backend.source.changes()
        backend.source.receive(ANN, limit=1, now=NOW - 1)
        in_other_thread(backend.source.next_due)
        in_other_thread(lambda: backend.inspector.get_run("unknown"))
        assert backend.source.changes() == before

    def test_changes_tells_of_other_threads(self, backend: Backend) -> None:
        seen = {backend.source.changes()}
        for number in range(5):
            in_other_thread(partial(backend.queue.send, [outgoing(number)]))
            seen.add(backend.source.changes())
            in_other_thread(partial(backend.runs.create, run_record(number)))
            seen.add(backend.source.changes())
        assert len(seen) == 11

    def test_changes_lets_a_worker_wait(self, backend: Backend) -> None:
        """The use it is made for: note the number, find nothing, wait until the number is another."""
        assert _receive(backend, ANN) == []
        noted = backend.source.changes()
        assert backend.source.receive(ANN, limit=1, now=NOW) == []
        sender = threading.Thread(target=lambda: _send(backend, outgoing()))
        sender.start()
        sender.join(timeout=30)
        assert backend.source.changes() != noted
        assert len(_receive(backend, ANN)) == 1


def _send(backend: Backend, *messages: Outgoing) -> None:
    for worker in {message.lease_to for message in messages} - {None}:
        assert worker is not None
        backend.source.register(worker, until=LATER)
    backend.queue.send(messages)


def _receive(
    backend: Backend, worker: str, *, limit: int = 1000, now: Micros = NOW, root_id: str | None = None
) -> list[Delivery]:
    backend.source.register(worker, until=LATER)
    return list(backend.source.receive(worker, limit=limit, now=now, root_id=root_id))


def _ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.message_id for delivery in deliveries]
