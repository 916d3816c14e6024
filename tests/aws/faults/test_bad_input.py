"""What is wrong with a message, an app or the account: a clear error, the message kept or buried, and nothing lost.

====================================== ==========================================================================
what                                   what becomes of it
====================================== ==========================================================================
a workflow or step that the app lacks  its run is parked, and goes on when it is resumed with an app that has it
a message that cannot be read          kept, then buried. A run that it names is parked; if it names none, it stays
                                       with the dead letters, and each look at it is logged
a message for a closed or deleted run  acknowledged: nothing is sent for it, and nothing changes
something is missing, or forbidden     the caller, or the log, is told what and where. The message is kept; when all
                                       is well again, the run goes on. Is that too late, its run is parked, and goes
                                       on when it is resumed
====================================== ==========================================================================
"""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Final

import pytest

from everstep import Workflows
from everstep.assembly import use_connection
from everstep.backends.aws import AwsResources
from everstep.client import start_sync
from everstep.core.messages import AdvanceRun, ExecuteStep, FireTimer, Message, StartRun, outgoing
from everstep.core.run import RunStatus
from everstep.errors import ConfigurationError, StoreBusyError, StoreError
from everstep.testing.oracles import examine, outcome
from tests.aws.backend.provisioned import make_plain_table
from tests.aws.faults.calls import CALLS
from tests.aws.faults.functions import MAX_RECEIVES, Functions
from tests.aws.faults.programs import EXPECTED, long_nap, steady, wf

RUN: Final = "wrun_01JD9ZCX5R7M2K8T4V6W0Y1N3P"
"""There is no such run."""
NOTHING: Final = f"s3:{'0' * 64}:3:{RUN}/message-0"


def goes_on(functions: Functions, run_id: str) -> None:
    """From here on it runs to its end as if nothing had been."""
    functions.work()
    record = functions.connection.get(run_id)
    assert outcome(record) == ("completed", EXPECTED[record.workflow]), functions.log()
    assert examine(wf, functions.backend, run_id, functions.bodies, disturbed=True) == []


def kept(functions: Functions, times: int) -> list[dict[str, Any]]:
    """Deliver until messages were kept so often; what the log says of it."""
    for _ in range(100):
        if functions.kept == times:
            break
        functions.deliver()
    lines = [line for line in functions.logged() if line["message"].startswith("message kept, it will be delivered")]
    assert len(lines) == times
    return lines


# --- apps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "code", "text"),
    [
        (Workflows(), "workflow-missing", "workflow 'steady' is not registered with this app: import the module"),
        (
            SimpleNamespace(workflows=wf.workflows, steps={}, build="without steps"),
            "step-missing",
            "step 'add' is not registered",
        ),
    ],
)
def test_what_the_app_lacks_parks_the_run(deploy, app, code, text):
    functions = deploy(wf)
    run_id = functions.start(steady)
    functions.deploy(app)
    functions.work()
    problem = functions.connection.get(run_id).problem
    assert problem.code == code
    assert text in problem.message
    assert functions.kept == 0
    [line] = [line for line in functions.logged() if line["message"].startswith("run parked: ")]
    assert (line["level"], line["run_id"]) == ("ERROR", run_id)
    functions.deploy(wf)
    functions.connection.resume(run_id)
    goes_on(functions, run_id)


# --- messages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"v": 1, "text": "[1,"}, "damaged"),
        ({"v": 1}, "the message has no content"),
        ({"v": 9, "text": "?"}, "format 9, which this version of Everstep does not know: upgrade everstep"),
        ({"v": 1, "blob": NOTHING}, f"object '{RUN}/message-0' is missing in bucket"),
    ],
)
def test_an_unreadable_message_parks_the_run_it_names(deploy, fields, text):
    functions = deploy(wf)
    run_id = functions.start(long_nap)
    functions.deliver()
    functions.queue.send(json.dumps({"id": f"step/{run_id}/0/1", "due": 0, **fields}))
    lines = kept(functions, MAX_RECEIVES)
    assert all(line["level"] == "WARNING" and line["run_id"] == run_id for line in lines)
    assert all(text in line["message"] for line in lines)
    assert functions.connection.get(run_id).problem is None
    assert functions.deliver().dead
    record = functions.connection.get(run_id)
    assert record.shown_status is RunStatus.PARKED
    assert record.problem.code == "unreadable"
    assert text in record.problem.message
    functions.connection.resume(run_id)
    goes_on(functions, run_id)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("hello", "it is not a message of Everstep: 'hello'. Check what else sends to this queue"),
        ('{"Records": []}', "it is not a message of Everstep"),
        ('{"v": 1, "id": "step", "text": "[]"}', "damaged"),
        (json.dumps({"v": 9, "id": f"step/{RUN}/0/1"}), "format 9"),
    ],
)
def test_an_unreadable_message_that_names_no_run_stays_with_the_dead_letters(deploy, body, text):
    functions = deploy(wf)
    functions.queue.send(body)
    assert all(text in line["message"] for line in kept(functions, MAX_RECEIVES))
    for looks in (1, 2):
        assert functions.deliver().dead
        said = [line for line in functions.logged() if line["message"].startswith("a dead letter cannot be read")]
        assert len(said) == looks
        assert said[-1]["level"] == "ERROR"
        assert text in said[-1]["message"]
    assert functions.queue.next_due() is not None
    assert functions.items(RUN) == {}


