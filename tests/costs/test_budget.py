"""The budget of the design, held by the real engine on the real backend: what the meter says a run takes.

Messages are taken from the queue and handled one after the other, by a client that is not metered: on AWS that is what
Lambda's pollers do, and `Usage.polled` adds what they are billed.
"""

from __future__ import annotations

import asyncio
import functools
import itertools

import boto3
import pytest
from moto import mock_aws

from everstep import Workflows
from everstep.backends.aws import AwsClients, AwsResources, SqsMessageQueue, open_aws
from everstep.costs.meter import CostMeter
from everstep.ports import Unreadable
from everstep.runtime.connection import Connection
from everstep.runtime.handle import StepRunner, handle
from everstep.testing.clock import VirtualClock
from infra.provision import provision

wf = Workflows()


@wf.step
async def double(*, number: int) -> int:
    return number * 2


@wf.workflow
async def sequence(*, steps: int) -> int:
    number = 1
    for _ in range(steps):
        number = await double(number=number) % 1000
    return number


@wf.workflow
async def fan_out(*, steps: int) -> int:
    return sum(await asyncio.gather(*(double(number=number) for number in range(steps))))


class Trial:
    """One run after the other, metered."""

    def __init__(self, client) -> None:
        made = provision(client, name="budget")
        resources = AwsResources(
            table=made.table,
            queue_url=made.queue_url,
            queue_arn=made.queue_arn,
            bucket=made.bucket,
            schedule_group=made.schedule_group,
            scheduler_role_arn=made.scheduler_role_arn,
            region="us-east-1",
        )
        clock = VirtualClock()
        clients = AwsClients(resources)
        self.meter = CostMeter()
        for service in ("dynamodb", "sqs", "s3", "scheduler"):
            self.meter.attach(clients.client(service))
        counter = itertools.count()
        backend = open_aws(resources, clock=clock, clients=clients)
        assert isinstance(backend.queue, SqsMessageQueue)
        self._queue = backend.queue
        self.connection = Connection(
            backend,
            clock,
            entropy=lambda size: next(counter).to_bytes(size, "big"),
            chance=lambda: 0.5,
        )
        self._sqs = client("sqs")
        self._queue_url = made.queue_url

    def run(self, workflow: str, steps: int, *, cold: bool = False):
        """The record of the run, what was used, and the number of invocations with a batch size of one."""
        before = self.meter.usage()
        data = wf.workflows[workflow].encode_json({"steps": steps})
        run = self.connection.start(workflow, data, attributes={})
        invocations = self.drain(self.connection.engine(wf), cold=cold)
        used = self.meter.usage() - before
        return self.connection.backend.runs.load(run.run_id), used, invocations

    def drain(self, engine, *, cold: bool = False) -> int:
        """Handle what is in the queue until it is empty; the number of invocations."""
        runner = StepRunner()
        invocations = 0
        while messages := self._sqs.receive_message(
            QueueUrl=self._queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=0
        ).get("Messages"):
            for message in messages:
                received = self._queue.read_body(message["Body"])
                assert not isinstance(received.message, Unreadable)
                if cold:
                    engine = self.connection.engine(wf)
                handle(engine, received.message, runner, root_id=received.root_id)
                self._sqs.delete_message(QueueUrl=self._queue_url, ReceiptHandle=message["ReceiptHandle"])
                invocations += 1
        runner.close()
        return invocations


@pytest.fixture
def trial(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        trial = Trial(functools.cache(functools.partial(boto3.client, region_name="us-east-1")))
        yield trial
        trial.connection.backend.close()


def test_ten_sequential_steps_on_a_warm_worker(trial):
    snapshot, used, invocations = trial.run("sequence", 10)
    assert snapshot.run.status == "completed"
    assert used.quantities["dynamodb.write"] <= 10 + 4
    assert used.details["index"] == 1
    assert used.details["refused"] == 0
    assert invocations == used.details["messages"] == 10 + 1
    assert used.quantities["dynamodb.read"] <= 1  # once, when the run begins
    assert used.requests["dynamodb:GetItem"] == 0
    assert used.quantities["s3.put"] == used.quantities["scheduler.invocation"] == 0
    billed = used.polled().invoked(invocations, milliseconds=25 * invocations, memory_mb=512)
    assert billed.dollars_per_million(10) == pytest.approx(2.61, abs=0.02)  # as docs/explanation/costs.md says


def test_ten_sequential_steps_on_cold_workers(trial):
    _, used, invocations = trial.run("sequence", 10, cold=True)
    assert used.quantities["dynamodb.write"] <= 10 + 4
    assert used.requests["dynamodb:Query"] <= invocations
    assert used.quantities["dynamodb.read"] <= 2 * invocations
    assert used.requests["dynamodb:GetItem"] == 0


def test_a_fan_out(trial):
    """An outcome is deposited, raises the wake flag (or finds it raised) and is removed: three units."""
    snapshot, used, invocations = trial.run("fan_out", 100)
    assert snapshot.run.status == "completed"
    assert used.quantities["dynamodb.write"] <= 3.1 * 100 + 4
    assert len(snapshot.turns) < 20
    assert invocations <= 100 + 20
