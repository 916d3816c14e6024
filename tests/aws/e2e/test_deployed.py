"""What only a deployed stack can show. In order: the last test deletes it."""

from __future__ import annotations

import base64
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.aws.e2e.conftest import DELAY_LIMIT, phase
from tests.aws.e2e.emulator import REGION
from tests.aws.e2e.environments import ministack_environment
from tests.aws.e2e.project import do
from tests.aws.e2e.stack import STACK, Sam, Stack

FUNCTIONS: Final = {"WorkerFunction": "worker", "ApiFunction": "api", "DeadLetterFunction": "deadletter"}
AARCH64: Final = b"\xb7\x00"  # e_machine of an ELF file, little endian


def test_the_template_is_valid(sam: Sam) -> None:
    with phase("sam validate --lint"):
        assert "is a valid SAM Template" in sam.validate()


def test_the_defaults_can_be_built_here(sam: Sam, tmp_path: Path) -> None:
    """Python 3.13 on arm64, whatever this machine and its Python are."""
    with phase("sam build, python3.13 on arm64"):
        sam.build_default(tmp_path / "build")
    for function in FUNCTIONS:
        libraries = list((tmp_path / "build" / function).rglob("*.so"))
        assert libraries
        for library in libraries:
            assert library.read_bytes()[18:20] == AARCH64, library
            assert "cpython-313" in library.name or "abi3" in library.name


@pytest.mark.parametrize(("function", "handler"), FUNCTIONS.items())
def test_an_artifact_has_all_that_it_imports(sam: Sam, tmp_path: Path, function: str, handler: str) -> None:
    """But the AWS SDK, which Lambda has. The emulator's functions see the emulator's packages too: it shows nothing."""
    (installed,) = ministack_environment().glob("lib/python3.*/site-packages")
    for name in ("boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six.py", "urllib3"):
        (tmp_path / name).symlink_to(installed / name)
    code = f"import sys; sys.path[:0] = ['.', {str(tmp_path)!r}]; import handlers.{handler}"
    do([sys.executable, "-I", "-S", "-c", code], cwd=sam.project / ".aws-sam" / "build" / function)


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
    eventually(lambda: stack.queue_length(stack.outputs["QueueUrl"]) == 0, "the queue is empty", seconds=10)
    assert _invocations(stack) - before == 4
    handled = [each["message_id"] for each in stack.records("worker") if each["message"] == "step completed"]
    assert [each for each in handled if run_id in each] == [f"step/{run_id}/{number}/1" for number in range(3)]


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
    retries = stack.metric("worker", "StepRetries")
    with phase("a step that fails twice"):
        assert stack.result(stack.start("fails_twice")) == 3
    eventually(lambda: stack.metric("worker", "StepRetries") == retries + 2, "two retries are counted", seconds=5)
    assert stack.metric("worker", "StepFailures") == 0


def test_a_short_sleep_is_a_delayed_message(stack: Stack) -> None:
    seconds = DELAY_LIMIT - 2
    with phase(f"a sleep of {seconds} s"):
        slept = stack.result(stack.start("sleeps", seconds=seconds))
    assert seconds <= slept < seconds + 3


def test_a_long_sleep_is_a_schedule(stack: Stack) -> None:
    seconds = DELAY_LIMIT + 10
    with phase(f"a sleep of {seconds} s"):
        run_id = stack.start("sleeps", seconds=seconds)
        eventually(lambda: len(_schedules(stack)) == 1, "a schedule is made", seconds=10)
        slept = stack.result(run_id)
    assert seconds <= slept < seconds + 3
    assert _schedules(stack) == [], "a schedule deletes itself when it has fired"


def test_a_payload_of_2_mb(stack: Stack) -> None:
    text = base64.b64encode(random.Random(1).randbytes(1_500_000)).decode()
    with phase("a payload of 2 MB"):
        assert stack.result(stack.start("echo", text=text)) == text


