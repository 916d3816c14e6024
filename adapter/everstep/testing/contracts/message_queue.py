"""The contract of `everstep.ports.MessageQueue`, for backends that also receive (`MessageSource`)."""

from __future__ import annotations

import pytest

from everstep.core import messages
from everstep.core.history import Micros
from everstep.core.messages import AdvanceRun, ExecuteStep, FireTimer, Message, StartRun, message_id
from everstep.ports import Backend, Delivery
from everstep.testing.contracts.samples import (
    MINUTE,
    NOW,
    Contract,
    outgoing,
    problem,
    race,
    run_record,
    sent_id,
)

WORKER = "worker-1"


class MessageQueueContract(Contract):
    @pytest.mark.parametrize(
        "message",
        [
            StartRun(run=run_record(attributes={"a": "ü"}, problem=problem(), result=b"{}")),
            AdvanceRun(run_id="wrun_1", cause="hook 7"),
            ExecuteStep(
                run_id="wrun_1",
                workflow="order",
                op=3,
                name="charge",
                attempt=2,
                input=bytes(range(256)),
                sole=True,
                first_at=NOW,
            ),
            FireTimer(run_id="wrun_1", op=4, due=NOW + MINUTE),
        ],
    )
    def test_send_keeps_the_message(self, backend: Backend, message: Message) -> None:
        backend.queue.send([messages.outgoing(message, NOW, "a root", "order")])
        assert _receive_all(backend) == [
            Delivery(
                message_id=message_id(message),
                message=message,
                receives=1,
                due=NOW,
                root_id="a root",
                workflow="order",
            )
        ]

    def test_send_of_nothing_is_no_error(self, backend: Backend) -> None:
        backend.queue.send([])
        assert _receive_all(backend) == []

    def test_send_takes_many(self, backend: Backend) -> None:
        backend.queue.send([outgoing(number) for number in range(200)])
        assert {delivery.message_id for delivery in _receive_all(backend)} == {sent_id(number) for number in range(200)}

    def test_send_drops_what_is_waiting(self, backend: Backend) -> None:
        backend.queue.send([outgoing(root_id="first")])
        backend.queue.send([outgoing(root_id="second", due=NOW - 1), outgoing(1), outgoing(1)])
        deliveries = _receive_all(backend)
        assert sorted((delivery.message_id, delivery.root_id) for delivery in deliveries) == [
            (sent_id(0), "first"),
            (sent_id(1), "root"),
        ]

    def test_send_drops_what_is_being_worked_on(self, backend: Backend) -> None:
        backend.queue.send([outgoing()])
        assert len(_receive_all(backend)) == 1
        backend.queue.send([outgoing()])
        assert _receive_all(backend) == []

    def test_send_again_after_the_message_is_dealt_with(self, backend: Backend) -> None:
        backend.queue.send([outgoing()])
        _receive_all(backend)
        backend.source.acknowledge([sent_id()])
        backend.queue.send([outgoing()])
        assert [delivery.receives for delivery in _receive_all(backend)] == [1]

    def test_nothing_is_delivered_before_it_is_due(self, backend: Backend) -> None:
        backend.queue.send([outgoing(due=NOW + MINUTE)])
        assert _receive_all(backend, now=NOW + MINUTE - 1) == []
        assert len(_receive_all(backend, now=NOW + MINUTE)) == 1

    def test_a_message_may_be_due_in_the_past(self, backend: Backend) -> None:
        backend.queue.send([outgoing(due=NOW - 365 * 24 * 60 * MINUTE)])
        assert len(_receive_all(backend)) == 1

    def test_discard_takes_back(self, backend: Backend) -> None:
        backend.queue.send([outgoing(number, due=NOW + MINUTE) for number in range(5)])
        backend.queue.discard([sent_id(1)])
        backend.queue.discard([sent_id(2), sent_id(3), "unknown"])
        backend.queue.discard([])
        left = {delivery.message_id for delivery in _receive_all(backend, now=NOW + MINUTE)}
        # A best effort: what was not discarded must be there, what was may be.
        assert {sent_id(0), sent_id(4)} <= left

    def test_senders_of_the_same_message_send_one(self, backend: Backend) -> None:
        race(8, lambda number: backend.queue.send([outgoing(), outgoing(number + 1)]))
        assert len(_receive_all(backend)) == 9


def _receive_all(backend: Backend, *, now: Micros = NOW) -> list[Delivery]:
    backend.source.register(WORKER, until=NOW + 60 * MINUTE)
    return list(backend.source.receive(WORKER, limit=1000, now=now))
