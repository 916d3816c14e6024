"""Controlling a run from outside: cancel, terminate, wake up, pause, and what of it lasts."""

from __future__ import annotations

import asyncio
from asyncio import sleep as asyncio_sleep
from datetime import UTC, datetime, timedelta

import pytest

from everstep import (
    ConfigurationError,
    ContextError,
    RunStatus,
    StoreError,
    WorkflowRunCancelledError,
    WorkflowRunFailedError,
    WorkflowRunNotFoundError,
    WorkflowRunParkedError,
    cancel_runs,
    continue_as_new,
    create_hook,
    get_run,
    get_step_metadata,
    now,
    resume_hook_sync,
    sleep,
    start,
)
from everstep.backends.memory import open_memory
from everstep.core.history import (
    CancelRequested,
    CancelRun,
    CancelTimer,
    PauseRequested,
    RunStarted,
    RunStep,
    TimerFired,
    UnpauseRequested,
)
from everstep.core.ids import child_run_id
from everstep.core.run import Parked, Problem
from everstep.core.timeline import TimerState, timeline
from everstep.testing import replay
from tests.model.conftest import do

HOUR = 3_600_000_000


@pytest.fixture
def env(app, environment):
    with environment(app) as env:
        yield env


@pytest.fixture
def step(app):
    @app.step(name="step")
    async def step(value: object = None) -> object:
        return value

    return step


@pytest.fixture
def waits(app, step):
    """Waits for a hook, and cleans up when it is cancelled."""

    @app.workflow(name="waits")
    async def waits(token: str = "t") -> str:
        try:
            return await create_hook(token=token)
        finally:
            await step("clean up")

    return waits


def commands(env, run, kind=object):
    return [command for turn in env.history(run).turns for command in turn.commands if isinstance(command, kind)]


def events(env, run, kind=object):
    return [event for turn in env.history(run).turns for event in turn.events if isinstance(event, kind)]


def inbox(env, run):
    return [entry.event for entry in env.connection.backend.runs.load(run.run_id).inbox]


# --- cancel ------------------------------------------------------------------------------------------


def test_a_body_that_is_cancelled_may_clean_up(app, env, waits):
    run = env.start(waits)
    env.wait_for_hook(run)
    do(run.cancel("no longer needed"))
    with pytest.raises(WorkflowRunCancelledError, match="was cancelled: no longer needed") as caught:
        run.wait()
    assert caught.value.reason == "no longer needed"
    assert do(run.status()) is RunStatus.CANCELLED
    assert [command.name for command in commands(env, run, RunStep)] == ["step"]
    assert commands(env, run, CancelRun) == [CancelRun(reason="no longer needed")]
    assert env.connection.backend.hooks.find("t") is None
    assert not inbox(env, run)
    assert replay(app, env.history(run)) is None


def test_the_reason_reaches_the_body(app, env, step):
    @app.workflow
    async def body() -> str:
        try:
            await sleep("1h")
        except asyncio.CancelledError as error:
            return f"{error.args}"
        return "slept"

    run = env.start(body)
    env.wait_for_sleep(run)
    do(run.cancel("why"))
    assert run.wait() == "('why',)", "a body that swallows its cancellation completes"
    assert do(run.status()) == "completed"


@pytest.mark.parametrize("again", [False, True])
def test_a_body_that_goes_on_is_not_cancelled_again(app, env, step, again):
    """The first request counts. The way out of a body that does not end is to terminate it."""

    @app.workflow
    async def body() -> str:
        try:
            await sleep("1h")
        except asyncio.CancelledError:
            pass
        return f"went on {await create_hook(token='t')}"

    run = env.start(body)
    env.wait_for_sleep(run)
    do(run.cancel("first"))
    env.wait_for_hook(run)
    if again:
        do(run.cancel("second"))
        env.run_until_idle()
        assert not inbox(env, run)
    resume_hook_sync("t", "to the end")
    assert run.wait() == "went on to the end"
    assert [event.reason for event in events(env, run, CancelRequested)] == ["first"]


def test_an_error_while_cleaning_up(app, env):
    @app.workflow
    async def body() -> None:
        try:
            await sleep("1h")
        finally:
            raise ValueError("clean up failed")

    run = env.start(body)
    env.wait_for_sleep(run)
    do(run.cancel())
    with pytest.raises(WorkflowRunFailedError, match="clean up failed"):
        run.wait()


