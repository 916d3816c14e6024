"""Sleeping, deadlines and the time a body sees: durable, exact, never early."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta

import pytest

from everstep import ContextError, WorkflowRunFailedError, now, random, sleep, time_ns, uuid4
from everstep.core.durations import LATEST
from everstep.core.history import CancelTimer, StartTimer, TimerFired
from everstep.testing import VirtualClock, replay

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def env(app, environment):
    return environment(app, clock=VirtualClock(round(START.timestamp() * 1e6)))


def commands(history, kind):
    return [command for turn in history.turns for command in turn.commands if isinstance(command, kind)]


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (1, timedelta(seconds=1)),
        (0.25, timedelta(milliseconds=250)),
        ("1h 30m", timedelta(hours=1, minutes=30)),
        ("1.5 days", timedelta(hours=36)),
        ("2weeks,3 days", timedelta(days=17)),
        ("1500ms", timedelta(seconds=1.5)),
        (timedelta(microseconds=1), timedelta(microseconds=1)),
        (timedelta(days=365), timedelta(days=365)),
        (START + timedelta(days=3), timedelta(days=3)),
        (START - timedelta(days=3), timedelta(0)),
        (0, timedelta(0)),
    ],
)
def test_the_forms_of_sleep(app, env, duration, expected):
    @app.workflow
    async def body() -> timedelta:
        before = now()
        await sleep(duration)
        return now() - before

    assert env.run(body) == expected


@pytest.mark.parametrize(
    ("duration", "error"),
    [
        (-1, "a duration cannot be negative: -1"),
        ("soon", "cannot read 'soon' as a duration: write numbers with units"),
        ("10", "cannot read '10' as a duration"),
        ("5 parsecs", "cannot read '5 parsecs'"),
        ("", "cannot read ''"),
        (float("nan"), "nan seconds is not a duration"),
        (float("inf"), "inf seconds is not a duration"),
        (datetime(2026, 1, 1), "has no time zone"),
        (None, "not NoneType: None"),
        (True, "not bool: True"),
    ],
)
def test_wrong_durations(app, env, duration, error):
    @app.workflow
    async def body():
        await sleep(duration)

    with pytest.raises(WorkflowRunFailedError) as caught:
        env.run(body)
    assert error in str(caught.value.__cause__)
    assert isinstance(caught.value.__cause__, (TypeError, ValueError))


def test_asyncio_sleep_is_durable_and_sleeping_for_nothing_is_no_operation(app, env):
    @app.workflow
    async def body() -> float:
        loop = asyncio.get_running_loop()
        before = loop.time()
        await asyncio.sleep(3600)
        await asyncio.sleep(0)
        await sleep(0)
        return loop.time() - before

    run = env.start(body)
    assert run.wait() == 3600
    assert len(commands(env.history(run), StartTimer)) == 1


def test_a_deadline_is_kept_over_steps(app, env):
    @app.step
    async def quick():
        return 1

    @app.workflow
    async def body():
        log = []
        async with asyncio.timeout(100):
            log.append(await quick())
        try:
            async with asyncio.timeout(50):
                await sleep(60)
        except TimeoutError:
            log.append(now())
        return log

    run = env.start(body)
    assert run.wait() == [1, START + timedelta(seconds=50)]
    history = env.history(run)
    assert [command.op for command in commands(history, CancelTimer)] == [0, 3]
    assert replay(app, history) == [1, START + timedelta(seconds=50)]


def test_a_timer_that_is_over_within_the_turn_is_never_sent(app, env):
    @app.workflow
    async def body():
        async with asyncio.timeout(10):
            await asyncio.sleep(0)
        return 1

    run = env.start(body)
    run.wait()
    assert [type(command).__name__ for command in commands(env.history(run), object)] == ["CompleteRun"]


def test_a_timeout_of_infinity_never_comes(app, env):
    @app.step
    async def quick():
        return 1

    @app.workflow
    async def body():
        async with asyncio.timeout(math.inf):
            async with asyncio.timeout(1e300):
                first = await quick()
        return first + await asyncio.wait_for(quick(), math.inf)

    run = env.start(body)
    assert run.wait() == 2
    assert {command.due for command in commands(env.history(run), StartTimer)} == {LATEST}


def test_timers_at_the_identical_instant(app, env):
    @app.workflow
    async def body():
        order = []

        async def one(number):
            await sleep(10)
            order.append(number)

        await asyncio.gather(*(one(number) for number in range(20)))
        return order

    run = env.start(body)
    assert run.wait() == list(range(20))
    assert len(env.history(run).turns) == 2  # all of them are due at once, so one turn fires them


def test_timers_fire_in_the_order_they_are_due_even_after_a_long_outage(app, env):
    @app.workflow
    async def body():
        order = []

        async def one(seconds):
            await sleep(seconds)
            order.append(seconds)

        await asyncio.gather(*(one(seconds) for seconds in (30, 10, 20)))
        return order

    run = env.start(body)
    env.step()
    env.clock.advance(3600 * 1_000_000)
    assert run.wait() == [10, 20, 30]
    assert len(env.history(run).turns) == 2


def test_timers_never_fire_early(app, env):
    @app.workflow
    async def body():
        for _ in range(5):
            await sleep(1.1)

    run = env.start(body)
    run.wait()
    due = {}
    for turn in env.history(run).turns:
        due.update({command.op: command.due for command in turn.commands if isinstance(command, StartTimer)})
        assert all(turn.at >= due[event.op] for event in turn.events if isinstance(event, TimerFired))


def test_time_and_chance_replay(app, env):
    @app.step
    async def quick():
        return 1

    @app.workflow
    async def body():
        seen = [now(), time_ns(), uuid4(), random().random(), random().choice("abc")]
        await quick()
        await sleep(5)
        return [*seen, now(), time_ns(), uuid4(), random().random()]

    run, other = env.start(body), env.start(body)
    result = run.wait()
    assert replay(app, env.history(run)) == result
    assert result[0] == START
    assert result[1] == round(START.timestamp()) * 10**9
    assert result[5] == START + timedelta(seconds=5)
    assert result[2] != result[7]
    assert result[2].version == 4
    assert other.wait()[2] != result[2]  # every run has its own chance


def test_the_time_a_body_sees_never_goes_back(app, env):
    @app.step
    async def quick():
        env.clock.set(env.clock.now() - 3_600_000_000)

    @app.workflow
    async def body():
        before = now()
        await quick()
        return now() >= before

    assert env.run(body) is True


def test_a_year_takes_no_time(app, env):
    @app.workflow
    async def body():
        for _ in range(365):
            await sleep("1 day")
        return now()

    assert env.run(body) == START + timedelta(days=365)


@pytest.mark.parametrize("call", [now, time_ns, random, uuid4])
def test_outside_a_workflow_there_is_no_such_thing(call):
    with pytest.raises(ContextError, match=rf"{call.__name__}\(\) belongs in a workflow body"):
        call()


def test_sleep_outside_a_workflow():
    with pytest.raises(ContextError, match="in a step or elsewhere use asyncio.sleep"):
        asyncio.run(sleep(1))


def test_what_ends_a_timeout_comes_with_the_timeout_itself(app, env):
    """Both are delivered in one turn; the first makes the body lose interest in the second."""

    @app.step
    async def quick():
        return "in time"

    @app.workflow
    async def body():
        try:
            async with asyncio.timeout(5):
                await asyncio.sleep(5)
        except TimeoutError:
            pass
        return await asyncio.wait_for(quick(), 10)

    run = env.start(body)
    while not any(turn.number == 1 for turn in env.history(run).turns):
        env.step()
    env.clock.advance(60_000_000)
    assert run.wait() == "in time"
    assert replay(app, env.history(run)) == "in time"
