"""`everstep cost`: what a run takes is counted exactly, and nothing of it depends on this machine."""

from __future__ import annotations

import re

import pytest

from everstep.costs.prices import CHECKED, MILLION, PRICES, REGION
from tests.cli.commands import Folder

FLOWS = """
import asyncio
import os
import random
from everstep import RetryPolicy, Workflows, create_hook, create_webhook, sleep

wf = Workflows()


@wf.workflow
async def sequence(steps: int) -> int:
    number = 1
    for _ in range(steps):
        number = await double(number) % 1000
    return number


@wf.workflow
async def gathers(steps: int) -> int:
    return sum(await asyncio.gather(*(double(number) for number in range(steps))))


@wf.step
async def double(number: int) -> int:
    return number * 2


@wf.workflow
async def naps(seconds: float):
    await sleep(seconds)


@wf.workflow
async def deadline(seconds: float):
    async with asyncio.timeout(seconds):
        await double(1)


@wf.workflow
async def passes_on(size: int):
    await take(await make(size))


@wf.step
async def make(size: int) -> str:
    return "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=size))


@wf.step
async def take(text: str): ...


@wf.workflow
async def fails():
    await broken()


@wf.step(max_retries=2, retry=RetryPolicy(first_delay="1h"))
async def broken():
    with open("trace", "a") as trace:
        trace.write("x")
    raise ValueError("no such customer")


@wf.workflow
async def reads():
    open("/etc/hosts")


@wf.workflow
async def asks():
    await double(1)
    await create_hook(token="order-17")


@wf.workflow
async def is_called():
    await double(1)
    await create_webhook()


@wf.workflow
async def parent():
    await double(await sequence(2))


@wf.workflow
async def endless():
    while True:
        await double(1)
"""

WRITES, READS, SQS, INVOCATIONS, SCHEDULES, PUTS, GETS = (
    "dynamodb.write",
    "dynamodb.read",
    "sqs.request",
    "lambda.request",
    "scheduler.invocation",
    "s3.put",
    "s3.get",
)


@pytest.fixture
def cost(tmp_path, here):
    (tmp_path / "flows.py").write_text(FLOWS)

    def run(workflow, arguments="[]", *words):
        return here("cost", f"flows:{workflow}", "-i", arguments, *words)

    return run


# --- the figures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workflow", "arguments", "units"),
    [
        # A write for each turn and for start and close two each; a message for each step, and one that starts the run.
        ("sequence", "[10]", {WRITES: 14, READS: 1, SQS: 33, INVOCATIONS: 11, SCHEDULES: 0}),
        # Ten outcomes with their wake flags and their removals; messages leave in batches of ten.
        ("gathers", "[10]", {WRITES: 36, READS: 2, SQS: 27, INVOCATIONS: 12, SCHEDULES: 0}),
        ("naps", "[60]", {WRITES: 5, READS: 2, SQS: 6, INVOCATIONS: 2, SCHEDULES: 0}),
        # The schedule sends a message, early; that is sent on once.
        ("naps", "[31536000]", {WRITES: 5, READS: 2, SQS: 9, INVOCATIONS: 3, SCHEDULES: 1}),
        # The timer is sent with the step, and comes when the run has long ended.
        ("deadline", "[600]", {WRITES: 5, READS: 2, SQS: 8, INVOCATIONS: 3, SCHEDULES: 0}),
        # Its schedule is deleted in time, and so is not billed.
        ("deadline", "[86400]", {WRITES: 5, READS: 1, SQS: 6, INVOCATIONS: 2, SCHEDULES: 0}),
        # The argument's message goes and comes through S3, and so does the turn.
        (
            "passes_on",
            "[300000]",
            {WRITES: 6, READS: 1, SQS: 9, INVOCATIONS: 3, SCHEDULES: 0, PUTS: 2, GETS: 1},
        ),
    ],
)
def test_what_a_run_takes(cost, workflow, arguments, units):
    found = cost(workflow, arguments, "--json").json
    assert found["status"] == "completed"
    assert {name: units for name, units in found["units"].items() if name != "lambda.arm64"} == units
    assert found["schedules"] == units[SCHEDULES]


def test_a_large_message_is_sent_and_received_in_chunks(cost):
    found = cost("passes_on", "[100000]", "--json").json
    # 80 KB of base64: two chunks each way for the one message, and three deletions.
    assert found["units"][SQS] == (1 + 1 + 2) + (1 + 1 + 2) + 3
    assert found["units"].get(PUTS) is None


def test_workers_that_never_saw_the_run_read_it_each_time(cost):
    cold = cost("sequence", "[10]", "--cold", "--json")
    assert cold.err == ""
    assert cold.json["units"][READS] == 11
    assert cold.json["units"][WRITES] == 14
    assert cold.json["assumed"]["cold"] is True


