"""Requests that took effect although their answers were lost: the SDK repeats them, and meets its own first try."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from everstep.backends.aws import AwsClients, AwsResources, open_aws
from everstep.core.run import Closed, RunStatus
from everstep.errors import StoreBusyError
from everstep.ports import Backend, FailedAttempt
from everstep.testing.clock import VirtualClock
from everstep.testing.contracts.samples import NOW, entry, run_id, run_record, turn
from tests.aws.backend.provisioned import new_resources, session
from tests.aws.backend.wire import lose_answers
from tests.aws.servers.emulator import reset_ministack

RUN = run_id()
FAILED = FailedAttempt(op=0, attempt=1, started_at=NOW, ended_at=NOW, error=b"{}", retry_at=NOW)
CLOSED = Closed(at=NOW, status=RunStatus.COMPLETED, result=b"1")

CALLS: dict[str, tuple[str, Callable[[Backend], Any]]] = {
    "create": ("PutItem", lambda b: b.runs.create(run_record())),
    "append": ("PutItem", lambda b: b.runs.append(RUN, turn())),
    "deposit": ("PutItem", lambda b: b.inbox.deposit(RUN, entry())),
    "claim": ("PutItem", lambda b: b.steps.claim(RUN, 0, 1)),
    "raise_flag": ("PutItem", lambda b: b.inbox.raise_flag(RUN, now=NOW)),
}
QUIET: dict[str, tuple[str, Callable[[Backend], Any]]] = {
    "record": ("PutItem", lambda b: b.steps.record(RUN, FAILED)),
    "close": ("UpdateItem", lambda b: b.runs.mark(RUN, CLOSED)),
    "remove": ("BatchWriteItem", lambda b: b.inbox.remove(RUN, ["a", "b"])),
    "lower_flag": ("PutItem", lambda b: b.inbox.lower_flag(RUN)),
    "remove_one": ("DeleteItem", lambda b: b.inbox.remove(RUN, ["c"])),
}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)


@pytest.fixture
def resources(ministack: str) -> AwsResources:
    reset_ministack(ministack)
    return new_resources(ministack)


@pytest.fixture
def clients(resources: AwsResources) -> Iterator[AwsClients]:
    clients = AwsClients(resources, session())
    yield clients
    clients.close()


@pytest.fixture
def backend(resources: AwsResources, clients: AwsClients) -> Backend:
    return open_aws(resources, clock=VirtualClock(NOW), clients=clients)


@pytest.fixture
def other(resources: AwsResources) -> Iterator[Backend]:
    """Another process on the same table."""
    backend = open_aws(resources, clock=VirtualClock(NOW + 1), clients=AwsClients(resources, session()))
    yield backend
    backend.close()


@pytest.mark.parametrize("name", CALLS)
def test_who_was_first_learns_so(backend: Backend, clients: AwsClients, other: Backend, name: str) -> None:
    operation, call = CALLS[name]
    lost = lose_answers(clients, operation)
    assert call(backend) is True
    assert lost[operation] == 1
    second = call(other)
    assert second is (name == "append")  # whose nonce is given, and the same here


@pytest.mark.parametrize("name", CALLS)
def test_who_was_second_learns_so(backend: Backend, clients: AwsClients, other: Backend, name: str) -> None:
    if name == "append":
        assert other.runs.append(RUN, turn(nonce="theirs")) is True
    elif name == "create":
        assert other.runs.create(run_record(workflow="theirs")) is True
    else:
        assert CALLS[name][1](other) is True
    operation, call = CALLS[name]
    client = clients.client("dynamodb")
    answers = iter([None])

    def send(request: Any, **_: Any) -> None:
        for _answer in answers:  # the first answer, a refusal, is lost
            from botocore.exceptions import ConnectionClosedError

            client._endpoint.http_session.send(request)
            raise ConnectionClosedError(endpoint_url=request.url)

    client.meta.events.register_first(f"before-send.dynamodb.{operation}", send)
    assert call(backend) is False


@pytest.mark.parametrize("name", QUIET)
def test_what_may_be_repeated(backend: Backend, clients: AwsClients, name: str) -> None:
    backend.runs.create(run_record())
    for key in ("a", "b"):
        backend.inbox.deposit(RUN, entry(key=key))
    operation, call = QUIET[name]
    lost = lose_answers(clients, operation)
    call(backend)
    assert lost[operation] == 1
    snapshot = backend.runs.load(RUN)
    assert snapshot is not None
    assert snapshot.run.closed is (name == "close")
    assert list(snapshot.inbox) == ([] if name == "remove" else [entry(key="a"), entry(key="b")])
    assert list(backend.steps.failed_attempts(RUN)) == ([FAILED] if name == "record" else [])


def test_all_answers_lost(backend: Backend, clients: AwsClients) -> None:
    """The call fails as busy although it took effect; its message comes again, and finds that the turn is there."""
    lost = lose_answers(clients, "PutItem", times=1)
    client = clients.client("dynamodb")

    def fail(request: Any, **_: Any) -> None:
        from botocore.exceptions import ReadTimeoutError

        raise ReadTimeoutError(endpoint_url=request.url)

    client.meta.events.register_last("before-send.dynamodb.PutItem", fail)
    with pytest.raises(StoreBusyError, match="may or may not have had its effect"):
        backend.runs.append(RUN, turn())
    client.meta.events.unregister("before-send.dynamodb.PutItem", fail)
    assert lost["PutItem"] == 1
    assert backend.runs.append(RUN, turn()) is True
    assert list(backend.inspector.history(RUN)) == [turn()]


def test_a_late_request_raises_no_flag_that_was_lowered(backend: Backend, other: Backend) -> None:
    """Its sender had given it up, and raised the flag with another. Nobody would send the wake-up it stands for."""
    assert backend.inbox.raise_flag(RUN, now=NOW) is True
    other.inbox.lower_flag(RUN)  # at NOW + 1
    backend.inbox.raise_flag(RUN, now=NOW)
    assert backend.inbox.raise_flag(RUN, now=NOW + 2) is True


def test_a_clock_that_is_behind_wakes_once_too_often(backend: Backend, other: Backend) -> None:
    other.inbox.lower_flag(RUN)  # at NOW + 1
    assert backend.inbox.raise_flag(RUN, now=NOW) is True
    assert backend.inbox.raise_flag(RUN, now=NOW) is True