def test_a_fan_out(stack: Stack) -> None:
    with phase("a fan-out of 20"):
        assert stack.result(stack.start("squares", count=20)) == [number * number for number in range(20)]


def test_a_step_that_kills_its_worker_ends_as_a_dead_letter(stack: Stack) -> None:
    with phase("a step that kills its worker"):
        _lower_visibility(stack, 2)
        assert stack.result(stack.start("survives_a_killer"), seconds=90) == "hello survivor"
    assert stack.queue_length(stack.outputs["DeadLetterQueueUrl"]) == 0


def test_messages_that_cannot_be_read(stack: Stack) -> None:
    """One of nobody stays in the dead-letter queue; one that names a run parks it."""
    run_id = stack.start("sleeps", seconds=600)
    newer = {"v": 99, "id": f"advance/{run_id}/x", "due": 0, "root": run_id, "workflow": "sleeps"}
    with phase("messages that cannot be read"):
        _lower_visibility(stack, 2)
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


def test_nothing_else_went_wrong(stack: Stack) -> None:
    """In all the runs above: no error in a log but those that were caused."""
    caused = ("a dead letter cannot be read", "run parked: a message for it cannot be read")
    for function in ("api", "worker", "deadletter"):
        records = stack.records(function)
        assert records
        for record in records:
            assert record["level"] not in ("ERROR", "CRITICAL") or record["message"].startswith(caused), record
        text = "\n".join(stack.logs(function))
        assert "access denied" not in text.lower()
        assert "Traceback" not in text
        assert stack.token not in text


def test_signed_requests_instead_of_a_token(stack: Stack, sam: Sam) -> None:
    """The same stack, deployed again with another parameter while a run sleeps."""
    asleep = stack.start("sleeps", seconds=DELAY_LIMIT + 10)
    with phase("sam deploy, changed"):
        sam.deploy(ApiAuth="iam")
    stack.read_outputs()
    arn = f"arn:aws:execute-api:{REGION}:*:{stack.outputs['ApiId']}/*"
    caller = stack.user("caller", {"Effect": "Allow", "Action": "execute-api:Invoke", "Resource": arn})
    path = f"/v1/runs/{asleep}"
    assert stack.request("GET", path, token=None).status == 403
    assert stack.request("GET", path, sign=stack.user("stranger")).status == 403
    assert stack.request("GET", path, sign=caller).status == 200
    assert stack.result(stack.start("three_steps", name="sig", sign=caller), sign=caller) == "HELLO SIG!"
    assert stack.result(asleep, sign=caller) >= DELAY_LIMIT + 10


def test_delete(stack: Stack, sam: Sam) -> None:
    table = stack.outputs["Table"]
    with phase("sam delete"):
        sam.delete()
    cloudformation = stack.client("cloudformation")
    with pytest.raises(cloudformation.exceptions.ClientError, match="does not exist"):
        cloudformation.describe_stacks(StackName=STACK)
    assert table not in stack.client("dynamodb").list_tables()["TableNames"]


def eventually(holds: Callable[[], bool], what: str, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.2)


def _invocations(stack: Stack) -> int:
    return sum(line.startswith("START ") for line in stack.logs("worker"))


def _problem(stack: Stack, run_id: str) -> str | None:
    problem = stack.request("GET", f"/v1/runs/{run_id}").json()["problem"]
    return problem and str(problem["code"])


def _schedules(stack: Stack) -> list[str]:
    answer = stack.client("scheduler").list_schedules(GroupName=stack.outputs["ScheduleGroup"])
    return [schedule["Name"] for schedule in answer["Schedules"]]


def _lower_visibility(stack: Stack, seconds: int) -> None:
    """A message is delivered again after this, not after six times the function's timeout."""
    for output in ("QueueUrl", "DeadLetterQueueUrl"):
        stack.client("sqs").set_queue_attributes(
            QueueUrl=stack.outputs[output], Attributes={"VisibilityTimeout": str(seconds)}
        )