def _messages(run_id: str) -> dict[str, Message]:
    step = ExecuteStep(
        run_id=run_id,
        workflow="steady",
        op=0,
        name="add",
        attempt=1,
        input=wf.steps["add"].encode_call((1, 2), {}),
        sole=True,
        first_at=1,
    )
    return {
        "step": step,
        "shared step": replace(step, sole=False),
        "timer": FireTimer(run_id=run_id, op=0, due=1),
        "wake-up": AdvanceRun(run_id=run_id, cause="test"),
        "resume": AdvanceRun(run_id=run_id, cause="test", recover=True),
    }


@pytest.mark.parametrize("receives", [1, 2])
@pytest.mark.parametrize("kind", [*_messages(RUN), "start"])
def test_a_message_for_a_closed_run(deploy, kind, receives):
    functions = deploy(wf)
    run_id = functions.start(steady)
    functions.work()
    record, before = functions.connection.get(run_id), functions.items(run_id)
    message = StartRun(run=record) if kind == "start" else _messages(run_id)[kind]
    functions.backend.queue.send([outgoing(message, functions.clock.now(), run_id, "steady")])
    held = functions.queue.take()
    held.receives = receives - 1
    assert functions.handled(held)
    functions.work()  # a shared step wakes its run, which finds itself closed
    assert functions.kept == 0
    assert functions.items(run_id) | {"flag": None} == before | {"flag": None}


@pytest.mark.parametrize("receives", [1, 2])
@pytest.mark.parametrize("kind", ["step", "timer", "wake-up", "resume"])
def test_a_message_for_a_run_that_is_gone(deploy, kind, receives):
    functions = deploy(wf)
    functions.backend.queue.send([outgoing(_messages(RUN)[kind], functions.clock.now(), RUN, "steady")])
    held = functions.queue.take()
    held.receives = receives - 1
    assert functions.handled(held)
    assert functions.queue.next_due() is None
    assert set(functions.items(RUN)) <= {"flag"}


# --- the account -------------------------------------------------------------------------------------


def name_of(resources: AwsResources, what: str) -> str:
    """As errors name it."""
    names = {
        "table": resources.table,
        "queue": resources.queue_url.rpartition("/")[2],
        "bucket": resources.bucket,
        "schedule group": resources.schedule_group,
    }
    return names[what]


class Removed:
    """A resource that is deleted within the block, and made anew and empty after it."""

    def __init__(self, functions: Functions, what: str) -> None:
        self._call = functions.queue.straight.call
        self._client = functions.queue.straight.client
        self._resources: AwsResources = functions.resources
        self._what = what

    def __enter__(self) -> None:
        resources = self._resources
        match self._what:
            case "table":
                self._call("dynamodb", "DeleteTable", TableName=resources.table)
            case "queue":
                self._call("sqs", "DeleteQueue", QueueUrl=resources.queue_url)
            case "bucket":
                self._call("s3", "DeleteBucket", Bucket=resources.bucket)
            case "schedule group":
                self._call("scheduler", "DeleteScheduleGroup", Name=resources.schedule_group)

    def __exit__(self, *_: object) -> None:
        resources = self._resources
        match self._what:
            case "table":
                make_plain_table(self._client("dynamodb"), resources.table)
            case "queue":
                self._call("sqs", "CreateQueue", QueueName=name_of(resources, "queue"))
            case "bucket":
                place = {"LocationConstraint": resources.region}
                self._call("s3", "CreateBucket", Bucket=resources.bucket, CreateBucketConfiguration=place)
            case "schedule group":
                self._call("scheduler", "CreateScheduleGroup", Name=resources.schedule_group)


@pytest.mark.parametrize(
    ("what", "program"), [("table", "steady"), ("queue", "steady"), ("bucket", "large"), ("schedule group", "long_nap")]
)
def test_a_message_is_kept_while_something_is_missing(deploy, what, program):
    functions = deploy(wf)
    run_id = functions.start(wf.workflows[program])
    held = functions.queue.take()
    with Removed(functions, what):
        while functions.handled(held):
            held = functions.queue.take()
        assert not functions.handled(held)
    functions.queue.put(held)
    lines = [line for line in functions.logged() if line["message"].startswith("message kept")]
    assert len(lines) == 2
    assert all(line["level"] == "ERROR" for line in lines)
    name = name_of(functions.resources, what)
    said = f"ConfigurationError: there is no {what} '{name}' in this region and account"
    assert all(said in line["message"] for line in lines)
    goes_on(functions, run_id)


@pytest.mark.parametrize("what", ["table", "queue"])
def test_who_starts_a_run_is_told_what_is_missing(deploy, what):
    functions = deploy(wf)
    with (
        Removed(functions, what),
        use_connection(functions.connection),
        pytest.raises(ConfigurationError, match=f"there is no {what} .*. Deploy the stack, or check the name"),
    ):
        start_sync(steady)
    goes_on(functions, functions.start(steady))


