"""Run a workflow once on an emulated AWS in this process, and count what AWS would bill for it.

The backend, the protocols and the requests are the real ones; moto answers them, on a server of its own on loopback, so
that clients which the steps make are not touched by it. What Lambda's pollers do, which no client sees, is added: each
message that was sent is received, handled in an invocation of its own, and deleted. Time is skipped: a sleep of a year
is measured at once. Steps really run.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from everstep.app import Workflows
from everstep.assembly import use_connection
from everstep.backends.aws import AwsClients, AwsResources, SqsMessageQueue, open_aws
from everstep.core.durations import to_micros
from everstep.core.history import Micros
from everstep.core.run import RunRecord
from everstep.costs.meter import INDEXES, CostMeter, Usage, sqs_requests
from everstep.errors import ConfigurationError, EverstepError
from everstep.ports import Unreadable
from everstep.runtime.connection import Connection
from everstep.runtime.execute import Threads
from everstep.runtime.handle import StepRunner, handle
from everstep.runtime.progress import AttemptStarted, Progress

MOST_INVOCATIONS: Final = 20_000
REGION: Final = "us-east-1"
NAME: Final = "trial"
PUBLIC_URL: Final = "https://trial.example"
"""Of webhooks, which nobody calls here."""
ACCOUNT: Final = "123456789012"
SECOND: Final = 1_000_000
SERVICES: Final = ("dynamodb", "sqs", "scheduler", "s3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one run took.

    Attributes:
        run: the run at its end, or parked, or waiting for somebody outside.
        usage: by names of the price book, without Lambda's time.
        steps: of this run and those it started.
        invocations: of the worker.
        step_seconds: what the steps themselves took here.
    """

    run: RunRecord
    usage: Usage
    steps: int
    attempts: int
    invocations: int
    schedules: int
    step_seconds: float


class _SkippedTime:
    """The machine's clock, put forward to whatever is waited for."""

    def __init__(self) -> None:
        self._ahead = 0

    def now(self) -> Micros:
        return time.time_ns() // 1000 + self._ahead  # noqa: TID251 - where time comes in

    def skip_to(self, moment: Micros) -> None:
        self._ahead += max(0, moment - self.now())


@dataclass(slots=True)
class _InFlight:
    """Bodies on their way to the worker, as the clients send them: what SQS and the Scheduler would deliver."""

    clock: _SkippedTime
    waiting: list[tuple[Micros, int, str, str | None]] = field(default_factory=list)
    deleted: set[str] = field(default_factory=set)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def watch(self, clients: AwsClients) -> None:
        clients.client("sqs").meta.events.register("before-parameter-build.sqs.SendMessageBatch", self._sent)
        scheduler = clients.client("scheduler").meta.events
        scheduler.register("before-parameter-build.scheduler.CreateSchedule", self._scheduled)
        scheduler.register("before-parameter-build.scheduler.DeleteSchedule", self._unscheduled)

    def take(self) -> tuple[Micros, str, bool] | None:
        """What arrives next, and whether a schedule sent it."""
        while self.waiting:
            at, _, body, schedule = heapq.heappop(self.waiting)
            if schedule is None or schedule not in self.deleted:
                return at, body, schedule is not None
        return None

    def _sent(self, params: dict[str, Any], **_: Any) -> None:
        for entry in params["Entries"]:
            at = self.clock.now() + entry.get("DelaySeconds", 0) * SECOND
            heapq.heappush(self.waiting, (at, next(self._numbers), entry["MessageBody"], None))

    def _scheduled(self, params: dict[str, Any], **_: Any) -> None:
        found = re.fullmatch(r"at\((.+)\)", params["ScheduleExpression"])
        if found is None:
            raise AssertionError(params["ScheduleExpression"])
        at = to_micros(datetime.fromisoformat(found[1]).replace(tzinfo=UTC))
        self.deleted.discard(params["Name"])
        heapq.heappush(self.waiting, (at, next(self._numbers), params["Target"]["Input"], params["Name"]))

    def _unscheduled(self, params: dict[str, Any], **_: Any) -> None:
        self.deleted.add(params["Name"])


class _TimedRunner:
    """Runs steps, and knows how long they took together."""

    def __init__(self) -> None:
        self._runner = StepRunner()
        self.seconds = 0.0

    @property
    def threads(self) -> Threads:
        return self._runner.threads

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        begun = time.perf_counter()
        try:
            return self._runner.run(coroutine)
        finally:
            self.seconds += time.perf_counter() - begun

    def close(self) -> None:
        self._runner.close()


