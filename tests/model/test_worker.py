"""The worker of one machine: what it writes, how it stops, how several share the work."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from everstep import (
    FatalError,
    RetryPolicy,
    RunStatus,
    SerializationError,
    WorkflowRunFailedError,
    WorkflowRunParkedError,
    Workflows,
    get_run,
    get_step_metadata,
    sleep,
    start_sync,
)
from everstep.assembly import connect_sqlite, use_connection
from everstep.core.history import StepCompleted
from everstep.ports import RunQuery
from everstep.runtime.progress import AttemptFailed, AttemptStarted, AttemptSucceeded, RunClosed, TimerStarted
from everstep.runtime.worker import Worker
from everstep.testing import History, replay


@pytest.fixture
def connection(tmp_path):
    connection = connect_sqlite(tmp_path / "runs.db")
    with use_connection(connection):
        yield connection
    connection.close()


async def work(connection, app, *handles, workers=1, **options):
    """Work until these runs are at rest; the workers, stopped."""
    made = [Worker(connection.engine(app), on_closed=connection.closed, **options) for _ in range(workers)]
    serving = [asyncio.ensure_future(worker.serve()) for worker in made]
    results = await asyncio.gather(*(handle.return_value() for handle in handles), return_exceptions=True)
    for worker in made:
        worker.stop()
    await asyncio.gather(*serving)
    return results


def left_over(connection):
    return connection.backend.source.next_due()


def test_everything_is_recorded_and_nothing_is_left(connection, app):
    @app.step(max_retries=2, retry=RetryPolicy(first_delay="5ms"))
    async def step(number: int) -> int:
        return number

    @app.step
    def threaded(number: int) -> int:
        return number

    @app.workflow
    async def body(count: int) -> int:
        await sleep(0.02)
        values = await asyncio.gather(*(step(n) for n in range(count)), *(threaded(n) for n in range(count)))
        return sum(values)

    handles = [start_sync(body, count) for count in range(20)]
    results = asyncio.run(work(connection, app, *handles))
    assert results == [sum(range(count)) * 2 for count in range(20)]
    assert left_over(connection) is None
    for handle in handles:
        history = History.read(connection.backend, handle.run_id)
        assert [turn.number for turn in history.turns] == list(range(len(history.turns)))
        assert not connection.backend.runs.load(handle.run_id).inbox
        assert replay(app, history) == asyncio.run(handle.return_value())


def test_a_sequential_step_costs_one_turn_and_one_message(connection, app):
    @app.step
    async def step(number: int) -> int:
        return number

    @app.workflow
    async def body() -> int:
        return sum([await step(number) for number in range(10)])

    calls = []
    backend = connection.backend
    for port, names in (("runs", ("append", "load", "mark")), ("queue", ("send",)), ("source", ("receive",))):
        for name in names:
            _count(getattr(backend, port), name, calls)
    handle = start_sync(body)
    asyncio.run(work(connection, app, handle))
    assert calls.count("append") == 11  # the first turn and one for each step
    assert calls.count("send") == 11  # what starts the run and one for each step
    assert calls.count("load") == 1  # cold once, then warm
    assert calls.count("mark") == 2  # started and closed
    assert calls.count("receive") <= 2  # steps are leased to the worker as they are sent


def _count(target, name, calls):
    original = getattr(target, name)

    def counted(*args, **kwargs):
        calls.append(name)
        return original(*args, **kwargs)

    try:
        setattr(target, name, counted)
    except AttributeError:
        pytest.skip("the backend's objects cannot be counted")


def test_a_fan_out_takes_few_turns(connection, app):
    @app.step
    async def step(number: int) -> int:
        return number

    @app.workflow
    async def body() -> int:
        return sum(await asyncio.gather(*(step(number) for number in range(1000))))

    handle = start_sync(body)
    assert asyncio.run(work(connection, app, handle)) == [sum(range(1000))]
    history = History.read(connection.backend, handle.run_id)
    assert len(history.turns) < 100
    outcomes = [event.op for turn in history.turns for event in turn.events if isinstance(event, StepCompleted)]
    assert sorted(outcomes) == list(range(1000))


def test_steps_run_at_once_up_to_the_limit(connection, app):
    running = most = 0

    @app.step
    async def step() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1

    @app.workflow
    async def body() -> None:
        await asyncio.gather(*(step() for _ in range(20)))

    asyncio.run(work(connection, app, start_sync(body), concurrency=7))
    assert most == 7


def test_two_workers_share_one_fan_out(connection, app):
    workers = set()

    @app.step
    async def step(number: int) -> int:
        workers.add(asyncio.current_task())
        await asyncio.sleep(0.001)
        return number

    @app.workflow
    async def body() -> int:
        return sum(await asyncio.gather(*(step(number) for number in range(300))))

    results = asyncio.run(work(connection, app, start_sync(body), start_sync(body), workers=2, concurrency=10))
    assert results == [sum(range(300))] * 2
    assert left_over(connection) is None


def test_a_first_stop_finishes_what_is_running(connection, app):
    began = threading.Event()

    @app.step
    async def step(number: int) -> int:
        began.set()
        await asyncio.sleep(0.05)
        return number

    @app.workflow
    async def body() -> int:
        return await step(1) + await step(2)

    handle = start_sync(body)

    async def program():
        worker = Worker(connection.engine(app))
        serving = asyncio.ensure_future(worker.serve())
        await asyncio.to_thread(began.wait)
        worker.stop()
        await serving

    asyncio.run(program())
    history = History.read(connection.backend, handle.run_id)
    assert [len(turn.events) for turn in history.turns] == [1, 1]  # started, the first step's outcome
    assert asyncio.run(work(connection, app, handle)) == [3]


def test_a_second_stop_gives_back_what_is_running(connection, app):
    runs = []
    began = threading.Event()

    @app.step
    async def step() -> int:
        runs.append(1)
        began.set()
        await asyncio.sleep(0 if len(runs) > 1 else 60)
        return len(runs)

    @app.workflow
    async def body() -> int:
        return await step()

    handle = start_sync(body)

    async def program():
        worker = Worker(connection.engine(app))
        serving = asyncio.ensure_future(worker.serve())
        await asyncio.to_thread(began.wait)
        worker.stop()
        worker.stop_now()
        await serving

    asyncio.run(program())
    assert asyncio.run(work(connection, app, handle)) == [2]


def test_a_worker_of_one_family_leaves_others_alone(connection, app):
    @app.workflow
    async def body(number: int) -> int:
        return number

    mine, other = start_sync(body, 1), start_sync(body, 2)
    assert asyncio.run(work(connection, app, mine, root_id=mine.run_id)) == [1]
    assert asyncio.run(other.status()) == "pending"
    assert asyncio.run(work(connection, app, other)) == [2]


def test_runs_that_another_build_parked_are_tried_by_a_worker_that_starts(connection, monkeypatch):
    def version(present):
        app = Workflows()

        async def body() -> str:
            return "done"

        if present:
            app.workflow(name="body")(body)
        app._build = f"present={present}"
        return app

    monkeypatch.setattr("everstep.runtime.heartbeat.ORPHANED_AFTER", 0)
    handle = start_sync(version(True).workflows["body"])
    (error,) = asyncio.run(work(connection, version(False), handle, lease=60_000))
    assert "is parked: no worker has taken it up: workflow 'body' is not registered" in str(error)
    (error,) = asyncio.run(work(connection, version(False), handle))
    assert "is parked" in str(error)

    async def program():
        worker = Worker(connection.engine(version(True)), on_closed=connection.closed)
        serving = asyncio.ensure_future(worker.serve())
        while await handle.status() != RunStatus.COMPLETED:
            await asyncio.sleep(0.01)
        worker.stop()
        await serving

    asyncio.run(program())


def test_what_the_same_build_parked_is_tried_again_by_a_worker_that_starts(connection, app):
    """The build is of the modules that declare something, and the fix may be in another."""
    fixed = False

    @app.workflow
    async def body() -> str:
        if not fixed:
            asyncio.get_running_loop().run_in_executor(None, print)
        return "done"

    handle = start_sync(body)
    (error,) = asyncio.run(work(connection, app, handle))
    assert "is parked: loop.run_in_executor() was called" in str(error)
    build, fixed = app.build, True

    async def program():
        worker = Worker(connection.engine(app), on_closed=connection.closed)
        serving = asyncio.ensure_future(worker.serve())
        async with asyncio.timeout(20):
            while await handle.status() != RunStatus.COMPLETED:
                await asyncio.sleep(0.01)
        worker.stop()
        await serving

    asyncio.run(program())
    assert app.build == build


def test_progress_is_told_in_order(connection, app):
    @app.step(max_retries=1, retry=RetryPolicy(first_delay=0))
    async def flaky(fatal: bool) -> None:
        raise FatalError("stop") if fatal else ConnectionError("no answer")

    @app.workflow
    async def body() -> None:
        await sleep(0.01)
        for fatal in (False, True):
            try:
                await flaky(fatal)
            except Exception:
                pass

    told = []
    handle = start_sync(body)

    async def program():
        worker = Worker(connection.engine(app, observe=told.append), on_closed=connection.closed)
        serving = asyncio.ensure_future(worker.serve())
        await handle.return_value()
        worker.stop()
        await serving

    asyncio.run(program())
    assert [type(each) for each in told] == [
        TimerStarted,
        AttemptStarted,
        AttemptFailed,
        AttemptStarted,
        AttemptFailed,
        AttemptStarted,
        AttemptFailed,
        RunClosed,
    ]
    failed = [each for each in told if isinstance(each, AttemptFailed)]
    assert [each.retry_at is None for each in failed] == [False, True, True]
    assert not [each for each in told if isinstance(each, AttemptSucceeded)]


def test_a_step_can_use_the_connection_of_its_worker(connection, app):
    @app.workflow
    async def inner(number: int) -> int:
        return number + 1

    @app.step
    async def spawn() -> int:
        return await (await __import__("everstep").start(inner, 1)).return_value()

    @app.step
    def spawn_in_thread() -> str:
        return start_sync(inner, 2).run_id

    @app.workflow
    async def outer() -> tuple[int, str]:
        return await spawn(), await spawn_in_thread()

    handle = start_sync(outer)

    async def program():
        worker = Worker(connection.engine(app), on_closed=connection.closed)
        remove = connection.on_sent(worker.wake)
        serving = asyncio.ensure_future(worker.serve())
        value, run_id = await handle.return_value()
        other = await get_run(run_id).return_value()
        remove()
        worker.stop()
        await serving
        return value, other

    assert asyncio.run(program()) == (2, 3)


def test_the_run_list_shows_what_happened(connection, app):
    @app.workflow(name="fails")
    async def fails() -> None:
        raise ValueError("no")

    handle = start_sync(fails)
    (error,) = asyncio.run(work(connection, app, handle))
    assert isinstance(error, WorkflowRunFailedError)
    page = connection.backend.inspector.list_runs(RunQuery(status=RunStatus.FAILED))
    assert [run.run_id for run in page.runs] == [handle.run_id]


def test_a_payload_that_is_too_large_fails_its_step_or_start_and_nothing_else(connection, app, monkeypatch):
    monkeypatch.setattr("everstep.core.limits.MAX_PAYLOAD_BYTES", 1000)
    tried = []

    @app.step(name="large")
    async def large(size: int) -> str:
        tried.append(size)
        return "x" * size

    @app.step(name="take")
    async def take(text: str) -> int:
        return len(text)

    @app.workflow(name="body")
    async def body(text: str) -> list[str]:
        caught = []
        for call in (lambda: large(2000), lambda: take("x" * 2000)):
            try:
                await call()
            except SerializationError as error:
                caught.append(str(error))
        return caught

    with pytest.raises(SerializationError, match="the input of workflow 'body' is 2,011 bytes as JSON, more than"):
        start_sync(body, "x" * 2000)
    ((result, argument),) = asyncio.run(work(connection, app, start_sync(body, "x")))
    assert result.startswith("the result of step 'large' is 2,002 bytes as JSON, more than the limit of 1,000")
    assert argument.startswith("the input of step 'take' is 2,011 bytes")
    assert tried == [2000]


def test_a_record_that_cannot_be_stored_parks_its_run_and_no_other(connection, app, monkeypatch):
    @app.workflow
    async def body(number: int) -> int:
        return number

    handles = [start_sync(body, number) for number in range(3)]
    append = connection.backend.runs.append

    def too_large(run_id, turn):
        if run_id == handles[1].run_id:
            raise SerializationError("a record is larger than the store can hold")
        return append(run_id, turn)

    monkeypatch.setattr(connection.backend.runs, "append", too_large)
    results = asyncio.run(work(connection, app, *handles))
    assert (results[0], results[2]) == (0, 2)
    assert "is parked: a record is larger than the store can hold" in str(results[1])
    assert left_over(connection) is None
    monkeypatch.undo()
    connection.resume(handles[1].run_id)
    assert asyncio.run(work(connection, app, handles[1])) == [1]


def test_a_message_that_cannot_be_read_parks_its_run(connection, app, tmp_path):
    @app.workflow
    async def body() -> int:
        return 1

    handle = start_sync(body)
    with closing(sqlite3.connect(tmp_path / "runs.db")) as file, file:
        file.execute("UPDATE messages SET body = ?", (b'[999,["of a newer version"]]\n',))
    (error,) = asyncio.run(work(connection, app, handle))
    assert "a message for it cannot be read" in str(error)
    assert "newer version" in str(error)
    assert left_over(connection) is None
    connection.resume(handle.run_id)
    assert asyncio.run(work(connection, app, handle)) == [1]


def test_the_timeout_of_a_def_step_begins_when_it_has_a_thread(connection, app):
    gate = threading.Barrier(2, timeout=30)

    @app.step(timeout=30, max_retries=0)
    def meet() -> None:
        gate.wait()

    @app.workflow
    async def body() -> None:
        await asyncio.gather(*(meet() for _ in range(6)))

    assert asyncio.run(work(connection, app, start_sync(body), threads=2)) == [None]


def test_a_thread_that_is_not_waited_for_any_more_is_not_given_to_another(connection, app):
    go_on = threading.Event()
    running = most = 0

    @app.step(timeout=0.01, max_retries=0)
    def slow() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        go_on.wait(0.1)
        running -= 1

    @app.workflow
    async def body() -> list[str]:
        results = await asyncio.gather(*(slow() for _ in range(4)), return_exceptions=True)
        return [type(result).__name__ for result in results]

    assert asyncio.run(work(connection, app, start_sync(body), threads=1)) == [["StepTimeoutError"] * 4]
    assert most == 1


KILLER = """
import asyncio, os, sys
from everstep import Workflows
from everstep.assembly import connect_sqlite, use_connection
from everstep.runtime.worker import Worker