def test_cancelling_while_it_cleans_up_changes_nothing(app, env, step):
    @app.workflow
    async def body() -> None:
        try:
            await sleep("1h")
        finally:
            for number in range(3):
                await step(number)
                await sleep("1m")

    run = env.start(body)
    env.wait_for_sleep(run)
    do(run.cancel("first"))
    env.run_until_idle(lambda: len(commands(env, run, RunStep)) == 2)
    do(run.cancel("second"))
    with pytest.raises(WorkflowRunCancelledError, match="first"):
        run.wait()
    assert len(commands(env, run, RunStep)) == 3


def test_everything_of_a_body_is_cancelled(app, env, step):
    seen = []

    @app.workflow
    async def body() -> None:
        async def part(name: str) -> None:
            try:
                await sleep("1h")
            except asyncio.CancelledError:
                seen.append(name)
                await step(name)
                raise

        async with asyncio.timeout(86_400), asyncio.TaskGroup() as group:
            group.create_task(part("a"))
            group.create_task(part("b"))
            await asyncio.gather(part("c"), part("d"))

    run = env.start(body)
    env.wait_for_sleep(run)
    do(run.cancel())
    with pytest.raises(WorkflowRunCancelledError):
        run.wait()
    assert set(seen) == {"a", "b", "c", "d"}
    assert len(commands(env, run, RunStep)) == 4
    assert not env.connection.backend.source.next_due(), "no timer is left"


@pytest.mark.parametrize("start_at", [None, "1h"])
def test_cancelling_before_it_begins(app, env, waits, start_at):
    run = env.start(waits.with_options(start_at=start_at) if start_at else waits)
    begin = env.clock.now()
    do(run.cancel("not at all"))
    if start_at is None:  # the message that starts it comes first
        env.connection.backend.queue.discard([f"start/{run.run_id}"])
    with pytest.raises(WorkflowRunCancelledError, match="not at all"):
        run.wait()
    assert [(turn.events, turn.commands) for turn in env.history(run).turns] == [
        ((CancelRequested(reason="not at all", nonce=events(env, run)[0].nonce),), (CancelRun(reason="not at all"),))
    ]
    env.run_until_idle()
    assert env.clock.now() == begin
    assert replay(app, env.history(run)) is None


def test_cancelling_a_run_that_has_ended(app, env, step):
    @app.workflow
    async def body() -> str:
        return await step("done")

    run = env.start(body)
    assert run.wait() == "done"
    do(run.cancel())
    do(run.terminate())
    env.run_until_idle()
    assert run.wait() == "done"
    assert not inbox(env, run)


def test_who_cannot_be_asked(env, waits):
    missing = get_run("wrun_01ARZ3NDEKTSV4RRFFQ69G5FAV")
    for ask in (missing.cancel, missing.terminate, missing.wake_up, missing.pause, missing.unpause, missing.rerun):
        with pytest.raises(WorkflowRunNotFoundError):
            do(ask())
    run = env.start(waits)
    with pytest.raises(ConfigurationError, match="the reason has 513 characters; 512 are allowed"):
        do(run.cancel("x" * 513))
    with pytest.raises(TypeError, match="the reason of a cancellation is text, not int"):
        do(run.terminate(3))


def test_a_body_does_not_control_runs(app, env):
    @app.workflow
    async def body(run_id: str, what: str) -> None:
        if what == "cancel_runs":
            await cancel_runs(status="running")
        else:
            get_run(run_id)

    for what in ("cancel_runs", "get_run"):
        with pytest.raises(WorkflowRunFailedError, match=rf"{what}\(\) was called in a workflow body") as caught:
            env.run(body, "wrun_01ARZ3NDEKTSV4RRFFQ69G5FAV", what)
        assert isinstance(caught.value.error, ContextError)


def test_a_step_in_flight_runs_on(app, env, step):
    done = []

    @app.step(name="slow")
    async def slow() -> str:
        await get_run(get_step_metadata().run_id).cancel("in the middle")
        done.append(1)
        return "done"

    @app.workflow
    async def body() -> str:
        return (await asyncio.gather(slow(), step()))[0]

    run = env.start(body)
    with pytest.raises(WorkflowRunCancelledError, match="in the middle"):
        run.wait()
    assert done == [1], "it is not stopped, and its result is of no interest"


