"""Delays, schedules, batches and bodies of messages."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from moto import mock_aws

from everstep.assembly import SystemClock
from everstep.backends.aws import AwsClients, AwsResources, SqsMessageQueue, open_aws
from everstep.backends.aws.message_queue import LARGEST_BATCH
from everstep.backends.aws.scheduler import schedule_name
from everstep.core import messages
from everstep.core.history import Micros
from everstep.core.messages import ExecuteStep, FireTimer, Outgoing
from everstep.errors import StoreBusyError, StoreError
from everstep.ports import Unreadable
from everstep.testing.clock import VirtualClock
from everstep.testing.contracts.samples import MINUTE, NOW, SECOND, outgoing, run_id, sent_id
from tests.aws.backend.provisioned import new_resources, session
from tests.aws.backend.wire import Wire
from tests.aws.servers.emulator import reset_ministack

RUN = run_id()
DAY = 24 * 60 * MINUTE


class Opened:
    """A queue, what it asks AWS for, and its clock."""

    def __init__(self, resources: AwsResources) -> None:
        self.resources = resources
        self.clients = AwsClients(resources, session())
        self.wire = Wire()
        self.wire.watch(self.clients)
        self.clock = VirtualClock(NOW)
        queue = open_aws(resources, clock=self.clock, clients=self.clients).queue
        assert isinstance(queue, SqsMessageQueue)
        self.queue = queue

    def asked(self, operation: str) -> list[dict[str, Any]]:
        return [given for name, given in self.wire.parameters if name == operation]

    def entries(self) -> list[dict[str, Any]]:
        return [entry for given in self.asked("SendMessageBatch") for entry in given["Entries"]]


@pytest.fixture
def opened() -> Iterator[Opened]:
    with mock_aws():
        yield Opened(new_resources(None))


def _timer(due: Micros, op: int = 1) -> Outgoing:
    return messages.outgoing(FireTimer(run_id=RUN, op=op, due=due), due, RUN, "orders")


def _step(data: bytes, op: int = 1) -> Outgoing:
    step = ExecuteStep(run_id=RUN, workflow="w", op=op, name="s", attempt=1, input=data, sole=True, first_at=NOW)
    return messages.outgoing(step, NOW, RUN, "w")


# --- delays ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("due", "delay"),
    [(NOW - DAY, 0), (NOW, 0), (NOW + 1, 1), (NOW + SECOND, 1), (NOW + SECOND + 1, 2), (NOW + 900 * SECOND, 900)],
)
def test_short_delays_are_the_queues(opened: Opened, due: Micros, delay: int) -> None:
    opened.queue.send([_timer(due)])
    assert [entry["DelaySeconds"] for entry in opened.entries()] == [delay]
    assert opened.wire.requests == {"SendMessageBatch": 1}


@pytest.mark.parametrize("due", [NOW + 900 * SECOND + 1, NOW + DAY, NOW + 3650 * DAY, NOW + 12345 * SECOND + 678_901])
def test_long_delays_are_schedules(opened: Opened, due: Micros) -> None:
    """In whole seconds of UTC, early enough for a schedule that is 60 s late, never in the past, with a legal name."""
    opened.queue.send([_timer(due)])
    assert opened.wire.requests == {"CreateSchedule": 1}
    [given] = opened.asked("CreateSchedule")
    at = _at(given["ScheduleExpression"])
    assert due - 76 * SECOND < at <= due - 60 * SECOND
    assert at > NOW
    assert re.fullmatch(r"[0-9a-zA-Z_.-]{1,64}", given["Name"])
    assert given["ScheduleExpressionTimezone"] == "UTC"
    assert given["FlexibleTimeWindow"] == {"Mode": "OFF"}
    assert given["ActionAfterCompletion"] == "DELETE"
    assert given["GroupName"] == opened.resources.schedule_group
    assert given["Target"]["Arn"] == opened.resources.queue_arn
    assert given["Target"]["RoleArn"] == opened.resources.scheduler_role_arn
    received = opened.queue.read_body(given["Target"]["Input"])
    assert (received.message, received.due) == (FireTimer(run_id=RUN, op=1, due=due), due)


def test_nothing_in_a_schedule_is_filled_in(opened: Opened) -> None:
    """EventBridge Scheduler replaces ``<aws.scheduler.execution-id>`` and its like in what it sends."""
    step = _step(b'"<aws.scheduler.execution-id>"')
    sent = replace(step, due=NOW + DAY)
    opened.queue.send([sent])
    [given] = opened.asked("CreateSchedule")
    assert "<" not in given["Target"]["Input"]
    assert opened.queue.read_body(given["Target"]["Input"]).message == step.message


def test_the_end_of_time(opened: Opened) -> None:
    opened.queue.send([_timer(1 << 62)])
    [given] = opened.asked("CreateSchedule")
    assert given["ScheduleExpression"] == "at(2099-12-31T23:58:45)"
    opened.queue.defer(opened.queue.read_body(given["Target"]["Input"]))
    assert [entry["DelaySeconds"] for entry in opened.entries()] == [900]


def _at(expression: str) -> Micros:
    from datetime import UTC, datetime

    text = expression.removeprefix("at(").removesuffix(")")
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp()) * SECOND


def test_a_schedule_is_made_once(opened: Opened) -> None:
    opened.queue.send([_timer(NOW + DAY)])
    opened.queue.send([_timer(NOW + DAY)])
    assert len(opened.asked("CreateSchedule")) == 2
    scheduler = opened.clients.client("scheduler")
    listed = scheduler.list_schedules(GroupName=opened.resources.schedule_group)["Schedules"]
    assert [each["Name"] for each in listed] == [schedule_name(f"timer/{RUN}/1")]


def test_discard_deletes_the_schedule(opened: Opened) -> None:
    opened.queue.send([_timer(NOW + DAY, 1), _timer(NOW + DAY, 2)])
    opened.queue.discard([f"timer/{RUN}/1", f"timer/{RUN}/7"])
    opened.queue.discard([f"timer/{RUN}/1"])
    scheduler = opened.clients.client("scheduler")
    listed = scheduler.list_schedules(GroupName=opened.resources.schedule_group)["Schedules"]
    assert [each["Name"] for each in listed] == [schedule_name(f"timer/{RUN}/2")]


def test_discard_of_a_short_timer_asks_nobody(opened: Opened) -> None:
    opened.queue.send([_timer(NOW + MINUTE)])
    opened.wire.clear()
    opened.queue.discard([f"timer/{RUN}/1"])
    assert opened.wire.requests == {}


def test_discard_is_a_best_effort(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    from botocore.stub import Stubber

    with Stubber(opened.clients.client("scheduler")) as stubber:
        stubber.add_client_error("delete_schedule", "AccessDeniedException", "no", 403)
        opened.queue.discard([f"timer/{RUN}/1"])
    assert "was not deleted" in caplog.text
    assert "scheduler:DeleteSchedule" in caplog.text


def test_shorter_limits_for_trials() -> None:
    with mock_aws():
        opened = Opened(new_resources(None, delay_limit=4))
        opened.queue.send([_timer(NOW + 4 * SECOND, 1), _timer(NOW + 5 * SECOND, 2), _timer(NOW + 9 * SECOND, 3)])
        assert [entry["DelaySeconds"] for entry in opened.entries()] == [4, 4]  # for the second a schedule is too late
        [given] = opened.asked("CreateSchedule")
        assert _at(given["ScheduleExpression"]) == NOW + 5 * SECOND


@pytest.mark.parametrize(
    ("left", "delay"), [(-SECOND, 0), (0, 0), (1, 1), (SECOND, 1), (75 * SECOND, 75), (900 * SECOND, 900), (DAY, 900)]
)
def test_what_comes_early_is_sent_on(opened: Opened, left: Micros, delay: int) -> None:
    opened.queue.send([_timer(NOW + DAY)])
    [given] = opened.asked("CreateSchedule")
    received = opened.queue.read_body(given["Target"]["Input"])
    opened.clock.set(NOW + DAY - left)
    opened.wire.clear()
    opened.queue.defer(received)
    assert opened.entries() == [{"Id": "0", "MessageBody": received.body, "DelaySeconds": delay}]
    assert opened.wire.requests == {"SendMessageBatch": 1}


def test_a_schedule_fires_and_the_message_comes_in_time(ministack: str) -> None:
    """With real time: MiniStack looks for due schedules every 10 s, so what comes is mostly late, never lost."""
    reset_ministack(ministack)
    resources = new_resources(ministack, delay_limit=2)
    clients = AwsClients(resources, session())
    clock = SystemClock()
    queue = open_aws(resources, clock=clock, clients=clients).queue
    assert isinstance(queue, SqsMessageQueue)
    due = clock.now() + 5 * SECOND
    queue.send([_timer(due)])
    end = time.monotonic() + 40
    deferred = 0
    while time.monotonic() < end:
        sqs = clients.client("sqs")
        found = sqs.receive_message(QueueUrl=resources.queue_url, WaitTimeSeconds=1).get("Messages", [])
        for raw in found:
            received = queue.read_body(raw["Body"])
            sqs.delete_message(QueueUrl=resources.queue_url, ReceiptHandle=raw["ReceiptHandle"])
            if clock.now() < received.due:
                queue.defer(received)
                deferred += 1
                continue
            assert received.message == FireTimer(run_id=RUN, op=1, due=due)
            assert clock.now() >= due
            listed = clients.client("scheduler").list_schedules(GroupName=resources.schedule_group)["Schedules"]
            assert listed == []
            return
    raise AssertionError(f"it did not come; it was deferred {deferred} times")


# --- batches ---------------------------------------------------------------------------------------


def test_batches_are_of_ten_and_keep_the_order(opened: Opened) -> None:
    opened.queue.send([outgoing(number) for number in range(25)])
    assert [len(given["Entries"]) for given in opened.asked("SendMessageBatch")] == [10, 10, 5]
    assert [json.loads(entry["MessageBody"])["id"] for entry in opened.entries()] == [sent_id(n) for n in range(25)]


def test_batches_are_below_a_megabyte(opened: Opened) -> None:
    noise = random.Random(1)
    opened.queue.send([_step(noise.randbytes(120_000), op) for op in range(14)])
    sizes = [sum(len(e["MessageBody"]) for e in given["Entries"]) for given in opened.asked("SendMessageBatch")]
    assert len(sizes) == 3
    assert max(sizes) <= LARGEST_BATCH


def test_an_id_is_sent_once_in_a_call(opened: Opened) -> None:
    opened.queue.send([outgoing(root_id="first"), outgoing(1), outgoing(root_id="second")])
    sent = [
        (json.loads(entry["MessageBody"])["id"], json.loads(entry["MessageBody"])["root"]) for entry in opened.entries()
    ]
    assert sent == [(sent_id(0), "first"), (sent_id(1), "root")]


def _failing(opened: Opened, times: int, **entry: Any) -> None:
    """Let so many answers say that the entry with the Id 1 was not taken."""
    answers = iter(range(times))

    def change(parsed: dict[str, Any], **_: Any) -> None:
        for _answer in answers:
            parsed["Failed"] = [{"Id": "1", "Code": "InternalError", "SenderFault": False, "Message": "later", **entry}]
            parsed["Successful"] = [each for each in parsed["Successful"] if each["Id"] != "1"]
            return

    opened.clients.client("sqs").meta.events.register("after-call.sqs.SendMessageBatch", change)


def test_what_was_not_taken_is_sent_again(opened: Opened) -> None:
    _failing(opened, 2)
    opened.queue.send([outgoing(number) for number in range(3)])
    assert [[e["Id"] for e in given["Entries"]] for given in opened.asked("SendMessageBatch")] == [
        ["0", "1", "2"],
        ["1"],
        ["1"],
    ]


def test_what_is_never_taken_is_an_error(opened: Opened) -> None:
    _failing(opened, 99)
    with pytest.raises(StoreBusyError, match=re.escape(f"did not take message {sent_id(1)} (InternalError: later)")):
        opened.queue.send([outgoing(number) for number in range(3)])


def test_what_is_refused_is_an_error_at_once(opened: Opened) -> None:
    _failing(opened, 99, SenderFault=True, Code="InvalidMessageContents")
    with pytest.raises(StoreError, match=re.escape(f"refused message {sent_id(1)} (InvalidMessageContents")):
        opened.queue.send([outgoing(number) for number in range(3)])
    assert len(opened.asked("SendMessageBatch")) == 1


# --- bodies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (b'{"a":1}', "text"),
        ('"Zoë 🎈 \\u0000 \ufffe"'.encode(), "text"),
        (b'["' + b"abc" * 1000 + b'"]', "base64"),  # compressed
        (bytes(range(256)), "base64"),
        (("語" * 300).encode(), "base64"),
        (b"", "text"),
        (random.Random(1).randbytes(140_000), "base64"),
        (random.Random(1).randbytes(160_000), "blob"),
        (random.Random(1).randbytes(2_000_000), "blob"),
    ],
)
def test_bodies(opened: Opened, data: bytes, form: str) -> None:
    sent = _step(data)
    opened.queue.send([sent])
    [entry] = opened.entries()
    body = entry["MessageBody"]
    fields = json.loads(body)
    assert list(fields) == ["v", "id", "due", "root", "workflow", form]
    assert body.isascii()
    assert body.isprintable()
    assert len(body) <= 200_000
    received = opened.queue.read_body(body)
    assert (received.message_id, received.message, received.due) == (sent.message_id, sent.message, NOW)
    assert (received.root_id, received.workflow, received.body) == (RUN, "w", body)


def test_bodies_of_others(opened: Opened) -> None:
    for body in ("", "hello", "[]", "{}", '{"v":1}', '{"v":1,"id":7}', "[" * 100_000, "null"):
        received = opened.queue.read_body(body)
        assert (received.message_id, received.due) == ("", 0)
        assert isinstance(received.message, Unreadable)
        assert "not a message of Everstep" in received.message.reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"v": 2, "text": "?"}, "format 2, which this version of Everstep does not know"),
        ({"v": 1}, "no content"),
        ({"v": 1, "text": 7}, "no content"),
        ({"v": "1", "text": "x"}, "no content"),
        ({"v": 1, "text": "x"}, "damaged"),
        ({"v": 1, "text": "\ud800"}, "surrogates"),
        ({"v": 1, "base64": "%%"}, "base64"),
        ({"v": 1, "blob": "gs:x"}, "damaged"),
        ({"v": 1, "blob": f"s3:{'0' * 64}:3:{RUN}/nothing"}, "is missing in bucket"),
    ],
)
def test_unreadable_messages_keep_their_id(opened: Opened, fields: dict[str, Any], reason: str) -> None:
    received = opened.queue.read_body(json.dumps({"id": f"step/{RUN}/1/1", "due": 5, "root": "r", **fields}))
    assert (received.message_id, received.due, received.root_id, received.workflow) == (f"step/{RUN}/1/1", 5, "r", "")
    assert isinstance(received.message, Unreadable)
    assert reason in received.message.reason
