"""What only a deployed stack can show, over HTTP."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from everstep.core.messages import AdvanceRun, outgoing
from tests.aws.e2e.conftest import DELAY_LIMIT, phase
from tests.aws.e2e.polling import eventually
from tests.aws.e2e.project import Person
from tests.aws.e2e.stack import STACK, Stack


def test_three_steps_over_http(stack: Stack) -> None:
    with phase("three steps, cold"):
        run_id = stack.start("three_steps", name="ada")
        assert stack.result(run_id) == "HELLO ADA!"
    shown = stack.request("GET", f"/v1/runs/{run_id}").json()
    assert shown["status"] == "completed"
    assert shown["problem"] is None


def test_an_invocation_for_the_start_and_one_for_each_step(stack: Stack) -> None:
    before = _invocations(stack)
    with phase("three steps, warm"):
        run_id = stack.start("three_steps", name="bob")
        assert stack.result(run_id) == "HELLO BOB!"
    expected = [f"step/{run_id}/{number}/1" for number in range(3)]

    def handled() -> list[str]:
        done = (each["message_id"] for each in stack.records("worker") if each["message"] == "step completed")
        return [each for each in done if run_id in each]

    eventually(lambda: handled() == expected, "each step is in the log once", seconds=20)
    eventually(lambda: stack.queue_length(stack.outputs["QueueUrl"]) == 0, "the queue is empty", seconds=20)
    assert _invocations(stack) - before == 4


def test_the_workflow_that_a_new_project_has(stack: Stack) -> None:
    assert stack.result(stack.start("hello", name="Ada")) == "Hello Ada! Good bye Ada!"


def test_who_may_use_the_api(stack: Stack) -> None:
    assert stack.request("GET", "/health", token=None).status == 200
    for method, path in (("POST", "/v1/runs"), ("GET", "/v1/runs/wrun_x/result"), ("GET", "/nothing")):
        assert stack.request(method, path, token=None).status == 401
        assert stack.request(method, path, token="not the right token").status == 401
    assert stack.request("GET", "/nothing").status == 404
    assert stack.request("POST", "/v1/runs", {"workflow": "no_such_workflow"}).status == 404
    assert stack.request("GET", "/v1/runs/wrun_01JZZZZZZZZZZZZZZZZZZZZZZZ/result").status == 404


def test_access_control_is_on(stack: Stack) -> None:
    """So what the functions do above and below, their policies allow."""
    nobody = stack.client("dynamodb", stack.user("nobody"))
    with pytest.raises(nobody.exceptions.ClientError, match="AccessDenied"):
        nobody.get_item(TableName=stack.outputs["Table"], Key={"pk": {"S": "x"}, "sk": {"S": "x"}})


def test_the_same_key_starts_one_run(stack: Stack) -> None:
    asked = {"workflow": "three_steps", "input": {"name": "eve"}}
    first, again = (
        stack.request("POST", "/v1/runs", asked, **{"Idempotency-Key": "order-1"}).json()["run_id"] for _ in range(2)
    )
    assert first == again
    other = {"workflow": "three_steps", "input": {"name": "mallory"}}
    assert stack.request("POST", "/v1/runs", other, **{"Idempotency-Key": "order-1"}).status == 409
    assert stack.result(first) == "HELLO EVE!"


def test_a_step_that_fails_twice(stack: Stack) -> None:
    retries, failures = (stack.metric("worker", name) for name in ("StepRetries", "StepFailures"))
    with phase("a step that fails twice"):
        assert stack.result(stack.start("fails_twice")) == 3
    eventually(lambda: stack.metric("worker", "StepRetries") == retries + 2, "two retries are counted", seconds=20)
    assert stack.metric("worker", "StepFailures") == failures


def test_a_short_sleep_is_a_delayed_message(stack: Stack) -> None:
    seconds = DELAY_LIMIT - 1
    schedules = _schedules(stack)
    with phase(f"a sleep of {seconds} s"):
        run_id = stack.start("sleeps", seconds=seconds)
        eventually(lambda: _delayed(stack) == 1, "its message is delayed", seconds=20)
        assert _schedules(stack) == schedules
        assert stack.result(run_id) >= seconds


def test_a_long_sleep_is_a_schedule(stack: Stack) -> None:
    seconds = DELAY_LIMIT + 10
    others = _schedules(stack)
    with phase(f"a sleep of {seconds} s"):
        run_id = stack.start("sleeps", seconds=seconds)
        eventually(lambda: len(_schedules(stack) - others) == 1, "a schedule is made", seconds=20)
        assert stack.result(run_id) >= seconds
    assert _schedules(stack) == others, "a schedule deletes itself when it has fired"


def test_a_payload_of_2_mb(stack: Stack) -> None:
    text = base64.b64encode(random.Random(1).randbytes(1_500_000)).decode()
    with phase("a payload of 2 MB"):
        run_id = stack.start("echo", text=text)
        assert stack.result(run_id) == text
    kept = stack.client("s3").list_objects_v2(Bucket=stack.outputs["Bucket"], Prefix=f"{run_id}/")
    assert max(each["Size"] for each in kept["Contents"]) > 1_000_000  # compressed: it is base64


def test_a_fan_out(stack: Stack) -> None:
    with phase("a fan-out of 20"):
        assert stack.result(stack.start("squares", count=20)) == [number * number for number in range(20)]


def test_a_step_that_kills_its_worker_ends_as_a_dead_letter(stack: Stack) -> None:
    with phase("a step that kills its worker"), _visible_again_after(stack, 2):
        assert stack.result(stack.start("survives_a_killer"), seconds=90) == "hello survivor"
    given_up = "step 'kill_the_worker' failed for good in attempt 1"
    assert any(given_up in each["message"] for each in stack.records("deadletter"))
    assert stack.queue_length(stack.outputs["DeadLetterQueueUrl"]) == 0


def test_messages_that_cannot_be_read(stack: Stack) -> None:
    """One of nobody stays in the dead-letter queue; one that names a run parks it."""
    run_id = stack.start("sleeps", seconds=600)
    newer = {"v": 99, "id": f"advance/{run_id}/x", "due": 0, "root": run_id, "workflow": "sleeps"}
    with phase("messages that cannot be read"), _visible_again_after(stack, 2):
        for body in ("not one of ours", json.dumps(newer)):
            stack.client("sqs").send_message(QueueUrl=stack.outputs["QueueUrl"], MessageBody=body)
        eventually(
            lambda: any("a dead letter cannot be read" in each["message"] for each in stack.records("deadletter")),
            "the dead-letter function says that it cannot read the message",
            seconds=60,
        )
        eventually(lambda: _problem(stack, run_id) == "unreadable", "the run is parked", seconds=20)
    assert stack.queue_length(stack.outputs["DeadLetterQueueUrl"]) == 1
    assert stack.queue_length(stack.outputs["QueueUrl"]) == 0


def test_a_message_of_a_workflow_that_the_app_does_not_have(stack: Stack, operator: Person) -> None:
    """Its run is kept, whatever becomes of its messages."""
    arguments = ("e2e_late:newcomer", "--input", '{"name": "x"}', "--stack", STACK)
    run_id = operator.everstep("start", *arguments).out.strip()
    eventually(lambda: _problem(stack, run_id) == "workflow-missing", "the worker parks the run", seconds=20)
    eventually(lambda: stack.queue_length(stack.outputs["QueueUrl"]) == 0, "its message is gone", seconds=20)
    stack.put_dead_letter(outgoing(AdvanceRun(run_id=run_id, cause="x"), 0, run_id, "newcomer"))
    eventually(lambda: _problem(stack, run_id) == "poison", "the dead-letter function parks the run", seconds=20)


@pytest.mark.parametrize("state", ["completed", "not there"])
def test_a_dead_letter_that_nobody_waits_for(stack: Stack, state: str) -> None:
    run_id = "wrun_01JZZZZZZZZZZZZZZZZZZZZZZZ"
    if state == "completed":
        run_id = stack.start("three_steps", name="zoe")
        stack.result(run_id)
    before = stack.queue_length(stack.outputs["DeadLetterQueueUrl"])
    stack.put_dead_letter(outgoing(AdvanceRun(run_id=run_id, cause="x"), 0, run_id, "three_steps"))

    def dropped() -> bool:
        said = [each["message"] for each in stack.records("deadletter") if each.get("run_id") == run_id]
        return said == [f"dead letter dropped: its run is {state}"]

    eventually(dropped, "it is dropped, and the log says why", seconds=20)
    assert stack.queue_length(stack.outputs["DeadLetterQueueUrl"]) == before
    if state == "completed":
        assert stack.request("GET", f"/v1/runs/{run_id}").json()["status"] == "completed"


def _invocations(stack: Stack) -> int:
    return sum(line.startswith("START ") for line in stack.logs("worker"))


def _problem(stack: Stack, run_id: str) -> str | None:
    problem = stack.request("GET", f"/v1/runs/{run_id}").json()["problem"]
    return problem and str(problem["code"])


def _delayed(stack: Stack) -> int:
    name = "ApproximateNumberOfMessagesDelayed"
    url = stack.outputs["QueueUrl"]
    answer = stack.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=[name])
    return int(answer["Attributes"][name])


def _schedules(stack: Stack) -> set[str]:
    answer = stack.client("scheduler").list_schedules(GroupName=stack.outputs["ScheduleGroup"])
    return {schedule["Name"] for schedule in answer["Schedules"]}


@contextmanager
def _visible_again_after(stack: Stack, seconds: int) -> Iterator[None]:
    """A message is delivered again after this, not after six times the function's timeout."""
    sqs = stack.client("sqs")
    urls = [stack.outputs[output] for output in ("QueueUrl", "DeadLetterQueueUrl")]
    attributes = ["VisibilityTimeout"]
    before = [sqs.get_queue_attributes(QueueUrl=url, AttributeNames=attributes)["Attributes"] for url in urls]
    for url in urls:
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": str(seconds)})
    try:
        yield
    finally:
        for url, value in zip(urls, before, strict=True):
            sqs.set_queue_attributes(QueueUrl=url, Attributes=value)