def test_the_outcome_that_came_first_counts(app, env, step):
    @app.workflow
    async def body() -> str:
        return await create_hook(token="t")

    run = env.start(body)
    env.wait_for_hook(run)
    resume_hook_sync("t", "in time")
    do(run.cancel())
    assert run.wait() == "in time"
    assert not inbox(env, run)


def test_cancelling_a_run_that_goes_on_as_a_new_one_in_the_same_turn(app, env):
    """It was asked of this run, and is not lost with it."""

    @app.workflow(name="loop")
    async def loop(number: int = 0) -> str:
        if number == 0:
            await create_hook(token="t")
            continue_as_new(1)
        await sleep("1h")
        return "not cancelled"

    run = env.start(loop)
    env.wait_for_hook(run)
    resume_hook_sync("t")
    do(run.cancel("both at once"))
    with pytest.raises(WorkflowRunCancelledError, match="both at once"):
        run.wait()


@pytest.mark.parametrize("ask", ["cancel", "terminate", "pause", "wake_up", "set_attributes"])
def test_what_is_asked_of_a_run_that_has_just_gone_on_as_a_new_one(app, env, ask):
    """The asker has seen the old run, and its request arrives when that has ended: it is for the new one."""

    @app.workflow(name="loop")
    async def loop(number: int = 0) -> str:
        if number == 0:
            await create_hook(token="t")
            continue_as_new(1)
        await sleep("1h")
        return f"{now()}"

    run = env.start(loop)
    env.wait_for_hook(run)
    resume_hook_sync("t")
    old = env.connection.get(run.run_id)
    env.wait_for_sleep(run)
    request = getattr(env.connection, ask)
    arguments = ({"a": "b"},) if ask == "set_attributes" else ()
    _as_it_was(env, old, lambda: request(run.run_id, *arguments))
    begin = env.clock.now()
    match ask:
        case "cancel" | "terminate":
            with pytest.raises(WorkflowRunCancelledError):
                run.wait()
        case "pause":
            env.run_until_idle()
            assert do(run.status()) == "paused"
        case "wake_up":
            run.wait()
            assert env.clock.now() == begin
        case "set_attributes":
            run.wait()
            assert do(run.attributes()) == {"a": "b"}
    env.run_until_idle()
    assert not inbox(env, run)


def test_what_is_asked_of_a_run_whose_last_turn_goes_on(app, environment):
    """Whoever made that turn died before the record said so; the request is found by who finishes the run."""

    @app.workflow(name="loop")
    async def loop(number: int = 0) -> None:
        if number == 0:
            await create_hook(token="t")
            continue_as_new(1)
        await sleep("1h")

    with environment(app, backend=open_memory(atomic_units=False)) as env:
        run = env.start(loop)
        env.wait_for_hook(run)
        resume_hook_sync("t")
        _die_at(env, env.connection.backend.runs, "mark")
        do(run.cancel("in between"))
        with pytest.raises(WorkflowRunCancelledError, match="in between"):
            run.wait()


def _die_at(env, port, call, when=lambda *_: True):
    """Let the worker die at a call of this kind; the one that goes on has never seen the run."""
    original = getattr(port, call)

    def die(*arguments):
        if when(*arguments):
            raise StoreError("it died here")
        return original(*arguments)

    setattr(port, call, die)
    with pytest.raises(StoreError, match="it died here"):
        env.run_until_idle()
    delattr(port, call)
    env.engine.live.clear()


def _as_it_was(env, record, call):
    """Make a call that still sees this record."""
    inspector = env.connection.backend.inspector
    get_run = inspector.get_run
    inspector.get_run = lambda run_id: record if run_id == record.run_id else get_run(run_id)
    try:
        call()
    finally:
        del inspector.get_run


# --- parked runs -------------------------------------------------------------------------------------


@pytest.fixture
def parked(app, env, step):
    """A run that is parked because its step is missing, and what mends it."""

    @app.workflow(name="fragile")
    async def fragile() -> str:
        create_hook(token="t")
        timer = asyncio.create_task(sleep("30 days"))
        result = await step("done")
        timer.cancel()
        return result

    run = env.start(fragile)
    del app.steps["step"]
    with pytest.raises(WorkflowRunParkedError):
        run.wait()

    def mend():
        app.steps["step"] = step
        env.connection.resume(run.run_id)

    return run, mend


