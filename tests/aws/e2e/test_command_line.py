"""The deployed stack through `everstep`, as its users type it, by somebody who may do no more than that needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from everstep.core.messages import AdvanceRun, outgoing
from tests.aws.e2e.conftest import PARAMETERS, phase
from tests.aws.e2e.operators import statements
from tests.aws.e2e.polling import eventually
from tests.aws.e2e.project import Done, Person
from tests.aws.e2e.stack import STACK, Stack

AT_STACK = ("--stack", STACK)
THREE_STEPS = ("e2e_app:three_steps", "--input", '{"name": "ada"}')


# --- runs ------------------------------------------------------------------------------------------


def test_start_and_wait(operator: Person) -> None:
    with phase("everstep start --wait"):
        done = operator.everstep("start", *THREE_STEPS, *AT_STACK, "--wait")
    assert done.out == '"HELLO ADA!"\n'
    assert "three_steps completed in" in done.err


def test_the_projects_own_start_and_check(operator: Person) -> None:
    with phase("make start"):
        assert operator.make("start", "NAME=Joan").out == '"Hello Joan! Good bye Joan!"\n'
    with phase("make check"):
        assert "round trip      hello wrun_" in operator.make("check").out


def test_a_run_that_fails(operator: Person) -> None:
    done = operator.everstep("start", "e2e_app:gives_up", "--input", "[7]", *AT_STACK, "--wait", code=2)
    assert "some of it by name only: give an object" in done.err
    done = operator.everstep("start", "e2e_app:gives_up", "--input", '{"order": 7}', *AT_STACK, "--wait", code=1)
    assert done.out == ""
    assert "gives_up failed after" in done.err
    assert "order 7 was declined" in done.err
    advice = done.err.splitlines()[-1].split()
    assert advice[:3] == ["everstep", "inspect", "steps"]
    assert "order 7 was declined" in operator.everstep(*advice[1:]).out


def test_inspect(operator: Person) -> None:
    """In this folder the stack is known by ``samconfig.toml``."""
    started = operator.everstep("start", *THREE_STEPS, "--attribute", "customer=c1", *AT_STACK)
    run_id = started.out.strip()
    look = ("inspect", "run", run_id, "--backend", "aws", "--json")
    eventually(lambda: operator.everstep(*look).json()["status"] == "completed", "it completes", seconds=20)
    shown = operator.everstep(*look).json()
    assert (shown["result"], shown["turns"], shown["operations"]) == ("HELLO ADA!", 4, 3)
    assert shown["attributes"] == {"customer": "c1"}

    listed = operator.everstep("inspect", "runs", *AT_STACK, "--attribute", "customer=c1", "--json").json()["runs"]
    assert [each["run_id"] for each in listed] == [run_id]
    assert run_id in operator.everstep("inspect", "runs", *AT_STACK, "--workflow", "three_steps").out
    steps = operator.everstep("inspect", "steps", run_id, *AT_STACK, "--json").json()["operations"]
    assert [(each["name"], each["state"], each["result"]) for each in steps] == [
        ("hail", "completed", "hello ada"),
        ("shout", "completed", "HELLO ADA"),
        ("sign", "completed", "HELLO ADA!"),
    ]
    turns = operator.everstep("inspect", "events", run_id[:20], *AT_STACK, "--json").json()["turns"]
    assert [each["turn"] for each in turns] == [0, 1, 2, 3]


def test_a_program_with_the_stacks_settings(operator: Person) -> None:
    program = operator.project / "greet.py"
    program.write_text(
        "from e2e_app import three_steps\nfrom everstep.client import start_sync\n\n"
        "print(start_sync(three_steps, name='env').wait())\n"
    )
    done = operator.shell(f'eval "$(everstep env --stack {STACK})"\npython greet.py\neverstep inspect runs --limit 1')
    first, *rest = done.out.splitlines()
    assert first == "HELLO ENV!"
    assert "three_steps" in rest[-1]


def test_a_parked_run_is_resumed(operator: Person, stack: Stack) -> None:
    run_id = operator.everstep("start", "e2e_app:sleeps", "--input", '{"seconds": 600}', *AT_STACK).out.strip()
    message = outgoing(AdvanceRun(run_id=run_id, cause="lost"), 0, run_id, "sleeps")
    stack.put_dead_letter(message)
    look = ("inspect", "run", run_id, *AT_STACK)
    eventually(lambda: "parked" in operator.everstep(*look).out, "it is parked", seconds=20)
    assert run_id in operator.everstep("inspect", "runs", "--status", "parked", *AT_STACK).out
    assert "its AdvanceRun message was given up" in operator.everstep(*look).out
    done = operator.everstep("resume", run_id, *AT_STACK)
    assert "was parked and is tried again: the functions on AWS go on with it" in done.err
    eventually(lambda: operator.everstep(*look, "--json").json()["status"] == "running", "it runs", seconds=20)
    assert operator.everstep("inspect", "runs", "--status", "parked", *AT_STACK).out == ""


# --- what is not there, or not allowed --------------------------------------------------------------


def test_a_stack_that_is_not_there(owner: Person) -> None:
    done = owner.everstep("inspect", "runs", "--stack", "nowhere", code=2)
    assert "there is no stack 'nowhere' in eu-central-1 (as AWS_DEFAULT_REGION says); check the name" in done.err


def test_who_may_read_but_not_start(operator: Person, stack: Stack) -> None:
    credentials = stack.user("reader", *statements(stack.outputs, "a stack's outputs", "`inspect`"))
    reader = Person(project=operator.project, emulator=operator.emulator, credentials=credentials)
    assert "three_steps" in reader.everstep("inspect", "runs", *AT_STACK).out
    done = reader.everstep("start", *THREE_STEPS, *AT_STACK, code=4)
    assert "sqs:SendMessage" in done.err
    assert "access denied" in done.err


def test_a_stranger(operator: Person, stack: Stack) -> None:
    stranger = Person(project=operator.project, emulator=operator.emulator, credentials=stack.user("no-rights"))
    done = stranger.everstep("inspect", "runs", *AT_STACK, code=4)
    assert f"AWS refused cloudformation:DescribeStacks on stack '{STACK}'; allow" in done.err
    checked = _checks(stranger.everstep("deploy-check", *AT_STACK, "--json", code=1))
    assert {name: each["status"] for name, each in checked.items()} == {
        "credentials": "ok",
        "stack": "failed",
        "round trip": "skipped",
    }


# --- deploy-check -----------------------------------------------------------------------------------


def test_deploy_check(operator: Person) -> None:
    with phase("everstep deploy-check --run"):
        done = operator.everstep("deploy-check", *AT_STACK, "--run", *THREE_STEPS, "--json")
    checked = _checks(done)
    assert list(checked) == [
        *("credentials", "stack", "outputs", "table", "bucket", "schedules", "worker", "worker's queue", "queue"),
        *("dead letters", "API", "worker starts", "round trip"),
    ]
    assert {name for name, each in checked.items() if each["status"] != "ok"} == {"table"}
    assert checked["table"]["status"] == "warning"  # it is a trial, whose table may be deleted
    assert "three_steps wrun_" in checked["round trip"]["text"]
    marked = operator.everstep("inspect", "runs", *AT_STACK, "--attribute", "deploy-check=true", "--json").json()
    assert {each["status"] for each in marked["runs"]} == {"completed"}


def test_a_queue_that_invokes_nobody(operator: Person, stack: Stack) -> None:
    functions = stack.client("lambda")
    (mapping,) = functions.list_event_source_mappings(EventSourceArn=stack.outputs["QueueArn"])["EventSourceMappings"]

    def enable(yes: bool) -> None:
        functions.update_event_source_mapping(UUID=mapping["UUID"], Enabled=yes)

    with _broken(lambda: enable(False), lambda: enable(True)):
        done = operator.everstep("deploy-check", *AT_STACK, "--run", *THREE_STEPS, "--timeout", "3", "--json", code=1)
        failed = _failed(done)
    assert set(failed) == {"worker's queue", "round trip"}
    assert failed["worker's queue"]["text"].startswith("Disabled")
    enabling = f"nothing is worked on: enable event source mapping {mapping['UUID']}"
    assert failed["worker's queue"]["advice"] == enabling
    assert failed["round trip"]["text"].endswith("pending after 3 s: no worker took it up")
    run_id = failed["round trip"]["text"].split()[1]
    look = ("inspect", "run", run_id, *AT_STACK, "--json")
    eventually(lambda: operator.everstep(*look).json()["status"] == "completed", "what waited is done", seconds=20)


def test_a_queue_that_delivers_too_early(operator: Person, stack: Stack) -> None:
    def hide(seconds: str) -> None:
        attributes = {"VisibilityTimeout": seconds}
        stack.client("sqs").set_queue_attributes(QueueUrl=stack.outputs["QueueUrl"], Attributes=attributes)

    with _broken(lambda: hide("20"), lambda: hide("180")):
        done = operator.everstep("deploy-check", *AT_STACK, code=1)
    lines = done.out.splitlines()
    (found,) = (number for number, line in enumerate(lines) if line[2:].startswith("queue "))
    assert lines[found].endswith("; visibility timeout 20 s, less than the worker's 30 s")
    assert "messages would be handled twice at once: set it to 180 s;" in lines[found + 1]
    assert "1 of 13 checks failed" in done.err


def test_a_function_that_was_changed_by_hand(operator: Person, stack: Stack) -> None:
    functions, worker = stack.client("lambda"), stack.outputs["WorkerFunction"]

    def give(megabytes: int) -> None:
        functions.update_function_configuration(FunctionName=worker, MemorySize=megabytes)

    with _broken(lambda: give(1024), lambda: give(512)):
        failed = _failed(operator.everstep("deploy-check", *AT_STACK, "--json", code=1))
    assert set(failed) == {"worker"}
    assert "is not what was deployed last (MemorySize differ)" in failed["worker"]["text"]
    assert failed["worker"]["advice"].startswith(f"publish a version of {worker} and point the alias live at it")


def test_a_round_trip_that_fails(operator: Person) -> None:
    arguments = ("--run", "e2e_app:gives_up", "--input", '{"order": 8}')
    failed = _failed(operator.everstep("deploy-check", *AT_STACK, *arguments, "--json", code=1))
    assert set(failed) == {"round trip"}
    assert "order 8 was declined" in failed["round trip"]["text"]
    assert failed["round trip"]["advice"].startswith("everstep inspect steps wrun_")


def test_what_the_queue_is_checked_against(stack: Stack) -> None:
    """The tests above restore what the template has."""
    found = stack.client("sqs").get_queue_attributes(QueueUrl=stack.outputs["QueueUrl"], AttributeNames=["All"])
    assert found["Attributes"]["VisibilityTimeout"] == str(6 * int(PARAMETERS["WorkerTimeout"]))
    redrive = json.loads(found["Attributes"]["RedrivePolicy"])
    assert str(redrive["maxReceiveCount"]) == PARAMETERS["MaxReceives"]


@contextmanager
def _broken(break_it: Callable[[], object], mend_it: Callable[[], object]) -> Iterator[None]:
    break_it()
    try:
        yield
    finally:
        mend_it()


def _checks(done: Done) -> dict[str, Any]:
    return {each["name"]: each for each in done.json()["checks"]}


def _failed(done: Done) -> dict[str, Any]:
    return {name: each for name, each in _checks(done).items() if each["status"] == "failed"}
