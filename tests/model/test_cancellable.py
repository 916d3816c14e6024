"""Cancellable steps are told while they run that nobody waits for them any more, and are waited for until they end."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta

import pytest

from everstep import (
    ContextError,
    RetryableError,
    StepCancelledError,
    WorkflowRunCancelledError,
    WorkflowRunFailedError,
    cancellation_requested,
    get_step_metadata,
    now,
    sleep,
    start_sync,
)
from everstep.assembly import connect_sqlite, use_connection
from everstep.core.history import CancelStep, StepCompleted, StepFailed
from everstep.runtime import execute
from everstep.runtime.worker import Worker
from everstep.testing import History, replay
from tests.model.conftest import do


@pytest.fixture
def connection(tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "CANCEL_POLL_SECONDS", 0.01)
    connection = connect_sqlite(tmp_path / "runs.db")
    with use_connection(connection):
        yield connection
    connection.close()


class Steps:
    """Steps that run until they are told to end, and what became of them."""

    def __init__(self, app):
        self.began = threading.Event()
        self.log = []

        @app.step(name="wait", cancellable=True)
        async def wait(name: str = "wait", cleans_up: float = 0.0) -> str:
            self.began.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(cleans_up)
                self.log.append(f"{name} {get_step_metadata().attempt} cancelled")
                raise
            return name

        @app.step(name="poll", cancellable=True)
        def poll(name: str = "poll") -> str:
            self.began.set()
            deadline = time.monotonic() + 60
            while not cancellation_requested():
                assert time.monotonic() < deadline
                time.sleep(0.005)
            self.log.append(f"{name} told")
            return f"{name} ended by itself"

        @app.step(name="stubborn", cancellable=True)
        async def stubborn() -> str:
            self.began.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.log.append("stubborn goes on")
            return "stubborn has ended"

        @app.step(name="note")
        async def note(text: str) -> str:
            self.log.append(text)
            return text

        self.wait, self.poll, self.stubborn, self.note = wait, poll, stubborn, note


@pytest.fixture
def steps(app):
    return Steps(app)


async def work(connection, app, handle, meanwhile=None):
    """Work until the run is at rest; what it returned, or the error."""
    worker = Worker(connection.engine(app, verify=True), on_closed=connection.closed)
    serving = asyncio.ensure_future(worker.serve())
    with use_connection(connection):
        acting = asyncio.ensure_future(meanwhile()) if meanwhile is not None else None
    [result] = await asyncio.gather(handle.return_value(), return_exceptions=True)
    if acting is not None:
        await acting
    worker.stop()
    await serving
    return result


def events(connection, handle, kind):
    history = History.read(connection.backend, handle.run_id)
    return [event for turn in history.turns for event in turn.events if isinstance(event, kind)]


@pytest.mark.parametrize("kind", ["wait", "poll", "stubborn"])
@pytest.mark.parametrize("how", ["cancel", "deadline", "task"])
def test_a_step_is_told_and_waited_for(app, connection, steps, kind, how):
    step = getattr(steps, kind)

    @app.workflow(name="body")
    async def body() -> list[str]:
        async def with_deadline() -> str:
            async with asyncio.timeout(0.2):
                return await step()

        try:
            match how:
                case "cancel":
                    await step()
                case "deadline":
                    await with_deadline()
                case "task":
                    task = asyncio.create_task(step())
                    await sleep(0.2)
                    task.cancel()
                    await task
        except (asyncio.CancelledError, TimeoutError) as error:
            return [type(error).__name__, await steps.note("after it")]
        return ["it returned"]

    handle = start_sync(body)

    async def cancel():
        while not steps.began.is_set():
            await asyncio.sleep(0.01)
        if how == "cancel":
            await handle.cancel("enough")

    result = asyncio.run(work(connection, app, handle, cancel))
    assert result == ["TimeoutError" if how == "deadline" else "CancelledError", "after it"]
    told = {"wait": "wait 1 cancelled", "poll": "poll told", "stubborn": "stubborn goes on"}[kind]
    assert steps.log == [told, "after it"]
    ended = events(connection, handle, (StepCompleted, StepFailed))
    assert isinstance(ended[0], StepFailed if kind == "wait" else StepCompleted)
    history = History.read(connection.backend, handle.run_id)
    assert [c.op for turn in history.turns for c in turn.commands if isinstance(c, CancelStep)] == [ended[0].op]
    assert replay(app, history) == result


def test_cancelling_again_does_not_wait(app, connection, steps):
    """A second cancellation of the task that waits lets it go at once."""

    @app.workflow(name="body")
    async def body() -> str:
        task = asyncio.create_task(steps.wait("wait", 0.5))
        await sleep(0.1)
        task.cancel()
        await sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return await steps.note("gone on")

    handle = start_sync(body)
    assert asyncio.run(work(connection, app, handle)) == "gone on"
    assert steps.log[0] == "gone on"


def test_a_run_ends_as_cancelled_when_its_step_has_ended(app, connection, steps):
    @app.workflow(name="body")
    async def body() -> None:
        await asyncio.gather(steps.wait("a", 0.05), steps.poll("b"))

    handle = start_sync(body)

    async def cancel():
        while not steps.began.is_set():
            await asyncio.sleep(0.01)
        await handle.cancel("enough")

    result = asyncio.run(work(connection, app, handle, cancel))
    assert isinstance(result, WorkflowRunCancelledError)
    assert sorted(steps.log) == ["a 1 cancelled", "b told"]


def test_terminating_tells_the_steps_and_does_not_wait(app, connection, steps):
    @app.workflow(name="body")
    async def body() -> None:
        await asyncio.gather(steps.wait("a", 0.05), steps.poll("b"))

    handle = start_sync(body)

    async def terminate():
        while not steps.began.is_set():
            await asyncio.sleep(0.01)
        await handle.terminate("stop")
        while len(steps.log) < 2:
            await asyncio.sleep(0.01)

    result = asyncio.run(work(connection, app, handle, terminate))
    assert isinstance(result, WorkflowRunCancelledError)
    assert sorted(steps.log) == ["a 1 cancelled", "b told"]
    assert connection.backend.source.next_due() is None
    assert not connection.backend.runs.load(handle.run_id).inbox


def test_an_attempt_that_comes_too_late_is_not_begun(app, environment, steps):
    """The task was cancelled before a worker took the step up."""

    @app.workflow(name="body")
    async def body() -> str:
        task = asyncio.create_task(steps.wait())
        await asyncio.sleep(0)
        await steps.note("first")
        task.cancel()
        return type((await asyncio.gather(task, return_exceptions=True))[0]).__name__

    with environment(app) as env:
        run = env.start(body)
        queue = env.connection.backend.queue
        send, kept = queue.send, []

        def hold(messages):
            kept.extend(each for each in messages if each.message_id == f"step/{run.run_id}/0/1")
            send([each for each in messages if each not in kept])

        queue.send = hold
        env.run_until_idle()
        queue.send = send
        assert do(run.status()) == "running", "it waits for the end of the step"
        send(kept)
        assert run.wait() == "CancelledError"
        assert steps.log == ["first"]
        failed = [event for turn in env.history(run).turns for event in turn.events if isinstance(event, StepFailed)]
        assert b"was not begun: nobody waits for it any more" in failed[0].error


def test_a_step_that_is_not_awaited_yet_is_withdrawn(app, environment, steps):
    @app.workflow(name="body")
    async def body() -> str:
        task = asyncio.create_task(steps.wait())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return "withdrawn"

    with environment(app) as env:
        run = env.start(body)
        assert run.wait() == "withdrawn"
        assert env.history(run).turns[0].commands[:-1] == ()


@pytest.mark.parametrize("waits", ["10 days", "1s"])
def test_a_retry_is_not_made_when_nobody_waits(app, environment, waits):
    """Nor is it waited for."""
    attempts = []

    @app.step(name="flaky", cancellable=True, max_retries=50)
    async def flaky() -> None:
        attempts.append(get_step_metadata().attempt)
        raise RetryableError("not yet", retry_after=waits)

    @app.workflow(name="body")
    async def body() -> tuple[str, timedelta]:
        begin = now()
        try:
            async with asyncio.timeout(4.5):
                await flaky()
        except TimeoutError:
            return "too late", now() - begin
        raise AssertionError

    with environment(app) as env:
        run = env.start(body)
        assert run.wait() == ("too late", timedelta(seconds=4.5))
        assert attempts == ([1] if waits == "10 days" else [1, 2, 3, 4, 5])
        begin = env.clock.now()
        env.run_until_idle()
        assert env.clock.now() == begin, "no message is left"


def test_asking_in_the_wrong_place(app, environment):
    with pytest.raises(ContextError, match=r"cancellation_requested\(\) belongs in a step that a workflow runs"):
        cancellation_requested()

    @app.step(name="ordinary")
    async def ordinary() -> bool:
        return cancellation_requested()

    @app.workflow(name="body")
    async def body() -> bool:
        return await ordinary()

    with environment(app) as env:
        assert env.run(body) is False

        @app.workflow(name="wrong")
        async def wrong() -> bool:
            return cancellation_requested()

        with pytest.raises(WorkflowRunFailedError, match="belongs in a step"):
            env.run(wrong)


def test_the_error_of_a_cancelled_step_is_fatal():
    assert StepCancelledError("x").fatal