def test_a_parked_run_is_cancelled_when_it_can_go_on(env, parked):
    run, mend = parked
    do(run.cancel("enough"))
    env.run_until_idle()
    assert do(run.status()) == "parked"
    assert [event.reason for event in inbox(env, run)] == ["enough"]
    mend()
    with pytest.raises(WorkflowRunCancelledError, match="enough"):
        run.wait()


def test_what_a_turn_began_is_not_forgotten_while_its_run_is_parked(app, environment):
    """The worker died before it started the child; the message that guards that comes again when the run is parked."""

    @app.step(name="work")
    async def work() -> None: ...

    @app.workflow(name="child")
    async def child() -> str:
        return "it ran"

    @app.workflow(name="parent")
    async def parent() -> None:
        await work()
        await start(child)
        await create_hook(token="t")

    with environment(app, backend=open_memory(atomic_units=False)) as env:
        run, backend = env.start(parent), env.connection.backend
        child_id = child_run_id(run.run_id, 0)

        def starts_the_child(messages):
            return any(each.message_id == f"start/{child_id}" for each in messages)

        _die_at(env, backend.queue, "send", starts_the_child)
        problem = Problem(code="poison", message="", turn=-1, build=env.engine.registry.build, at=env.clock.now())
        backend.runs.mark(run.run_id, Parked(problem=problem))
        backend.source.kill("test-worker")
        backend.source.recover(now=env.clock.now())
        env.run_until_idle()
        assert do(run.status()) == "parked"
        assert get_run(child_id).wait() == "it ran"


def test_a_parked_run_is_terminated_at_once(env, parked):
    run, _ = parked
    do(run.terminate("enough"))
    env.run_until_idle()
    with pytest.raises(WorkflowRunCancelledError, match="enough"):
        run.wait()
    assert env.connection.backend.hooks.find("t") is None
    assert not env.connection.backend.source.next_due()
    assert not inbox(env, run)


def test_a_run_that_does_not_replay_is_terminated(app, env, step):
    """Its body cannot be asked, nor can its history be replayed: what it has open follows from the history alone."""
    other = False

    @app.step(name="other")
    async def another() -> None: ...

    @app.workflow(name="child")
    async def child() -> str:
        return await create_hook(token="of the child")

    @app.workflow(name="fragile")
    async def fragile() -> str:
        await (another() if other else step())
        create_hook(token="t")
        waiting = asyncio.create_task(child())
        async with asyncio.timeout(86_400):
            await sleep("1h")
        await waiting
        return "done"

    run = env.start(fragile)
    env.wait_for_hook(run, token="t")
    env.run_until_idle(lambda: env.connection.backend.hooks.find("of the child") is not None)
    env.engine.live.clear()
    other = True
    with pytest.raises(WorkflowRunParkedError, match="where the history has step 'step'"):
        run.wait()
    do(run.terminate("it is broken"))
    env.run_until_idle()
    assert do(run.status()) == "cancelled"
    assert env.connection.backend.hooks.find("t") is None
    assert env.connection.backend.hooks.find("of the child") is None
    assert not env.connection.backend.source.next_due()
    turns = env.history(run).turns
    assert [turn.number for turn in turns] == list(range(len(turns)))
    other = False
    assert replay(app, env.history(run)) is None


# --- terminate ---------------------------------------------------------------------------------------


def test_a_run_that_is_terminated_is_not_asked(app, env, waits):
    run = env.start(waits)
    env.wait_for_hook(run)
    do(run.terminate("at once"))
    with pytest.raises(WorkflowRunCancelledError, match="at once"):
        run.wait()
    assert not commands(env, run, RunStep)
    assert env.connection.backend.hooks.find("t") is None
    assert not inbox(env, run)
    assert replay(app, env.history(run)) is None


def test_terminating_a_run_that_swallows_its_cancellation(app, env):
    @app.workflow
    async def body() -> None:
        while True:
            try:
                await sleep("1h")
            except asyncio.CancelledError:
                pass

    run = env.start(body)
    env.wait_for_sleep(run)
    do(run.cancel())
    env.run_until_idle(lambda: bool(events(env, run, CancelRequested)))
    do(run.terminate())
    with pytest.raises(WorkflowRunCancelledError):
        run.wait()
    env.run_until_idle()
    assert not env.connection.backend.source.next_due()