def measure(
    app: Workflows,
    start: Callable[[Connection], RunRecord],
    *,
    entropy: Callable[[int], bytes],
    chance: Callable[[], float],
    cold: bool = False,
) -> Measured:
    """Start a run and handle its messages until none is left.

    Args:
        start: starts the run on the connection.
        cold: every invocation meets a process that has never seen the run.
    """
    clock = _SkippedTime()
    seen: set[tuple[str, int]] = set()
    attempts = 0

    def tell(progress: Progress) -> None:
        nonlocal attempts
        if isinstance(progress, AttemptStarted):
            seen.add((progress.run_id, progress.op))
            attempts += 1

    with _server() as endpoint:
        resources = _resources(endpoint, f"{NAME}-{entropy(8).hex()}")
        clients = AwsClients(resources, _session())
        resources = _make(clients, resources)
        meter, flight = CostMeter(INDEXES), _InFlight(clock)
        for service in SERVICES:
            meter.attach(clients.client(service))
        flight.watch(clients)
        backend = open_aws(resources, clock=clock, clients=clients)
        queue = backend.queue
        if not isinstance(queue, SqsMessageQueue):
            raise AssertionError(queue)
        connection = Connection(backend, clock, entropy=entropy, chance=chance, public_url=PUBLIC_URL)
        runner = _TimedRunner()
        invocations = fired = requests = 0
        engine = connection.engine(app, observe=tell)
        try:
            with use_connection(connection):
                record = start(connection)
                while (arrived := flight.take()) is not None:
                    at, body, by_schedule = arrived
                    clock.skip_to(at)
                    invocations += 1
                    fired += by_schedule
                    chunks = sqs_requests(len(body))
                    requests += chunks + 1 + (chunks if by_schedule else 0)
                    if invocations > MOST_INVOCATIONS:
                        raise ConfigurationError(
                            f"the run has taken {MOST_INVOCATIONS:,} invocations and has not ended: measure it with a "
                            f"smaller input"
                        )
                    received = queue.read_body(body)
                    if received.due > clock.now():  # a schedule fires early
                        queue.defer(received)
                        continue
                    if isinstance(received.message, Unreadable):
                        raise EverstepError(f"a message cannot be read: {received.message.reason}")
                    if cold:
                        engine.live.clear()
                    handle(engine, received.message, runner, root_id=received.root_id)
            usage = meter.usage()
            run = connection.get(record.run_id)
        finally:
            engine.live.clear()
            runner.close()
            connection.close()
    # What no client sees: a receive and a delete for each message, and what schedules send. A schedule is billed when
    # it sends; of those that were made some may have been deleted.
    usage.quantities["sqs.request"] += requests
    usage.quantities["scheduler.invocation"] = fired
    usage.quantities["lambda.request"] += invocations
    return Measured(
        run=run,
        usage=usage,
        steps=len(seen),
        attempts=attempts,
        invocations=invocations,
        schedules=fired,
        step_seconds=runner.seconds,
    )


# --- the emulated AWS ------------------------------------------------------------------------------


@contextmanager
def _server() -> Iterator[str]:
    """moto on loopback; the address."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # moto says what it lacks before it fails for it
            from moto.server import ThreadedMotoServer
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the emulated AWS of this measurement is not installed ({error.name} is missing): "
            f"pip install 'everstep[aws,cost]'"
        ) from error
    _check_settings()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def _check_settings() -> None:
    """What moto asks of this machine's AWS settings before it answers anything."""
    import botocore.session
    from botocore.exceptions import BotoCoreError

    try:
        botocore.session.Session().get_scoped_config()
    except BotoCoreError as error:
        raise ConfigurationError(
            f"AWS settings of this machine: {str(error).rstrip('.')}; mend or unset them"
        ) from error


def _session() -> Any:
    """One that heeds nothing this machine says of AWS or of proxies: neither files nor variables."""
    import botocore.session
    from botocore.config import Config

    settled = {"profile": None, "config_file": os.devnull, "credentials_file": os.devnull, "defaults_mode": "legacy"}
    session = botocore.session.Session({name: (None, None, value, None) for name, value in settled.items()})
    session.set_credentials("trial", "trial")
    session.set_default_client_config(Config(proxies={}))
    return session


def _resources(endpoint: str, name: str) -> AwsResources:
    return AwsResources(
        table=name,
        queue_url=f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{name}",
        queue_arn=f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}",
        bucket=name,
        schedule_group=name,
        scheduler_role_arn=f"arn:aws:iam::{ACCOUNT}:role/{name}",
        region=REGION,
        endpoint_url=endpoint,
    )


def _make(clients: AwsClients, resources: AwsResources) -> AwsResources:
    """The resources, as far as what they do to a bill is concerned: keys and indexes as in the template."""
    names = ["pk", "sk", *(key for index in INDEXES for key in index.keys)]
    clients.client("dynamodb").create_table(
        TableName=resources.table,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in names],
        KeySchema=_keys(("pk", "sk")),
        GlobalSecondaryIndexes=[
            {"IndexName": index.name, "KeySchema": _keys(index.keys), "Projection": {"ProjectionType": "KEYS_ONLY"}}
            for index in INDEXES
        ],
    )
    url = clients.client("sqs").create_queue(QueueName=resources.table)["QueueUrl"]
    clients.client("s3").create_bucket(Bucket=resources.bucket)
    clients.client("scheduler").create_schedule_group(Name=resources.schedule_group)
    values = {each: getattr(resources, each) for each in AwsResources.__slots__}
    return AwsResources(**{**values, "queue_url": url})


def _keys(names: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"AttributeName": name, "KeyType": kind} for name, kind in zip(names, ("HASH", "RANGE"), strict=True)]
