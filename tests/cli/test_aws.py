"""Commands on AWS, which is moto's server: the runs are in a table, and a worker that is not here handles them."""

from __future__ import annotations

import json
import re
import signal
import sys

import pytest

from tests.cli.aws import REGION, STACK, deployed_stack
from tests.cli.commands import APP, Folder

AWS = ("--stack", STACK)
RUN_ID = r"wrun_[0-9A-Z]{26}"


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with deployed_stack(tmp_path_factory.mktemp("deployed")) as stack:
        yield stack


@pytest.fixture
def worker(stack, monkeypatch):
    """The deployed worker, which does its work whenever a command waits."""
    stack.work()  # what other tests have left
    monkeypatch.setattr("everstep.cli.wait.pause", lambda _seconds: stack.work())
    return stack


# --- start -----------------------------------------------------------------------------------------


def test_a_run_is_started_and_left_to_the_worker(worker, here):
    done = here("start", "shop:greet", "-i", '["Ada"]', "--attribute", "customer=ada", *AWS)
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(RUN_ID, done.out.strip())
    assert worker.waiting() == 1
    run = here("inspect", "run", done.out.strip(), *AWS, "--json").json
    assert (run["status"], run["workflow"], run["input"]) == ("pending", "greet", {"name": "Ada"})
    assert run["attributes"] == {"customer": "ada"}, "where the app is on this machine is of no use there"


def test_start_waits_for_the_result(worker, here):
    done = here("start", "shop:greet", "-i", '["Ada", 2]', *AWS, "--wait")
    assert done.code == 0
    assert json.loads(done.out) == ["Hello Ada", "Hello Ada"]
    first, last = done.err.splitlines()
    assert re.fullmatch(rf"run {RUN_ID} of greet", first)
    assert "greet completed in" in last


def test_start_waits_and_prints_json(worker, here):
    done = here("start", "shop:greet", "-i", '["Ada"]', *AWS, "--wait", "--json")
    assert (done.json["status"], done.json["result"]) == ("completed", ["Hello Ada"])


def test_a_run_that_fails_ends_the_wait_with_1_and_what_to_look_at(worker, here):
    done = here("start", "shop:fails", *AWS, "--wait")
    assert done.code == 1
    assert done.out == ""
    assert "ValueError: no such customer" in done.err
    assert re.search(rf"everstep inspect steps {RUN_ID} --stack {STACK}$", done.err, re.MULTILINE)


def test_the_same_idempotency_key_gives_the_same_run(worker, here):
    words = ("start", "shop:greet", "-i", '["Ada"]', "--idempotency-key", "order-17", *AWS)
    first, again = here(*words), here(*words)
    assert first.out == again.out
    other = here("start", "shop:greet", "-i", '["Eve"]', "--idempotency-key", "order-17", *AWS)
    assert other.code == 2
    assert "another input" in other.line