@pytest.mark.parametrize("start_at", [None, "1h"])
def test_terminating_before_it_begins(env, waits, start_at):
    run = env.start(waits.with_options(start_at=start_at) if start_at else waits)
    begin = env.clock.now()
    do(run.terminate())
    with pytest.raises(WorkflowRunCancelledError):
        run.wait()
    env.run_until_idle()
    assert env.clock.now() == begin


def test_a_run_whose_last_turn_is_there_is_not_terminated(app, env, step):
    """Whoever made it died before the record said so. Its outcome stands, and nothing follows the last turn."""

    @app.workflow
    async def body() -> str:
        return await step("done")

    run = env.start(body)
    mark = env.connection.backend.runs.mark
    env.connection.backend.runs.mark = lambda run_id, change: None
    env.run_until_idle()
    env.connection.backend.runs.mark = mark
    assert do(run.status()) == "pending", "the record knows nothing"
    do(run.terminate())
    assert run.wait() == "done"
    assert len(env.history(run).turns) == 2
    assert do(run.started_at()) is not None


# --- wake up -----------------------------------------------------------------------------------------


def test_waking_up_ends_sleeps_and_not_deadlines(app, env):
    @app.workflow
    async def body() -> list[str]:
        log = []

        async def nap(name: str, how) -> None:
            await how
            log.append(name)

        async with asyncio.TaskGroup() as group:
            group.create_task(nap("everstep", sleep("3h")))
            group.create_task(nap("asyncio", asyncio.sleep(7200)))
            group.create_task(nap("imported", asyncio_sleep(3600)))
        try:
            async with asyncio.timeout(3600):
                await create_hook(token="t")
        except TimeoutError:
            log.append("deadline")
        return log

    run = env.start(body)
    begin = env.clock.now()
    assert env.wait_for_sleep(run) == datetime.fromtimestamp((begin + HOUR) / 1e6, tz=UTC)
    do(run.wake_up())
    env.wait_for_hook(run)
    assert env.clock.now() == begin
    do(run.wake_up())
    assert run.wait() == ["imported", "asyncio", "everstep", "deadline"], "in the order in which they were due"
    assert env.clock.now() == begin + HOUR
    assert replay(app, env.history(run)) == ["imported", "asyncio", "everstep", "deadline"]


def test_waking_up_twice(app, env):
    @app.workflow
    async def body() -> list[timedelta]:
        slept = []
        for _ in range(3):
            before = now()
            await sleep("1h")
            slept.append(now() - before)
        return slept

    run = env.start(body)
    env.wait_for_sleep(run)
    do(run.wake_up())
    do(run.wake_up())  # both end the first sleep or, if they come one after the other, the second too
    env.run_until_idle(lambda: len(events(env, run, TimerFired)) == 1)
    assert run.wait().count(timedelta(hours=1)) in (1, 2)
    assert not inbox(env, run)


def test_waking_up_a_run_that_does_not_sleep(app, env, waits):
    run = env.start(waits)
    env.wait_for_hook(run)
    do(run.wake_up())
    env.run_until_idle()
    resume_hook_sync("t", "x")
    assert run.wait() == "x"


def test_waking_up_before_it_begins_ends_no_sleep(app, env):
    @app.workflow
    async def body() -> timedelta:
        before = now()
        await sleep("1h")
        return now() - before

    run = env.start(body.with_options(start_at="1h"))
    begin = env.clock.now()
    do(run.wake_up())
    env.run_until_idle(lambda: not env.connection.backend.runs.load(run.run_id).inbox)
    assert run.wait() == timedelta(hours=1)
    assert env.clock.now() == begin + 2 * HOUR


def test_a_sleep_that_was_ended_is_shown_as_over(app, env):
    @app.workflow
    async def body() -> None:
        async with asyncio.timeout(7200):
            await sleep("1h")
        await create_hook(token="t")

    run = env.start(body)
    env.wait_for_sleep(run)
    do(run.wake_up())
    env.wait_for_hook(run)
    views = timeline(env.history(run).turns, run_id=run.run_id, now=env.clock.now())
    assert [(view.sleep, view.state) for view in views if hasattr(view, "sleep")] == [
        (False, TimerState.CANCELLED),
        (True, TimerState.FIRED),
    ]
    assert len(commands(env, run, CancelTimer)) == 2