def test_dollars_are_units_times_list_prices(cost):
    found = cost("sequence", "[10]", "--memory", "1024", "--overhead", "100", "--json").json
    assert found["assumed"] == {"memory_mb": 1024, "overhead_ms": 100.0, "cold": False}
    assert found["units"]["lambda.arm64"] == pytest.approx(11 * 0.1 + found["measured_step_seconds"])
    dollars = found["dollars_per_million_runs"]
    assert {name: dollars[name] for name in found["units"]} == pytest.approx(
        {name: PRICES[name].of(units) * MILLION for name, units in found["units"].items()}
    )
    assert dollars["total"] == pytest.approx(sum(dollars[name] for name in found["units"]))
    assert found["dollars_per_million_steps"] == pytest.approx(dollars["total"] / 10)
    assert found["prices"] == {"region": REGION, "date": CHECKED.isoformat()}
    assert (found["workflow"], found["steps"], found["attempts"], found["invocations"]) == ("sequence", 10, 10, 11)


def test_the_table(cost):
    done = cost("sequence", "[10]")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("sequence completed: 10 steps in 10 attempts, 11 invocations\n")
    rows = dict(re.findall(r"^(\S.*?)  +([\d.]+)  +[\d.]+$", done.out, re.MULTILINE))
    assert rows["DynamoDB write request units"] == "14"
    assert rows["SQS requests"] == "33"
    assert rows["EventBridge schedules"] == "0"
    assert "S3" not in done.out
    total = re.search(r"^in all +([\d.]+)$", done.out, re.MULTILINE)
    assert total is not None
    said = re.search(
        r"^\$(.*) for a million runs, \$(.*) for a million steps \(a run has 10\)\.$", done.out, re.MULTILINE
    )
    assert said is not None
    assert (float(said[1]), float(said[2])) == pytest.approx((float(total[1]), float(total[1]) / 10), abs=0.006)
    assert "25 ms for each invocation at 512 MB (arm64)" in done.out
    assert f"List prices of {REGION}, {CHECKED}" in done.out


# --- runs that do not complete ---------------------------------------------------------------------


def test_a_run_that_fails_is_measured_too(cost, tmp_path):
    done = cost("fails")
    assert done.code == 1
    assert done.out.startswith("fails failed: 1 step in 3 attempts, 4 invocations; ValueError: no such customer\n")
    assert (tmp_path / "trace").read_text() == "xxx", "the steps really run"
    found = cost("fails", "[]", "--json")
    assert found.code == 1
    assert (found.json["status"], found.json["error"]["message"]) == ("failed", "no such customer")


def test_a_run_that_is_parked_is_measured_too(cost):
    done = cost("reads", "[]", "--json")
    assert done.code == 3
    assert (done.json["status"], done.json["steps"]) == ("parked", 0)
    assert "move it into a step" in done.json["problem"]
    assert done.json["dollars_per_million_steps"] is None
    shown = cost("reads")
    assert "move it into a step" in shown.out.splitlines()[0]
    assert "for a million runs." in shown.out


@pytest.mark.parametrize("workflow", ["asks", "is_called"])
def test_a_run_that_waits_for_somebody_outside_is_measured_up_to_there(cost, workflow):
    done = cost(workflow, "[]", "--json")
    assert done.code == 0
    assert (done.json["status"], done.json["steps"]) == ("running", 1)
    assert done.line.startswith("the run waits for somebody outside")


def test_a_child_run_counts_too(cost):
    found = cost("parent", "[]", "--json").json
    assert (found["status"], found["steps"]) == ("completed", 1 + 2)


def test_a_run_without_an_end_is_given_up(cost, monkeypatch):
    monkeypatch.setattr("everstep.costs.trial.MOST_INVOCATIONS", 20)
    done = cost("endless")
    assert done.code == 2
    assert "has taken 20 invocations and has not ended: measure it with a smaller input" in done.line


# --- what it needs, and what it leaves alone -------------------------------------------------------


def test_nothing_is_kept_and_no_setting_of_this_machine_counts(cost, tmp_path, monkeypatch):
    for name, value in {
        "EVERSTEP_BACKEND": "aws",  # without its table
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_DEFAULTS_MODE": "none",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    before = sorted(tmp_path.rglob("*"))
    assert cost("sequence", "[1]").code == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_profile_that_is_not_there(cost, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nowhere")
    done = cost("sequence", "[1]")
    assert done.code == 2
    assert "The config profile (nowhere) could not be found; mend or unset" in done.line


@pytest.mark.parametrize(
    ("lacks", "said"),
    [
        ("moto", "the emulated AWS of this measurement is not installed (moto is missing)"),
        ("flask", "the emulated AWS of this measurement is not installed (flask is missing)"),
        ("botocore", "this measures the aws backend, which needs boto3"),
    ],
)
def test_what_is_not_installed_is_named(tmp_path, lacks, said):
    (tmp_path / f"{lacks}.py").write_text(f"raise ModuleNotFoundError('not here', name={lacks!r})\n")
    done = Folder(tmp_path).run("cost", "shop:greet", "-i", '["Ada"]')
    assert done.code == 2
    assert said in done.line
    assert done.line.endswith("pip install 'everstep[aws,cost]'")


def test_arguments_are_checked_before_anything_is_measured(cost):
    done = cost("sequence", "[]")
    assert done.code == 2
    assert "missing a required argument: 'steps'" in done.line
