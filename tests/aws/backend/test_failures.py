"""Errors of AWS become ours, at one place."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from botocore.stub import Stubber

from everstep.backends.aws import AwsClients, AwsResources, open_aws
from everstep.core.history import CompleteRun
from everstep.errors import ConfigurationError, EverstepError, SerializationError, StoreBusyError, StoreError
from everstep.ports import Backend
from everstep.testing.clock import VirtualClock
from everstep.testing.contracts.samples import MINUTE, NOW, entry, outgoing, run_id, run_record, turn
from tests.aws.backend.provisioned import session

RUN = run_id()
NOISE = random.Random(1).randbytes(500_000)
"""Does not become smaller by compression."""
RESOURCES = AwsResources(
    table="runs-table",
    queue_url="https://sqs.eu-central-1.amazonaws.com/123456789012/work-queue",
    queue_arn="arn:aws:sqs:eu-central-1:123456789012:work-queue",
    bucket="payload-bucket",
    schedule_group="timer-group",
    scheduler_role_arn="arn:aws:iam::123456789012:role/scheduler",
    region="eu-central-1",
)


@pytest.fixture
def clients() -> AwsClients:
    return AwsClients(RESOURCES, session())


@pytest.fixture
def backend(clients: AwsClients) -> Backend:
    return open_aws(RESOURCES, clock=VirtualClock(NOW), clients=clients)


@pytest.fixture
def fail(clients: AwsClients) -> Iterator[Callable[..., None]]:
    """Let the next request of a service fail so."""
    stubbers: list[Stubber] = []

    def prepare(service: Any, operation: str, code: str, message: str = "said", status: int = 400) -> None:
        stubber = Stubber(clients.client(service))
        stubber.add_client_error(operation, code, message, status)
        stubber.activate()
        stubbers.append(stubber)

    yield prepare
    for stubber in stubbers:
        stubber.deactivate()


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("ProvisionedThroughputExceededException", 400, StoreBusyError),
        ("ThrottlingException", 400, StoreBusyError),
        ("RequestLimitExceeded", 400, StoreBusyError),
        ("InternalServerError", 500, StoreBusyError),
        ("ServiceUnavailable", 503, StoreBusyError),
        ("Unheard", 502, StoreBusyError),
        ("Unheard", 429, StoreBusyError),
        ("AccessDeniedException", 400, StoreError),
        ("ExpiredTokenException", 400, StoreError),
        ("UnrecognizedClientException", 400, StoreError),
        ("ResourceNotFoundException", 400, ConfigurationError),
        ("ValidationException", 400, StoreError),
        ("com.amazonaws.dynamodb#ThrottlingException", 400, StoreBusyError),
        ("KMS.ThrottlingException", 400, StoreBusyError),
    ],
)
def test_errors_of_the_table(
    backend: Backend, fail: Callable[..., None], code: str, status: int, kind: type[EverstepError]
) -> None:
    fail("dynamodb", "put_item", code, status=status)
    with pytest.raises(EverstepError, match="'runs-table'") as caught:
        backend.runs.append(RUN, turn())
    assert type(caught.value) is kind
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_too_large(backend: Backend, fail: Callable[..., None]) -> None:
    fail("dynamodb", "put_item", "ValidationException", "Item size has exceeded the maximum allowed size")
    with pytest.raises(SerializationError, match="too large for table 'runs-table'"):
        backend.runs.append(RUN, turn())


@pytest.mark.parametrize(
    ("service", "operation", "call", "named"),
    [
        ("dynamodb", "put_item", lambda b: b.runs.create(run_record()), "dynamodb:PutItem on table 'runs-table'"),
        ("dynamodb", "query", lambda b: b.runs.load(RUN), "dynamodb:Query on table 'runs-table'"),
        ("dynamodb", "delete_item", lambda b: b.inbox.remove(RUN, ["a"]), "dynamodb:DeleteItem on table"),
        (
            "dynamodb",
            "batch_write_item",
            lambda b: b.inbox.remove(RUN, ["a", "b"]),
            "dynamodb:BatchWriteItem on table",
        ),
        ("sqs", "send_message_batch", lambda b: b.queue.send([outgoing()]), "sqs:SendMessage on queue 'work-queue'"),
        (
            "scheduler",
            "create_schedule",
            lambda b: b.queue.send([outgoing(due=NOW + 60 * MINUTE)]),
            "scheduler:CreateSchedule on schedule group 'timer-group'",
        ),
        (
            "s3",
            "put_object",
            lambda b: b.runs.append(RUN, turn(commands=(CompleteRun(result=NOISE),))),
            "s3:PutObject on bucket 'payload-bucket'",
        ),
    ],
)
def test_access_denied_names_action_and_resource(
    backend: Backend,
    fail: Callable[..., None],
    service: str,
    operation: str,
    call: Callable[[Backend], object],
    named: str,
) -> None:
    fail(service, operation, "AccessDeniedException", "User: x is not authorized", 403)
    with pytest.raises(StoreError) as caught:
        call(backend)
    assert f"refused {named}" in str(caught.value)
    assert "User: x is not authorized" in str(caught.value)


@pytest.mark.parametrize(
    "code", ["AccessDenied", "KMS.AccessDeniedException", "com.amazon.coral#AccessDeniedException"]
)
def test_access_is_denied_under_many_names(backend: Backend, fail: Callable[..., None], code: str) -> None:
    fail("sqs", "send_message_batch", code)
    with pytest.raises(StoreError, match="refused sqs:SendMessage on queue 'work-queue': access denied"):
        backend.queue.send([outgoing()])


@pytest.mark.parametrize(
    ("service", "operation", "code", "call", "named"),
    [
        ("dynamodb", "get_item", "ResourceNotFoundException", lambda b: b.inspector.get_run(RUN), "table 'runs-table'"),
        (
            "sqs",
            "send_message_batch",
            "AWS.SimpleQueueService.NonExistentQueue",
            lambda b: b.queue.send([outgoing()]),
            "queue 'work-queue'",
        ),
        (
            "scheduler",
            "create_schedule",
            "ResourceNotFoundException",
            lambda b: b.queue.send([outgoing(due=NOW + 60 * MINUTE)]),
            "schedule group 'timer-group'",
        ),
        (
            "s3",
            "put_object",
            "NoSuchBucket",
            lambda b: b.inbox.deposit(RUN, replace_result(entry(), NOISE)),
            "bucket 'payload-bucket'",
        ),
    ],
)
def test_what_is_missing_is_named(
    backend: Backend,
    fail: Callable[..., None],
    service: str,
    operation: str,
    code: str,
    call: Callable[[Backend], object],
    named: str,
) -> None:
    fail(service, operation, code)
    with pytest.raises(ConfigurationError, match=f"there is no {named} in this region .* Deploy the stack"):
        call(backend)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectTimeoutError(endpoint_url="http://x"), StoreBusyError),
        (ReadTimeoutError(endpoint_url="http://x"), StoreBusyError),
        (ConnectionClosedError(endpoint_url="http://x"), StoreBusyError),
        (EndpointConnectionError(endpoint_url="http://x", error="refused"), StoreBusyError),
        (NoCredentialsError(), ConfigurationError),
    ],
)
def test_errors_of_the_network(
    backend: Backend, clients: AwsClients, error: Exception, kind: type[EverstepError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(request: Any, **_: Any) -> None:
        raise error

    monkeypatch.setattr("botocore.retries.standard.time.sleep", lambda _: None, raising=False)
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
    clients.client("dynamodb").meta.events.register_first("before-send.dynamodb.PutItem", send)
    with pytest.raises(EverstepError, match="runs-table") as caught:
        backend.runs.append(RUN, turn())
    assert type(caught.value) is kind


def test_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
    values = {name: getattr(RESOURCES, name) for name in AwsResources.__slots__}
    resources = AwsResources(**values | {"endpoint_url": "http://127.0.0.1:9"})
    backend = open_aws(resources, clock=VirtualClock(NOW))
    with pytest.raises(StoreBusyError, match="did not answer dynamodb:Query"):
        backend.runs.load(RUN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delay_limit": 901}, "from 1 to 900"),
        ({"delay_limit": 0}, "from 1 to 900"),
        ({"retention_days": 14}, "at least 15"),
        ({"retention_days": -1}, "at least 15"),
    ],
)
def test_wrong_resources(changes: dict[str, Any], message: str) -> None:
    values = {name: getattr(RESOURCES, name) for name in AwsResources.__slots__}
    with pytest.raises(ConfigurationError, match=message):
        AwsResources(**values | changes)


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.register("ann", until=1),
        lambda s: s.receive("ann", limit=1, now=1),
        lambda s: s.acknowledge(["a"]),
        lambda s: s.release("ann", ["a"]),
        lambda s: s.recover(now=1),
        lambda s: s.next_due(),
        lambda s: s.orphans(known=[], due_before=1),
        lambda s: s.leave("ann"),
        lambda s: s.changes(),
    ],
)
def test_nobody_fetches_messages(backend: Backend, call: Callable[[Any], object]) -> None:
    with pytest.raises(ConfigurationError, match="the queue's event source mapping delivers them"):
        call(backend.source)


def replace_result(deposited: Any, result: bytes) -> Any:
    return replace(deposited, event=replace(deposited.event, result=result))