# --- pause -------------------------------------------------------------------------------------------


def test_nothing_is_delivered_to_a_paused_run(app, env, step):
    @app.workflow
    async def body() -> list[object]:
        hook = create_hook(token="t")
        return [await step(1), await hook, await step(2)]

    run = env.start(body)
    env.wait_for_hook(run)
    do(run.pause())
    env.run_until_idle()
    assert do(run.status()) is RunStatus.PAUSED
    before = len(env.history(run).turns)
    resume_hook_sync("t", "payload")
    env.run_until_idle()
    assert len(env.history(run).turns) == before
    do(run.unpause())
    assert run.wait() == [1, "payload", 2]
    assert do(run.status()) == "completed"
    assert replay(app, env.history(run)) == [1, "payload", 2]


def test_pausing_while_a_step_runs(app, env):
    """The step ends, and its outcome waits."""

    @app.step(name="work")
    async def work(number: int) -> int:
        if number == 1:
            await get_run(get_step_metadata().run_id).pause()
        return number

    @app.workflow
    async def body() -> list[int]:
        return [await work(number) for number in range(4)]

    run = env.start(body)
    env.run_until_idle()
    assert do(run.status()) == "paused"
    ran = len(commands(env, run, RunStep))
    assert ran in (2, 3)
    env.engine.live.clear()
    do(run.unpause())
    assert run.wait() == [0, 1, 2, 3]


def test_timers_that_are_due_meanwhile(app, env):
    @app.workflow
    async def body() -> list[timedelta]:
        begin = now()
        await sleep("1h")
        first = now() - begin
        await sleep("1h")
        return [first, now() - begin]

    run = env.start(body)
    env.wait_for_sleep(run)
    do(run.pause())
    env.run_until_idle()
    env.clock.advance(10 * HOUR)
    env.run_until_idle()
    assert not events(env, run, TimerFired)
    do(run.unpause())
    assert run.wait() == [timedelta(hours=11), timedelta(hours=12)]