DENIED: Final = {
    "load a run": "dynamodb:Query on table",
    "append a turn": "dynamodb:PutItem on table",
    "claim an attempt": "dynamodb:PutItem on table",
    "close a run": "dynamodb:UpdateItem on table",
    "remove an inbox entry": "dynamodb:DeleteItem on table",
    "remove inbox entries": "dynamodb:BatchWriteItem on table",
    "send a step": "sqs:SendMessage on queue",
    "create a schedule": "scheduler:CreateSchedule on schedule group",
    "put an object": "s3:PutObject on bucket",
    "get an object": "s3:GetObject on bucket",
}
FORBIDDEN: Final = {"error": {"code": "AccessDeniedException", "status": 403, "message": "User: ann is not authorized"}}


@pytest.mark.parametrize("name", DENIED)
def test_a_message_is_kept_while_access_is_denied(deploy, proxy, name):
    functions = deploy(wf, proxy.endpoint)
    run_id = functions.start(wf.workflows[CALLS[name].programs[0]])
    proxy.let_fail(CALLS[name].rule(FORBIDDEN))
    lines = kept(functions, 2)
    assert all(line["level"] == "WARNING" for line in lines)
    action, _, kind = DENIED[name].partition(" on ")
    where = f"{kind} '{name_of(functions.resources, kind)}'"
    said = f"StoreError: AWS refused {action} on {where}: access denied. Allow {action} on it in the policy"
    assert all(said in line["message"] and "User: ann is not authorized" in line["message"] for line in lines)
    proxy.clear()
    goes_on(functions, run_id)


def test_a_timer_that_may_not_be_deleted_is_only_logged(deploy, proxy, caplog):
    functions = deploy(wf, proxy.endpoint)
    proxy.let_fail(CALLS["delete a schedule"].rule(FORBIDDEN))
    run_id = functions.start(wf.workflows["in_time"])
    goes_on(functions, run_id)
    assert functions.kept == 0
    assert "AWS refused scheduler:DeleteSchedule on schedule group" in caplog.text


@pytest.mark.parametrize("name", ["find a run by its key", "send a start", "create a run"])
@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        (FORBIDDEN, StoreError, "AWS refused {action} on .*: access denied"),
        ({"error": {"code": "ThrottlingException", "status": 400}}, StoreBusyError, "is busy: {action} was not done"),
    ],
)
def test_who_starts_a_run_is_told_why_it_was_not_started(deploy, proxy, name, fault, kind, text):
    functions = deploy(wf, proxy.endpoint)
    call = CALLS[name]
    action = "sqs:SendMessage" if call.service == "sqs" else f"{call.service}:{call.operation}"
    proxy.let_fail(call.rule(fault))
    with use_connection(functions.connection), pytest.raises(kind, match=text.format(action=action)):
        start_sync(steady.with_options(idempotency_key="the-run"))
    proxy.clear()
    goes_on(functions, functions.start(steady))


def test_what_is_denied_for_too_long_parks_the_run(deploy, proxy):
    """The start can never be dispatched; at first the dead-letter function cannot read the run either."""
    functions = deploy(wf, proxy.endpoint)
    run_id = functions.start(steady)
    proxy.let_fail(CALLS["send a step"].rule(FORBIDDEN))
    kept(functions, MAX_RECEIVES)
    proxy.let_fail(CALLS["load a run"].rule(FORBIDDEN))
    kept(functions, MAX_RECEIVES + 2)
    proxy.clear()
    assert functions.deliver().dead
    record = functions.connection.get(run_id)
    assert record.problem.code == "poison"
    assert record.problem.message.startswith(
        "its StartRun message was given up: it was delivered as often as the queue"
    )
    assert functions.queue.next_due() is None
    functions.connection.resume(run_id)
    goes_on(functions, run_id)


def test_a_record_that_cannot_be_read_parks_its_run(deploy):
    """Its input is gone from the bucket; when it is back, the run goes on."""
    functions = deploy(wf)
    text = "x".join(str(number * 7919 % 100_003) for number in range(60_000))
    with use_connection(functions.connection):
        run_id = start_sync(wf.workflows["weigh"], text).run_id
    functions.deliver()
    [key] = [item["S"].split(":", 3)[3] for item in [functions.items(run_id)["zrun"]["input"]]]
    place = {"Bucket": functions.resources.bucket, "Key": key}
    call = functions.queue.straight.call
    content = call("s3", "GetObject", **place)["Body"]
    call("s3", "DeleteObject", **place)
    functions.deploy(wf)
    lines = kept(functions, MAX_RECEIVES)
    assert all(f"object '{key}' is missing in bucket" in line["message"] for line in lines)
    assert functions.deliver().dead
    assert functions.queue.next_due() is None
    call("s3", "PutObject", **place, Body=content)
    record = functions.connection.get(run_id)
    assert record.problem.code == "unreadable"
    assert f"object '{key}' is missing in bucket" in record.problem.message
    functions.connection.resume(run_id)
    functions.work()
    assert outcome(functions.connection.get(run_id)) == ("completed", len(text))
