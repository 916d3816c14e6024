"""The functions of a deployed app in this process, and the queue between them, which goes by the clock of the test."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import random
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, Final

from everstep import read_stream
from everstep.app import Workflow, Workflows
from everstep.assembly import sqs_deliveries, use_connection
from everstep.backends.aws import AwsClients, AwsResources, open_aws
from everstep.client import start_sync
from everstep.core.history import Micros, StepCompleted, StepFailed
from everstep.errors import StoreError
from everstep.runtime.connection import Connection
from everstep.serverless.deadletter import DeadLetterHandler
from everstep.serverless.messages import MessageHandler
from everstep.serverless.observe import Watch
from everstep.testing import VirtualClock
from everstep.testing.oracles import CountedSteps
from tests.aws.backend.provisioned import new_resources, session
from tests.aws.backend.wire import Wire
from tests.aws.handlers.functions import Context, event
from tests.aws.servers.emulator import REGION

SECOND: Final[Micros] = 1_000_000
BEGIN: Final[Micros] = 2_840_000_000 * SECOND
"""In 2059: schedules are for later still, so that MiniStack, which has a clock of its own, fires none of them."""
MOMENT: Final[Micros] = 1_000
"""Passes at least from one invocation to the next."""
VISIBILITY: Final[Micros] = 180 * SECOND
"""After so long a message that was not handled comes again."""
_HIDDEN: Final = 43_200
"""Seconds for which SQS delivers a message to nobody else: it need not be deleted."""
MAX_RECEIVES: Final = 8
MOST: Final = 300
"""Invocations. No run here needs so many."""
_names: Final = itertools.count()


@dataclass(slots=True, kw_only=True)
class Held:
    """A message in the queue, or in that of dead letters."""

    body: str
    visible_at: Micros
    receives: int = 0
    dead: bool = False

    @property
    def message_id(self) -> str:
        try:
            return str(json.loads(self.body)["id"])
        except (ValueError, TypeError, KeyError):
            return ""


@cache
def _client(endpoint: str, service: str) -> Any:
    return session().create_client(service, region_name=REGION, endpoint_url=endpoint)


@cache
def _straight(endpoint: str) -> AwsClients:
    """Clients that reach MiniStack directly, the same for all tests: making them takes longer than a run."""
    resources = AwsResources(
        table="any",
        queue_url="any",
        queue_arn="any",
        bucket="any",
        schedule_group="any",
        scheduler_role_arn="any",
        region=REGION,
        endpoint_url=endpoint,
    )
    return AwsClients(resources, session())


class Queue:
    """What the real queue and the real schedule group hold, delivered by the clock of the test.

    Messages are sent without their delay, taken out of the real queue at once, and held here for as long as it would
    have held them. Schedules stay where they are until their time has come.
    """

    def __init__(self, ministack: str, resources: AwsResources, clock: VirtualClock) -> None:
        self.straight = _straight(ministack)
        self.came: Counter[str] = Counter()
        self._resources = resources
        self._clock = clock
        self._held: list[Held] = []
        self._delays: dict[str, int] = {}
        self._schedules: list[tuple[Micros, str, str]] = []
        self.sent = False
        self.scheduled = False

    def watch(self, clients: AwsClients) -> None:
        clients.client("sqs").meta.events.register("provide-client-params.sqs.SendMessageBatch", self._without_delay)
        clients.client("scheduler").meta.events.register("provide-client-params.scheduler.*", self._schedules_change)

    def put(self, held: Held) -> None:
        self._held.append(held)

    def send(self, body: str) -> None:
        """As anybody may who may send to the queue."""
        self.straight.call("sqs", "SendMessage", QueueUrl=self._resources.queue_url, MessageBody=body)
        self.sent = True

    def take(self) -> Held | None:
        """The next message; time skips to it if need be."""
        self._collect()
        first = min(self._held, key=lambda held: held.visible_at, default=None)
        scheduled = min(self._schedules, default=None)
        if scheduled is not None and (first is None or scheduled[0] < first.visible_at):
            at, name, body = scheduled
            group = self._resources.schedule_group
            self.straight.call("scheduler", "DeleteSchedule", Name=name, GroupName=group)
            self._schedules.remove(scheduled)
            first = Held(body=body, visible_at=at)
            self.came[first.message_id] += 1
        elif first is not None:
            self._held.remove(first)
        else:
            return None
        self._clock.set(max(first.visible_at, self._clock.now()) + MOMENT)
        return first

    # --- what the oracles ask of a source of messages --------------------------------------------

    def next_due(self) -> Micros | None:
        self._collect()
        return min([held.visible_at for held in self._held] + [at for at, *_ in self._schedules], default=None)

    def recover(self, *, now: Micros) -> int:
        return 0

    # --- the real ones ---------------------------------------------------------------------------

    def _without_delay(self, params: dict[str, Any], **_: Any) -> dict[str, Any]:
        self.sent = True
        for entry in params["Entries"]:
            self._delays[entry["MessageBody"]] = entry["DelaySeconds"]
        return {**params, "Entries": [{**entry, "DelaySeconds": 0} for entry in params["Entries"]]}

    def _schedules_change(self, **_: Any) -> None:
        self.scheduled = True

    def _collect(self) -> None:
        call, url, group = self.straight.call, self._resources.queue_url, self._resources.schedule_group
        asked = {"QueueUrl": url, "MaxNumberOfMessages": 10, "VisibilityTimeout": _HIDDEN, "WaitTimeSeconds": 0}
        full = self.sent
        while full:
            answer = call("sqs", "ReceiveMessage", **asked)
            found = answer.get("Messages", [])
            full = len(found) == 10
            for raw in found:
                delay = self._delays.get(raw["Body"], 0) * SECOND
                self._held.append(Held(body=raw["Body"], visible_at=self._clock.now() + delay))
                self.came[self._held[-1].message_id] += 1
        if self.scheduled:
            listed = call("scheduler", "ListSchedules", GroupName=group)["Schedules"]
            found = [call("scheduler", "GetSchedule", Name=each["Name"], GroupName=group) for each in listed]
            self._schedules = [_schedule(each) for each in found]
        self.sent = self.scheduled = False


def _schedule(found: dict[str, Any]) -> tuple[Micros, str, str]:
    at = datetime.strptime(found["ScheduleExpression"], "at(%Y-%m-%dT%H:%M:%S)").replace(tzinfo=UTC)
    return int(at.timestamp()) * SECOND, found["Name"], found["Target"]["Input"]


class Functions:
    """A deployed app: its worker function, its dead-letter function, and a program that starts runs.

    They reach AWS at `endpoint`; what stands for the platform reaches MiniStack directly.
    """

    def __init__(self, app: Workflows, ministack: str, endpoint: str, *, retention_days: int = 0) -> None:
        self.clock = VirtualClock(BEGIN)
        direct = new_resources(ministack, client=partial(_client, ministack), retention_days=retention_days)
        self.resources = replace(direct, endpoint_url=endpoint)
        self.clients = AwsClients(self.resources, session())
        self.wire = Wire()
        self.wire.watch(self.clients)
        self.queue = Queue(ministack, direct, self.clock)
        self.queue.watch(self.clients)
        backend = open_aws(self.resources, clock=self.clock, clients=self.clients)
        self.backend = replace(backend, source=self.queue)  # type: ignore[arg-type]
        chance = random.Random(0)
        self.connection = Connection(self.backend, self.clock, entropy=chance.randbytes, chance=chance.random)
        self.lines = io.StringIO()
        self.watch = Watch(service=f"faults-{next(_names)}", stream=self.lines)
        self._direct = open_aws(direct, clock=self.clock, clients=self.queue.straight)
        self.bodies: Counter[tuple[str, int, int]] = Counter()
        self.in_vain: list[str] = []
        """Steps whose bodies ran although their outcomes were recorded, and whose messages had come before."""
        self.kept = 0
        self.refused_starts = 0
        self._processes = ExitStack()
        self.deploy(app)

    def deploy(self, app: Any) -> None:
        """From now on this app is what the functions run, in processes that know of nothing."""
        self._processes.close()
        self.app = app
        self.engine = self.connection.engine(CountedSteps(app, self.bodies), observe=self.watch.tell)
        deliveries = sqs_deliveries(self.connection)
        self.worker = MessageHandler(self.engine, deliveries, self.watch)
        self.dead_letters = DeadLetterHandler(self.engine, deliveries, self.watch)
        for close in (self.engine.live.clear, self.worker.close, self.dead_letters.close):
            self._processes.callback(close)

    def close(self) -> None:
        self._processes.close()
        self.connection.close()

    # --- what happens ----------------------------------------------------------------------------

    def start(self, program: Workflow[Any, Any]) -> str:
        """Start a run as a program does that does not give up: under the same key, until that raises no error."""
        keyed = program.with_options(idempotency_key="the-run")
        while True:
            try:
                with use_connection(self.connection):
                    return start_sync(keyed).run_id
            except StoreError:
                self.refused_starts += 1
                assert self.refused_starts < 10, "too many refused starts"

    def deliver(self) -> Held | None:
        """One invocation, with the message that is next. It is returned; None when there is none."""
        held = self.queue.take()
        if held is None:
            return None
        if not self.handled(held):
            self.kept += 1
            held.visible_at = self.clock.now() + VISIBILITY
            if not held.dead and held.receives >= MAX_RECEIVES:
                held.dead, held.receives = True, 0
            self.queue.put(held)
        return held

    def handled(self, held: Held) -> bool:
        """Invoke the function that receives the message; whether that has dealt with it."""
        held.receives += 1
        recorded = held.receives > 1 and self._is_recorded(held)
        begun = self.bodies.total()
        try:
            return self._invoke(held)
        finally:
            if recorded and self.bodies.total() > begun:
                self.in_vain.append(held.message_id)

    def _invoke(self, held: Held) -> bool:
        sent = event("deadletter" if held.dead else "sqs")
        [record] = sent["Records"]
        record["body"] = held.body
        record["attributes"]["ApproximateReceiveCount"] = str(held.receives)
        with use_connection(self.connection):  # which steps use
            answer = (self.dead_letters if held.dead else self.worker)(sent, Context())
        assert answer["batchItemFailures"] in ([], [{"itemIdentifier": record["messageId"]}])
        return not answer["batchItemFailures"]

    def _is_recorded(self, held: Held) -> bool:
        """Whether the message asks for a step whose outcome the run has, or has in its inbox."""
        match held.message_id.split("/"):
            case ["step", run_id, op, _]:
                snapshot = self._direct.runs.load(run_id)
            case _:
                return False
        if snapshot is None:
            return False
        events = [event for turn in snapshot.turns for event in turn.events] + [entry.event for entry in snapshot.inbox]
        return any(isinstance(event, StepCompleted | StepFailed) and str(event.op) == op for event in events)

    def work(self) -> None:
        """Until no message is left."""
        for _ in range(MOST):
            if self.deliver() is None:
                return
        raise AssertionError(f"it does not end:\n{self.log()}")

    # --- what became of it -----------------------------------------------------------------------

    @property
    def disturbed(self) -> bool:
        """Whether a message was handled more than once, so that the body of a step may have run again."""
        twice = any(times > 1 and name.startswith("step/") for name, times in self.queue.came.items())
        return self.kept > 0 or twice

    def items(self, run_id: str) -> dict[str, dict[str, Any]]:
        """What the table has of a run, by sort key."""
        found = self.queue.straight.call(
            "dynamodb",
            "Query",
            TableName=self.resources.table,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": f"run#{run_id}"}},
        )
        return {item["sk"]["S"]: item for item in found["Items"]}

    def stream(self, run_id: str) -> list[Any]:
        """What steps of the run have written."""

        async def read() -> list[Any]:
            return [chunk async for chunk in read_stream(run_id)]

        with use_connection(self.connection):
            return asyncio.run(read())

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.getvalue().splitlines()]

    def log(self) -> str:
        """The end of the log, for people."""
        return self.lines.getvalue()[-4000:]
