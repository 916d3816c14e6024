"""The worker function: batches of SQS messages in, partial batch responses out."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
import threading
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from everstep import RetryableError, StepTimeoutError, Workflows, sleep
from everstep.errors import StoreBusyError
from everstep.ports import Unreadable
from everstep.serverless.observe import Watch
from tests.aws.handlers.functions import Context, MemoryDeliveries, body_of, event, sqs_event

wf = Workflows()
ran: list[str] = []
barrier = threading.Barrier(2, timeout=5)
hold = threading.Event()


@pytest.fixture(autouse=True)
def fresh():
    ran.clear()
    hold.clear()
    barrier.reset()
    yield
    hold.set()


@wf.workflow
async def greet(name: str) -> str:
    return await salute(await salute(name))


@wf.workflow
async def pair() -> list[str]:
    return list(await asyncio.gather(meet("a"), meet("b")))


@wf.workflow
async def nap() -> str:
    await sleep("1h")
    return await salute("late")


@wf.workflow
async def unsteady() -> str:
    return await fails_once()


@wf.workflow
async def patient() -> str:
    try:
        return await slow()
    except StepTimeoutError as error:
        return str(error)


@wf.workflow
async def stubborn() -> str:
    try:
        return await slow_def()
    except StepTimeoutError as error:
        return str(error)


@wf.workflow
async def talks() -> str:
    return await talk() + await talk_in_thread()


def peek() -> str:
    with open("shelves.txt") as file:
        return file.read()


@wf.step
async def salute(name: str) -> str:
    ran.append(name)
    return f"hello {name}"


@wf.step
def meet(name: str) -> str:
    barrier.wait()  # passes only when both run at once
    ran.append(name)
    return name


@wf.step(retry=None, max_retries=2)
async def fails_once() -> str:
    ran.append("try")
    if len(ran) == 1:
        raise RetryableError("not yet", retry_after="2s")
    return "done"


@wf.step(max_retries=0)
async def slow() -> str:
    ran.append("slow")
    await asyncio.sleep(30)
    return "never"


@wf.step(max_retries=0)
def slow_def() -> str:
    ran.append("slow_def")
    hold.wait(20)
    return "never"


@wf.step
async def talk() -> str:
    logging.getLogger("shop.stock").info("counting %d shelves", 3)
    return "a"


@wf.step
def talk_in_thread() -> str:
    logging.getLogger("shop.stock").warning("nearly empty")
    return "b"


def test_a_sequential_step_is_one_message_and_one_invocation(deploy):
    deployed = deploy(wf)
    run = deployed.start(greet, "ada")
    assert deployed.work(batch=1) == 3  # the start, and two steps
    assert deployed.connection.get(run.run_id).result == b'"hello hello ada"'
    assert ran == ["ada", "hello ada"]


def test_messages_of_one_run_in_one_batch_run_at_once(deploy):
    deployed = deploy(wf)
    run = deployed.start(pair)
    deployed.invoke(deployed.receive())
    steps = deployed.receive()
    assert len(steps) == 2
    assert deployed.invoke(steps) == []
    deployed.work()
    assert deployed.connection.get(run.run_id).result == b'["a","b"]'
    assert sorted(ran) == ["a", "b"]


def test_steps_of_a_batch_share_one_loop_that_lasts(deploy):
    app, loops = Workflows(), []

    @app.step
    async def where(_number: int) -> None:
        loops.append(asyncio.get_running_loop())

    @app.workflow
    async def both() -> None:
        await asyncio.gather(where(1), where(2))
        await where(3)

    deployed = deploy(app)
    deployed.start(both)
    deployed.work()
    assert len(loops) == 3
    assert len(set(loops)) == 1


def test_a_message_that_is_twice_in_a_batch_is_handled_once(deploy):
    deployed = deploy(wf)
    run = deployed.start(greet, "ada")
    deployed.invoke(deployed.receive())
    [step] = deployed.receive()
    assert deployed.invoke([step, replace(step, receives=2), step]) == []
    assert ran == ["ada"]
    deployed.work()
    assert deployed.connection.get(run.run_id).closed


def test_a_message_that_comes_once_more_later_changes_nothing(deploy):
    deployed = deploy(wf)
    deployed.start(greet, "ada")
    [start] = deployed.receive()
    deployed.invoke([start])
    [step] = deployed.receive()
    deployed.invoke([step])
    assert deployed.invoke([replace(start, receives=2), replace(step, receives=2)]) == []
    assert ran == ["ada"]
    deployed.work()
    assert ran == ["ada", "hello ada"]


def test_only_what_failed_is_delivered_again(deploy):
    deployed = deploy(wf)
    runs = [deployed.start(greet, name) for name in ("ada", "ben", "cleo")]
    starts = deployed.receive()
    append = deployed.backend.runs.append
    broken = next(each for each in starts if runs[1].run_id in each.message_id)

    def busy(run_id, turn):
        if run_id == runs[1].run_id:
            raise StoreBusyError("throttled")
        return append(run_id, turn)

    deployed.backend.runs.append = busy
    assert deployed.invoke(starts) == [broken]
    [line] = [line for line in deployed.logged() if line["message"].startswith("message kept")]
    assert line["level"] == "WARNING"
    assert line["run_id"] == runs[1].run_id
    assert "throttled" in line["message"]
    assert "exception" not in line
    deployed.backend.runs.append = append
    assert deployed.invoke([replace(broken, receives=2)]) == []
    deployed.work()
    assert all(deployed.connection.get(run.run_id).closed for run in runs)


def test_when_all_fail_the_answer_names_them_all(deploy):
    deployed = deploy(wf)
    for name in ("ada", "ben"):
        deployed.start(greet, name)
    starts = deployed.receive()
    deployed.deliveries.out_of_order = True
    assert deployed.invoke(starts) == starts
    assert [line["message"].split(":")[0] for line in deployed.logged()] == [
        "message kept, it will be delivered again"
    ] * 2


@pytest.mark.parametrize(
    "body", ["", "no json", '{"id": "step/x/1/1", "due": 0, "root_id": "", "workflow": "w", "message": "AAAA"}']
)
def test_what_cannot_be_read_is_kept(deploy, body):
    deployed = deploy(wf)
    sent = event("sqs")
    sent["Records"][0]["body"] = body
    answer = deployed.worker(sent, Context())
    assert answer == {"batchItemFailures": [{"itemIdentifier": sent["Records"][0]["messageId"]}]}
    assert "message kept" in deployed.logged()[-1]["message"]


def test_no_messages_are_no_error(deploy):
    """`everstep deploy-check` sees by it that the function starts."""
    deployed = deploy(wf)
    assert deployed.worker({"Records": []}, Context()) == {"batchItemFailures": []}
    assert deployed.lines.getvalue() == ""


def test_an_event_of_another_kind_is_an_error(deploy):
    deployed = deploy(wf)
    with pytest.raises(Exception, match="Unexpected batch event type"):
        deployed.worker({"detail-type": "Scheduled Event"}, Context())


def test_a_retry_is_a_message_that_is_due_later(deploy):
    deployed = deploy(wf)
    run = deployed.start(unsteady)
    deployed.work()
    assert deployed.connection.get(run.run_id).result == b'"done"'
    assert ran == ["try", "try"]
    retried = next(line for line in deployed.logged() if line["level"] == "WARNING")
    assert retried["message"] == (
        "step 'fails_once' failed in attempt 1 and will be tried again: everstep.errors.RetryableError: not yet"
    )
    assert (retried["run_id"], retried["step"], retried["attempt"]) == (run.run_id, "fails_once", 1)


# --- early messages ----------------------------------------------------------------------------------


def test_a_schedule_that_fired_early_is_sent_on(deploy):
    deployed = deploy(wf)
    run = deployed.start(nap)
    deployed.invoke(deployed.receive())
    [timer] = deployed.receive()
    deployed.clock.set(timer.due - 45_000_000)  # what EventBridge Scheduler put into the queue, aimed early
    sent = sqs_event([timer], "scheduler_through_sqs")
    assert deployed.worker(sent, Context()) == {"batchItemFailures": []}
    assert deployed.deliveries.sent_on == [(timer, body_of(timer))]
    assert len(deployed.history(run).turns) == 1
    deployed.clock.set(timer.due)
    assert deployed.worker(sent, Context()) == {"batchItemFailures": []}
    assert len(deployed.history(run).turns) == 2


def test_a_message_that_is_hardly_early_is_waited_for(deploy):
    deployed = deploy(wf)
    run = deployed.start(nap)
    deployed.invoke(deployed.receive())
    [timer] = deployed.receive()
    deployed.clock.set(timer.due - 100_000)
    begun = time.perf_counter()
    deployed.invoke([timer])
    assert time.perf_counter() - begun >= 0.1
    assert deployed.deliveries.sent_on == []
    assert len(deployed.history(run).turns) == 2


# --- runs that are closed or gone --------------------------------------------------------------------


def test_messages_for_closed_and_unknown_runs_are_acknowledged(deploy):
    deployed = deploy(wf)
    deployed.start(greet, "ada")
    [start] = deployed.receive()
    deployed.invoke([start])
    [step] = deployed.receive()
    deployed.invoke([step])
    deployed.work()
    for receives in (1, 2):
        again = [replace(each, receives=receives) for each in (start, step)]
        assert deployed.invoke(again) == []
    other = deploy(wf)  # where the run was never heard of
    assert other.invoke([step]) == []
    assert other.work() <= 1


# --- deadlines ---------------------------------------------------------------------------------------


def test_a_step_that_would_outlive_the_invocation_times_out(deploy):
    deployed = deploy(wf)
    run = deployed.start(patient)
    deployed.work(
        context=lambda: Context(1_000, 700)
    )  # a timeout of 1 s, 0.7 s left, and half a second to write the outcome
    assert json.loads(deployed.connection.get(run.run_id).result) == (
        "step 'slow' ran longer than 0.2 s, all that was left of the function's timeout of 1 s: it would have outlived "
        "its process. Give that more time, or the step less to do"
    )
    assert ran == ["slow"]


def test_a_step_for_which_no_time_is_left_is_not_begun(deploy):
    for body in (patient, stubborn):
        deployed = deploy(wf)
        run = deployed.start(body)
        deployed.work(context=lambda: Context(60_000, 4_000))
        said = json.loads(deployed.connection.get(run.run_id).result)
        assert said.endswith("was not begun: nothing was left of the function's timeout of 60 s")
    assert ran == []


def test_a_thread_that_runs_on_takes_none_from_the_next_batch(deploy):
    deployed = deploy(wf)
    runs = [deployed.start(stubborn) for _ in range(20)]  # more than there are threads
    for _ in range(4):
        deployed.invoke(deployed.receive(), context=Context(1_000, 700))
    deployed.work(context=lambda: Context(1_000, 700))
    assert all("its thread runs on" in deployed.connection.get(run.run_id).result.decode() for run in runs)
    assert ran == ["slow_def"] * 20
    assert "'def' steps still run although their time was up" in deployed.lines.getvalue()


def test_a_step_that_has_time_enough_is_not_limited(deploy):
    deployed = deploy(wf)
    run = deployed.start(greet, "ada")
    deployed.work(context=lambda: Context(900_000))
    assert deployed.connection.get(run.run_id).result is not None


# --- log lines and metrics ---------------------------------------------------------------------------


@pytest.fixture
def root_logger():
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    chatty = {name: logging.getLogger(name).level for name in ("botocore", "boto3", "urllib3", "asyncio")}
    yield root
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    logging.captureWarnings(False)
    vars(logging)["logAsyncioTasks"] = True
    for name, level in chatty.items():
        logging.getLogger(name).setLevel(level)


def test_run_step_and_attempt_are_on_every_line_also_on_the_steps_own(deploy, root_logger):
    deployed = deploy(wf)
    deployed.watch.adopt_root_logger()
    deployed.watch.adopt_root_logger()
    runs = [deployed.start(talks) for _ in range(3)]
    deployed.work()
    logged = deployed.logged()
    for run in runs:
        mine = [line for line in logged if line.get("run_id") == run.run_id]
        [counting] = [line for line in mine if line["message"] == "counting 3 shelves"]
        assert (counting["step"], counting["attempt"], counting["level"]) == ("talk", 1, "INFO")
        assert counting["function_request_id"] == Context.aws_request_id
        [empty] = [line for line in mine if line["message"] == "nearly empty"]
        assert (empty["step"], empty["attempt"]) == ("talk_in_thread", 1)
        [closed] = [line for line in mine if line["message"] == "run completed"]
        assert closed["workflow"] == "talks"
    logging.getLogger("shop.stock").warning("outside")
    assert not {"run_id", "step", "attempt"} & deployed.logged()[-1].keys()


def metrics(printed: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for line in printed.splitlines():
        record = json.loads(line)
        [directive] = record["_aws"]["CloudWatchMetrics"]
        assert directive["Namespace"] == "Everstep"
        assert directive["Dimensions"] == [["service"]]
        for metric in directive["Metrics"]:
            found.setdefault(metric["Name"], []).extend(record[metric["Name"]])
    return found


def test_metrics_are_one_line_in_the_embedded_format(deploy, capsys):
    deployed = deploy(wf)
    deployed.start(unsteady)
    deployed.invoke(deployed.receive())
    assert len(capsys.readouterr().out.splitlines()) == 1
    deployed.work()
    found = metrics(capsys.readouterr().out)
    assert found["StepRetries"] == [1]
    assert found["StepsCompleted"] == [1]
    assert found["RunsCompleted"] == [1]
    assert "StepFailures" not in found
    assert len(found["TurnLatency"]) == len(found["QueueLatency"]) == 2
    assert all(0 < each < 1000 for each in found["TurnLatency"])


def test_parked_runs_and_failures_are_counted(deploy, capsys):
    app = Workflows()

    @app.step(max_retries=0)
    async def broken() -> None:
        raise ValueError("no such shelf")

    @app.workflow
    async def fails() -> None:
        await broken()

    @app.workflow
    async def reads() -> None:
        peek()

    deployed = deploy(app)
    deployed.start(fails)
    parked = deployed.start(reads)
    deployed.work()
    found = metrics(capsys.readouterr().out)
    assert (found["StepFailures"], found["RunsFailed"], found["RunsParked"]) == ([1], [1], [1])
    line = next(line for line in deployed.logged() if line["message"].startswith("run parked"))
    assert (line["run_id"], line["level"]) == (parked.run_id, "ERROR")


def test_the_time_of_the_step_is_not_in_the_latency_of_its_turn(deploy, capsys):
    app = Workflows()

    @app.step
    async def dawdle() -> None:
        await asyncio.sleep(0.3)

    @app.workflow
    async def body() -> None:
        await dawdle()

    deployed = deploy(app)
    deployed.start(body)
    deployed.work()
    assert max(metrics(capsys.readouterr().out)["TurnLatency"]) < 250


def test_how_late_a_message_is_is_measured(deploy, capsys):
    deployed = deploy(wf)
    deployed.start(greet, "ada")
    deployed.clock.advance(timedelta(seconds=7))
    deployed.invoke(deployed.receive())
    assert metrics(capsys.readouterr().out)["QueueLatency"] == [7000]


def test_tracing_without_its_library_is_said_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "aws_xray_sdk", None)
    for name in [name for name in sys.modules if name.startswith("aws_lambda_powertools.tracing")]:
        monkeypatch.delitem(sys.modules, name)
    lines = io.StringIO()
    watch = Watch(service="traced", stream=lines, trace=True)
    with watch.trace(MemoryDeliveries().read("?", 1)):
        assert "add aws-xray-sdk to what is deployed" in json.loads(lines.getvalue())["message"]


def test_unreadable_stands_for_a_message_in_the_logs(deploy):
    deployed = deploy(wf)
    with deployed.watch.message(deployed.deliveries.read("?", 3)):
        deployed.watch.logger.info("x")
    line = deployed.logged()[-1]
    assert line["receives"] == 3
    assert "run_id" not in line
    assert isinstance(deployed.deliveries.read("?", 3).message, Unreadable)