def test_input_that_does_not_fit_is_refused_before_aws_is_asked(worker, here, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    done = here("start", "shop:greet", *AWS)
    assert done.code == 2
    assert "missing a required argument: 'name'" in done.line
    assert worker.waiting() == 0


def test_ctrl_c_ends_the_wait_and_not_the_run(stack, tmp_path):
    folder = Folder(tmp_path)
    started = folder.start("start", "shop:greet", "-i", '["Ada"]', *AWS, "--wait")
    try:
        run_id = started.wait_for(rf"run ({RUN_ID}) of greet")[1]
        started.send(signal.SIGINT)
        started.wait_for("stopped waiting; the run goes on")
        started.wait_for(f"everstep inspect run {run_id} --stack {STACK}")
        assert started.wait() == 130
    finally:
        folder.close()


# --- inspect ---------------------------------------------------------------------------------------


def test_runs_steps_and_events_are_shown(worker, here):
    run_id = here("start", "shop:greet", "-i", '["Bea", 2]', *AWS).out.strip()
    worker.work()
    listed = here("inspect", "runs", "--workflow", "greet", "--limit", "1", *AWS, "--json").json
    assert [(run["run_id"], run["status"]) for run in listed["runs"]] == [(run_id, "completed")]
    steps = here("inspect", "steps", run_id, *AWS, "--json").json["operations"]
    assert [(each["name"], each["state"], each["result"]) for each in steps] == [
        ("salute", "completed", "Hello Bea")
    ] * 2
    turns = here("inspect", "events", run_id, *AWS, "--json").json["turns"]
    assert [[event["type"] for event in turn["events"]] for turn in turns] == [
        ["RunStarted"],
        ["StepCompleted"],
        ["StepCompleted"],
    ]
    shown = here("inspect", "run", run_id[5:20].lower(), *AWS)
    assert (shown.code, shown.err) == (0, "")
    assert run_id in shown.out


def test_a_run_that_is_not_there(stack, here):
    done = here("inspect", "run", "wrun_01JD3V6Y8Q2M4ZK7T9B5XCNAEF", *AWS)
    assert done.code == 2
    assert done.line.endswith(f"there is no run wrun_01JD3V6Y8Q2M4ZK7T9B5XCNAEF in stack '{STACK}'")


# --- resume ----------------------------------------------------------------------------------------


def parked_run(worker, here):
    done = here("start", "shop:reads", *AWS, "--wait")
    assert done.code == 3
    assert "move it into a step" in done.err
    (run_id,) = re.findall(rf"everstep resume ({RUN_ID}) --stack {STACK}$", done.err, re.MULTILINE)
    return run_id


def test_a_parked_run_is_resumed_by_the_functions(worker, here):
    run_id = parked_run(worker, here)
    worker.deploy(APP.replace('open("/etc/hosts")', 'return "fixed"'))
    done = here("resume", run_id, *AWS)
    assert (done.code, done.out) == (0, "")
    assert f"run {run_id} was parked and is tried again: the functions on AWS go on with it" in done.err
    assert f"everstep inspect run {run_id} --stack {STACK}" in done.err
    assert worker.work() == 1
    again = here("resume", run_id, *AWS)
    assert (again.code, again.out) == (0, '"fixed"\n')
    assert "had completed before" in again.err


def test_resume_waits_for_the_result(worker, here):
    run_id = here("start", "shop:greet", "-i", '["Cid"]', *AWS).out.strip()
    done = here("resume", run_id, *AWS, "--wait")
    assert (done.code, done.out) == (0, '["Hello Cid"]\n')
    assert "is woken" in done.err


def test_resume_prints_json(worker, here):
    run_id = here("start", "shop:greet", "-i", '["Cid"]', *AWS).out.strip()
    assert here("resume", run_id, *AWS, "--json").json["run_id"] == run_id


# --- finding the stack -----------------------------------------------------------------------------


def test_env_prints_what_a_program_needs(stack, here, monkeypatch):
    done = here("env", "--stack", STACK)
    assert (done.code, done.err) == (0, "")
    exported = dict(re.findall(r"^export (\w+)='?([^']*?)'?$", done.out, re.MULTILINE))
    assert exported == {
        "EVERSTEP_BACKEND": "aws",
        "AWS_REGION": REGION,
        "EVERSTEP_TABLE": stack.made.table,
        "EVERSTEP_QUEUE_URL": stack.made.queue_url,
        "EVERSTEP_QUEUE_ARN": stack.made.queue_arn,
        "EVERSTEP_BUCKET": stack.made.bucket,
        "EVERSTEP_SCHEDULE_GROUP": stack.made.schedule_group,
        "EVERSTEP_SCHEDULER_ROLE_ARN": stack.made.scheduler_role_arn,
        "EVERSTEP_DELAY_LIMIT": "60",
        "EVERSTEP_RETENTION_DAYS": "0",
    }
    assert here("env", "--stack", STACK, "--json").json == exported
    for name, value in exported.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("everstep.cli.cloud.Cloud.stack", lambda *_: pytest.fail("the stack was asked for"))
    assert here("start", "shop:greet", "-i", '["Dan"]').code == 0


def test_samconfig_names_the_stack_and_the_region(stack, here, monkeypatch, tmp_path):
    (tmp_path / "samconfig.toml").write_text(
        '[default.global.parameters]\nstack_name = "other"\n'
        f'[default.deploy.parameters]\nstack_name = "{STACK}"\nregion = "{REGION}"\n'
    )
    monkeypatch.delenv("AWS_REGION")
    assert here("inspect", "runs", "--backend", "aws").code == 0
    monkeypatch.setenv("EVERSTEP_BACKEND", "aws")
    assert here("inspect", "runs").code == 0
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    done = here("inspect", "runs")
    assert done.code == 2
    assert (
        f"there is no stack '{STACK}' in us-west-2 (as AWS_REGION says; samconfig.toml says {REGION}); check the name"
        in done.line
    )


def test_a_stack_that_is_not_ours_or_not_ready(stack, here):
    stack.outputs(Bucket=None, Table=None)
    try:
        done = here("start", "shop:greet", "-i", '["Ada"]', *AWS)
    finally:
        stack.outputs()
    assert done.code == 2
    assert f"stack '{STACK}' (CREATE_COMPLETE) has no output Table, Bucket: its deploy has not succeeded" in done.line


def test_resources_that_are_gone(stack, here):
    """The outputs say so, but somebody has deleted the table."""
    stack.outputs(Table="gone")
    try:
        done = here("start", "shop:greet", "-i", '["Ada"]', *AWS)
        listed = here("inspect", "runs", *AWS)
    finally:
        stack.outputs()
    assert (done.code, listed.code) == (2, 2)
    assert "there is no table 'gone'" in done.line
    assert "there is no table 'gone'" in listed.line
    stack.work()


def test_without_credentials(stack, here, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for words in (("env", *AWS), ("inspect", "runs", *AWS), ("start", "shop:greet", "-i", '["Ada"]', *AWS)):
        done = here(*words)
        assert done.code == 2
        assert "there are no AWS credentials; set AWS_PROFILE, or AWS_ACCESS_KEY_ID" in done.line
    for name, value in stack.variables.items():
        monkeypatch.setenv(name, value)
    done = here("inspect", "runs")
    assert done.code == 2
    assert "no AWS credentials for dynamodb:Scan on table" in done.line


def test_a_profile_that_is_not_there(stack, here, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nowhere")
    done = here("env", *AWS)
    assert done.code == 2
    assert "AWS settings: The config profile (nowhere) could not be found" in done.line
    for name, value in stack.variables.items():
        monkeypatch.setenv(name, value)
    done = here("inspect", "runs")
    assert done.code == 2
    assert "AWS settings: The config profile (nowhere) could not be found" in done.line


def test_aws_cannot_be_reached(stack, here, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    done = here("env", *AWS)
    assert done.code == 4
    assert f"cloudformation:DescribeStacks on stack '{STACK}': AWS in {REGION} cannot be reached" in done.line


def test_without_botocore(here, monkeypatch):
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    monkeypatch.setitem(sys.modules, "botocore", None)
    done = here("env", *AWS)
    assert done.code == 2
    assert done.line.endswith("the aws backend needs boto3: pip install 'everstep[aws]'")