app = Workflows()

@app.step(name="deadly")
async def deadly():
    os._exit(9)

@app.step(name="harmless")
async def harmless():
    await asyncio.sleep(0.05)
    return "fine"

@app.workflow(name="deadly_step")
async def deadly_step():
    await deadly()

@app.workflow(name="deadly_body")
async def deadly_body():
    os._exit(9)

@app.workflow(name="healthy")
async def healthy():
    return await harmless()

async def serve(connection):
    worker = Worker(connection.engine(app), on_closed=lambda _: rest(connection) and worker.stop())
    if not rest(connection):
        await worker.serve()

def rest(connection):
    from everstep.ports import RunQuery
    from everstep.runtime.connection import at_rest
    return all(at_rest(run) for run in connection.backend.inspector.list_runs(RunQuery()).runs)

if __name__ == "__main__":
    with use_connection(connect_sqlite(sys.argv[1])) as connection:
        asyncio.run(serve(connection))
"""


def test_what_kills_its_workers_is_found_and_harms_nothing_else(tmp_path):
    """Real processes that end in the middle of a step, or of a turn, beside others that did nothing wrong."""
    script = tmp_path / "killer.py"
    script.write_text(KILLER)
    namespace = {"__name__": "killer"}
    exec(KILLER, namespace)
    connection = connect_sqlite(tmp_path / "runs.db")
    with use_connection(connection):
        step = start_sync(namespace["deadly_step"])
        healthy = [start_sync(namespace["healthy"]) for _ in range(3)]
        body = start_sync(namespace["deadly_body"])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(40):
        ended = subprocess.run([sys.executable, str(script), str(tmp_path / "runs.db")], env=environment, timeout=60)
        if ended.returncode == 0:
            break
        assert ended.returncode == 9
    else:
        pytest.fail("the runs did not come to rest")
    assert [handle.wait() for handle in healthy] == ["fine"] * 3
    with pytest.raises(
        WorkflowRunParkedError, match="its workers died 5 times while they ran step 'deadly' and nothing"
    ):
        step.wait()
    with pytest.raises(WorkflowRunParkedError, match="its workers died 5 times while they ran the workflow's body"):
        body.wait()
    connection.close()


def test_a_body_that_calls_sys_exit_fails_its_run_and_not_the_worker(connection, app):
    @app.workflow
    async def body() -> None:
        sys.exit(3)

    @app.workflow
    async def healthy() -> int:
        return 1

    failed, value = asyncio.run(work(connection, app, start_sync(body), start_sync(healthy)))
    assert isinstance(failed, WorkflowRunFailedError)
    assert isinstance(failed.error, SystemExit)
    assert value == 1


def test_a_worker_leaves_alone_what_another_app_on_the_same_file_is_doing(connection, app):
    @app.step(max_retries=20, retry=RetryPolicy(first_delay="5ms", factor=1))
    async def flaky() -> int:
        attempt = get_step_metadata().attempt
        if attempt < 10:
            raise ConnectionError("no answer")
        return attempt

    @app.workflow(name="mine")
    async def mine() -> int:
        await sleep(0.01)
        return await flaky()

    other = Workflows()

    @other.workflow(name="other")
    async def body() -> int:
        return 1

    async def program():
        workers = [Worker(connection.engine(each), on_closed=connection.closed) for each in (other, app)]
        serving = [asyncio.ensure_future(worker.serve()) for worker in workers]
        results = await asyncio.gather(start_sync(mine).return_value(), start_sync(body).return_value())
        for worker in workers:
            worker.stop()
        await asyncio.gather(*serving)
        return results

    assert asyncio.run(program()) == [10, 1]


def test_a_body_that_computes_for_long_is_reported_with_its_place(connection, app, caplog):
    @app.workflow
    async def body() -> int:
        until = threading.Event()
        until.wait(1)  # instead of a computation
        return 1

    handle = start_sync(body)
    with caplog.at_level("WARNING", logger="everstep.worker"):
        assert asyncio.run(work(connection, app, handle, lease=300_000)) == [1]
    (record, *_) = caplog.records
    assert f"the body of run {handle.run_id} has kept its worker for seconds" in record.message
