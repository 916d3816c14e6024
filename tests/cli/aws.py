"""A deployed stack for the command line: moto's server on loopback, and a worker that works when a test says so."""

from __future__ import annotations

import functools
import http.client
import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import botocore.session
import pytest
from moto.server import ThreadedMotoServer

from everstep.app import Workflows
from everstep.assembly import connect_aws, sqs_deliveries, use_connection
from everstep.cli.targets import load_app
from everstep.ports import Unreadable
from everstep.runtime.handle import StepRunner, handle
from everstep.settings import read_settings
from infra.provision import Resources, provision
from tests.cli.commands import APP

REGION: Final = "eu-central-1"
STACK: Final = "shop-prod"
ACCOUNT: Final = "123456789012"
MOST_MESSAGES: Final = 100
PRINTS: Final = '    print("a step prints")\n'


@dataclass
class Deployed:
    """The stack `STACK`, and the code that its functions have.

    Attributes:
        apps: all that were deployed; the last one works.
    """

    endpoint: str
    client: Callable[[str], Any]
    made: Resources
    folder: Path
    apps: list[Workflows] = field(default_factory=list)

    def deploy(self, source: str = APP) -> None:
        """Give the functions this code."""
        path = self.folder / f"{self.folder.name}_{len(self.apps)}.py"  # a name that no other module has
        path.write_text(source.replace(PRINTS, ""))
        app, _ = load_app(str(path))
        self.apps.append(app)

    @property
    def variables(self) -> dict[str, str]:
        """What a program needs to find the resources, without the stack."""
        return {**self.made.environment, "EVERSTEP_BACKEND": "aws", "AWS_REGION": REGION}

    def work(self) -> int:
        """What the worker does with all messages that are in the queue now and those that follow; how many."""
        settings = read_settings(self.variables).aws
        assert settings is not None
        connection = connect_aws(settings)
        deliveries, runner, sqs = sqs_deliveries(connection), StepRunner(), self.client("sqs")
        engine = connection.engine(self.apps[-1])
        count = 0
        try:
            with use_connection(connection):
                while messages := self._receive(sqs):
                    for each in messages:
                        delivery = deliveries.read(each["Body"], 1)
                        assert not isinstance(delivery.message, Unreadable)
                        handle(engine, delivery.message, runner, root_id=delivery.root_id)
                        sqs.delete_message(QueueUrl=self.made.queue_url, ReceiptHandle=each["ReceiptHandle"])
                        count += 1
                        assert count < MOST_MESSAGES
        finally:
            engine.live.clear()
            runner.close()
            connection.close()
        return count

    def _receive(self, sqs: Any) -> list[Any]:
        received = sqs.receive_message(QueueUrl=self.made.queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=0)
        messages: list[Any] = received.get("Messages", [])
        return messages

    def waiting(self) -> int:
        """How many messages are in the queue."""
        attributes = self.client("sqs").get_queue_attributes(QueueUrl=self.made.queue_url, AttributeNames=["All"])
        return int(attributes["Attributes"]["ApproximateNumberOfMessages"])

    def outputs(self, **changes: str | None) -> None:
        """Make the stack anew with other outputs; None takes one away."""
        cloudformation = self.client("cloudformation")
        cloudformation.delete_stack(StackName=STACK)
        _make_stack(cloudformation, {name: value for name, value in {**self.all_outputs, **changes}.items() if value})

    @property
    def all_outputs(self) -> dict[str, str]:
        made = self.made
        return {
            "Table": made.table,
            "QueueUrl": made.queue_url,
            "QueueArn": made.queue_arn,
            "DeadLetterQueueUrl": made.dead_letter_queue_url,
            "Bucket": made.bucket,
            "ScheduleGroup": made.schedule_group,
            "SchedulerRoleArn": made.scheduler_role_arn,
            "DelayLimit": "60",
            "RetentionDays": "0",
        }


def _make_stack(cloudformation: Any, outputs: dict[str, str]) -> None:
    template = {
        "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
        "Outputs": {name: {"Value": value} for name, value in outputs.items()},
    }
    cloudformation.create_stack(StackName=STACK, TemplateBody=json.dumps(template))


@contextmanager
def moto_server() -> Iterator[str]:
    """moto in this process, on loopback, without anything in it; its address."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        connection = http.client.HTTPConnection(host, port, timeout=10)
        connection.request("POST", "/moto-api/reset")  # what other tests of this process have left
        assert connection.getresponse().status == 200
        connection.close()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


CREDENTIALS: Final = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}
"""Credentials that are none, and nothing of this machine's."""


@contextmanager
def deployed_stack(folder: Path) -> Iterator[Deployed]:
    """Made from the template by `infra.provision`, but for the stack, which has outputs only."""
    with pytest.MonkeyPatch.context() as patch, moto_server() as endpoint:
        for name, value in {**CREDENTIALS, "AWS_REGION": REGION, "AWS_ENDPOINT_URL": endpoint}.items():
            patch.setenv(name, value)
        patch.setattr(sys, "path", list(sys.path))  # the folder of what is deployed comes before it
        session = botocore.session.Session()
        client = functools.cache(functools.partial(session.create_client, region_name=REGION, endpoint_url=endpoint))
        made = provision(client, name=STACK, region=REGION, account=ACCOUNT)
        deployed = Deployed(endpoint, client, made, folder)
        _make_stack(client("cloudformation"), deployed.all_outputs)
        deployed.deploy()
        yield deployed
        for service in ("dynamodb", "sqs", "s3", "scheduler", "iam", "cloudformation"):
            client(service).close()
