"""Events as AWS sends them, read by the real queue; nothing is sent to AWS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import botocore.session
import pytest
from aws_lambda_powertools.utilities.parameters import SecretsProvider
from botocore.stub import ANY, Stubber

from benchmarks.cold_start import ENVIRONMENT
from everstep.assembly import SqsDeliveries, connect, sqs_deliveries
from everstep.backends.memory import open_memory
from everstep.core.messages import ExecuteStep, FireTimer
from everstep.errors import ConfigurationError, StoreError
from everstep.ports import Unreadable
from everstep.runtime.connection import Connection
from everstep.serverless.deliveries import run_of_delivery
from everstep.serverless.gateway import signed
from everstep.serverless.tokens import secret_tokens
from everstep.settings import read_settings
from tests.aws.handlers.functions import event

RUN = "wrun_01JD9ZCX5R7M2K8T4V6W0Y1N3P"


@pytest.fixture
def connection(monkeypatch) -> Iterator[Connection]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "example")
    connection = connect(read_settings(ENVIRONMENT))
    yield connection
    connection.close()


@pytest.fixture
def deliveries(connection: Connection) -> SqsDeliveries:
    return sqs_deliveries(connection)


def body(name: str) -> str:
    return event(name)["Records"][0]["body"]


@pytest.mark.parametrize("name", ["sqs", "deadletter"])
def test_a_step_through_sqs(deliveries, name):
    delivery = deliveries.read(body(name), 1)
    assert delivery.message == ExecuteStep(
        run_id=RUN,
        workflow="order",
        op=0,
        name="pack",
        attempt=1,
        input=b'{"item":"anvil","count":2}',
        sole=True,
        first_at=1763812800123000,
    )
    assert (delivery.message_id, delivery.root_id, delivery.workflow) == (f"step/{RUN}/0/1", RUN, "order")


def test_a_timer_through_the_scheduler(deliveries, connection):
    delivery = deliveries.read(body("scheduler_through_sqs"), 1)
    assert delivery.message == FireTimer(run_id=RUN, op=3, due=delivery.due)
    assert deliveries.read(body("scheduler_through_sqs"), 4).receives == 4


def test_what_came_early_is_sent_on_as_it_came(deliveries, connection, monkeypatch):
    delivery = deliveries.read(body("scheduler_through_sqs"), 1)
    monkeypatch.setattr(connection.clock, "now", lambda: delivery.due - 45_000_000)
    client = connection.backend.queue._clients.client("sqs")
    with Stubber(client) as stubber:
        stubber.add_response(
            "send_message_batch",
            {"Successful": [], "Failed": []},
            {
                "QueueUrl": ENVIRONMENT["EVERSTEP_QUEUE_URL"],
                "Entries": [{"Id": ANY, "MessageBody": body("scheduler_through_sqs"), "DelaySeconds": 45}],
            },
        )
        deliveries.send_on(delivery, body("scheduler_through_sqs"))
        stubber.assert_no_pending_responses()


def test_a_message_of_a_newer_version_names_its_run(deliveries):
    delivery = deliveries.read(f'{{"v":2,"id":"step/{RUN}/0/1","due":1}}', 1)
    assert isinstance(delivery.message, Unreadable)
    assert run_of_delivery(delivery) == RUN


def test_another_queue_is_refused():
    other = Connection(open_memory(atomic_units=False), object(), entropy=bytes, chance=float)
    with pytest.raises(ConfigurationError, match="do not come through SQS"):
        sqs_deliveries(other)


# --- who may use the API -----------------------------------------------------------------------------


def secrets(value: dict[str, Any] | None) -> tuple[SecretsProvider, Stubber]:
    session = botocore.session.Session()
    session.set_credentials("example", "example")
    client = session.create_client("secretsmanager", region_name="eu-central-1")
    stubber = Stubber(client)
    if value is None:
        stubber.add_client_error("get_secret_value", "AccessDeniedException")
    else:
        stubber.add_response("get_secret_value", value, {"SecretId": "everstep-token"})
    stubber.activate()
    return SecretsProvider(boto3_client=client), stubber


def test_tokens_are_the_words_of_the_secret_and_are_kept_a_while():
    provider, _ = secrets({"SecretString": "first-token-of-two\nsecond-token-of-two\n"})
    tokens = secret_tokens("everstep-token", provider)
    assert tokens() == ["first-token-of-two", "second-token-of-two"]
    assert tokens() == tokens()  # there is one answer


def test_tokens_that_cannot_be_read():
    for value in (None, {"SecretString": " "}):
        with pytest.raises((StoreError, ConfigurationError), match="secret 'everstep-token'"):
            secret_tokens("everstep-token", secrets(value)[0])()


def test_no_secret_no_tokens():
    assert secret_tokens(None)() == ()


@pytest.mark.parametrize(
    ("authorizer", "vouched"),
    [
        ({"iam": {"userArn": "arn:aws:iam::123456789012:user/ada", "accountId": "123456789012"}}, True),
        ({"iam": {"userArn": ""}}, False),
        ({"jwt": {"claims": {}}}, False),
        ({"iam": None}, False),
        (None, False),
    ],
)
def test_a_request_is_signed_when_the_gateway_names_its_sender(authorizer, vouched):
    sent = event("http")
    if authorizer is not None:
        sent["requestContext"]["authorizer"] = authorizer
    assert signed({"aws.event": sent}) is vouched
    assert not signed({"headers": [(b"authorizer", b"iam")]})