def test_a_timer_whose_message_came_by_a_clock_that_was_ahead(app, env):
    @app.workflow
    async def body() -> timedelta:
        begin = now()
        await sleep("1h")
        return now() - begin

    run = env.start(body)
    env.wait_for_sleep(run)
    do(run.pause())
    env.run_until_idle()  # the timer's message is taken, an hour later
    env.clock.set(env.clock.now() - HOUR // 6)
    do(run.unpause())
    assert timedelta(hours=1) <= run.wait() <= timedelta(hours=1, seconds=5)


def test_pausing_before_it_begins(app, env, waits):
    run = env.start(waits.with_options(start_at="1h"))
    do(run.pause())
    env.run_until_idle()
    assert do(run.status()) == "paused"
    assert not events(env, run, RunStarted)
    do(run.unpause())
    env.wait_for_hook(run)
    assert do(run.status()) == "running"
    resume_hook_sync("t", "x")
    assert run.wait() == "x"
    assert replay(app, env.history(run)) == "x"


def test_pausing_and_unpausing_before_it_begins(app, env, waits):
    run = env.start(waits.with_options(start_at="1h"))
    begin = env.clock.now()
    do(run.pause())
    do(run.unpause())
    env.wait_for_hook(run)
    assert env.clock.now() == begin + HOUR
    assert do(run.status()) == "running"


def test_a_start_that_came_by_a_clock_that_was_ahead(app, env, waits):
    """The message that starts it comes while it is paused; it is unpaused where it is not yet time."""
    run = env.start(waits.with_options(start_at="1h"))
    begin = env.clock.now()
    do(run.pause())
    env.run_until_idle()
    assert env.clock.now() == begin + HOUR
    env.clock.set(begin + HOUR - HOUR // 6)
    env.engine.live.clear()
    do(run.unpause())
    env.wait_for_hook(run)
    assert begin + HOUR <= env.clock.now() <= begin + HOUR + 5_000_000


def test_pausing_and_unpausing_at_once(app, env, waits):
    run = env.start(waits)
    env.wait_for_hook(run)
    do(run.pause())
    do(run.unpause())
    resume_hook_sync("t", "x")
    assert run.wait() == "x"


def test_pausing_twice(app, env, waits):
    run = env.start(waits)
    env.wait_for_hook(run)
    do(run.pause())
    env.run_until_idle()
    since = env.connection.get(run.run_id).paused_at
    env.clock.advance(HOUR)
    do(run.pause())
    env.run_until_idle()
    assert env.connection.get(run.run_id).paused_at == since
    do(run.unpause())
    do(run.unpause())
    env.run_until_idle()
    assert do(run.status()) == "running"
    assert len(events(env, run, PauseRequested)) == len(events(env, run, UnpauseRequested)) == 2


@pytest.mark.parametrize("how", ["cancel", "terminate"])
def test_a_paused_run_is_ended(env, waits, how):
    run = env.start(waits)
    env.wait_for_hook(run)
    do(run.pause())
    env.run_until_idle()
    do(run.cancel("enough") if how == "cancel" else run.terminate("enough"))
    with pytest.raises(WorkflowRunCancelledError, match="enough"):
        run.wait()
    assert len(commands(env, run, RunStep)) == (1 if how == "cancel" else 0)
    assert env.connection.get(run.run_id).paused_at is None


def test_attributes_are_set_while_it_is_paused(env, waits):
    run = env.start(waits)
    env.wait_for_hook(run)
    do(run.pause())
    do(run.set_attributes(a="b"))
    env.run_until_idle()
    do(run.set_attributes(c="d"))
    env.run_until_idle()
    assert do(run.attributes()) == {"a": "b", "c": "d"}
    assert do(run.status()) == "paused"


def test_a_paused_run_that_is_parked_too(app, env, step):
    """What was lost when it was parked is asked for again, although it is paused when it is resumed."""

    @app.workflow
    async def body() -> object:
        return await step("done")

    run = env.start(body)
    del app.steps["step"]
    env.run_until_idle()
    assert do(run.status()) == "parked"
    do(run.pause())
    app.steps["step"] = step
    env.connection.resume(run.run_id)
    env.run_until_idle()
    assert do(run.status()) == "paused"
    do(run.unpause())
    assert run.wait() == "done"


def test_a_pause_whose_record_was_not_written(env, waits):
    """Whoever made the turn died before the record said so: the next one who looks sees to it."""
    run = env.start(waits)
    env.wait_for_hook(run)
    mark = env.connection.backend.runs.mark
    env.connection.backend.runs.mark = lambda run_id, change: None
    do(run.pause())
    env.run_until_idle()
    env.connection.backend.runs.mark = mark
    env.engine.live.clear()
    assert do(run.status()) == "running"
    resume_hook_sync("t", "x")
    env.run_until_idle()
    assert do(run.status()) == "paused"
    do(run.unpause())
    assert run.wait() == "x"


# --- many --------------------------------------------------------------------------------------------


def test_cancelling_many(app, env, step, waits):
    @app.workflow(name="other")
    async def other() -> None:
        await sleep("1h")

    mine = [env.start(waits.with_options(attributes={"batch": f"{number % 2}"}), f"t{number}") for number in range(6)]
    others = [env.start(other) for _ in range(2)]
    for run in mine:
        env.wait_for_hook(run)
    assert set(do(cancel_runs(workflow="waits", attributes={"batch": "1"}, reason="odd"))) == {
        run.run_id for run in mine[1::2]
    }
    for run in mine[1::2]:
        with pytest.raises(WorkflowRunCancelledError, match="odd"):
            run.wait()
    assert do(cancel_runs(workflow="waits", attributes={"batch": "1"})) == []
    assert len(do(cancel_runs(workflow="waits", limit=2))) == 2
    assert {do(run.status()) for run in others} == {"running"}
    assert len(do(cancel_runs(status="running"))) == 5
    env.run_until_idle()
    assert {do(run.status()) for run in [*mine, *others]} == {"cancelled"}
    with pytest.raises(ConfigurationError, match=r"cancel_runs\(\) needs a condition"):
        do(cancel_runs())
    with pytest.raises(ConfigurationError, match="limit is 1 to 10,000, not 0"):
        do(cancel_runs(status="running", limit=0))
    with pytest.raises(ValueError, match="'asleep' is not a valid RunStatus"):
        do(cancel_runs(status="asleep"))
