"""Where control over runs meets something else: a start time, another attempt, another run's history."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from pydantic import BaseModel

from everstep import (
    ConfigurationError,
    DivergenceError,
    RetryableError,
    RunStatus,
    Workflows,
    continue_as_new,
    now,
    publish,
    random,
    set_attributes,
    sleep,
    start,
)
from everstep.core.history import RunStarted, WakeUpRequested
from everstep.core.ids import child_run_id
from everstep.testing import WorkflowEnvironment, replay


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
def test_a_run_that_was_paused_and_unpaused_before_its_time_starts_when_it_is_due(app, env, warm):
    @app.workflow
    async def body():
        return "ran"

    run = env.start(body.with_options(start_at="2 days"))
    due = env.connection.get(run.run_id).start_at
    for ask in (run.pause, run.unpause):
        asyncio.run(ask())
        env.step()
        if not warm:
            env.engine.live.clear()
    env.run_until_idle()
    assert asyncio.run(run.status()) is RunStatus.COMPLETED
    assert env.connection.get(run.run_id).started_at is not None
    assert env.history(run).turns[-1].at >= due


def test_what_is_asked_of_a_run_before_its_time_comes_before_what_it_does_then(app, env):
    """A wake-up is for the sleeps of the moment, and not for one that begins two days later."""

    @app.workflow
    async def body():
        await asyncio.sleep(3600)

    run = env.start(body.with_options(start_at="2 days"))
    asyncio.run(run.wake_up())
    env.run_until_idle()
    turns = env.history(run).turns
    assert [type(event) for event in turns[0].events] == [WakeUpRequested, RunStarted]
    assert turns[-1].at - turns[0].at == 3600 * 1_000_000


def test_the_history_of_a_run_from_a_step_on_replays(app, env):
    @app.step
    async def echo(value: float) -> float:
        return value

    @app.workflow
    async def body():
        return await echo(random().random()) + await echo(random().random())

    first = env.start(body)
    first.wait()
    again = asyncio.run(first.rerun(from_step=1))
    result = again.wait()
    assert result == first.wait()
    assert replay(app, env.history(again)) == result


def test_a_child_that_nobody_waits_for_and_that_is_started_otherwise_is_a_divergence():
    def app_that_starts(number: int) -> Workflows:
        app = Workflows()

        @app.workflow(name="child")
        async def child(number: int) -> None: ...

        @app.workflow(name="body")
        async def body() -> None:
            await start(child, number)

        return app

    before, after = app_that_starts(1), app_that_starts(2)
    with WorkflowEnvironment(before) as env:
        run = env.start(before.workflows["body"])
        run.wait()
        history = env.history(run)
    with pytest.raises(DivergenceError, match="asked for a child run of workflow 'child'"):
        replay(after, history)


@pytest.mark.parametrize("how", ["deadline", "cancel"])
def test_a_cancellable_step_that_waits_for_its_next_attempt_ends_at_once(app, env, how):
    tried = []

    @app.step(cancellable=True)
    async def busy():
        tried.append("once")
        raise RetryableError("come back", retry_after="1 day")

    @app.workflow
    async def body():
        began = now()
        try:
            async with asyncio.timeout(60 if how == "deadline" else None):
                await busy()
        except (TimeoutError, asyncio.CancelledError):
            return (now() - began).total_seconds()

    run = env.start(body)
    env.run_until_idle(lambda: bool(tried))
    if how == "cancel":
        asyncio.run(run.cancel())
    assert run.wait() == (60 if how == "deadline" else 0)
    env.run_until_idle()
    assert len(tried) == 1


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_run_that_continues_as_new_takes_along_the_attributes_of_its_last_turn(app, env, warm, steps):
    @app.step
    async def work() -> None: ...

    @app.workflow
    async def body(left: int):
        if left:
            set_attributes(first="1")
            for _ in range(steps):
                await work()
            set_attributes(last="2", given=None)
            continue_as_new(left - 1)

    run = env.start(body.with_options(attributes={"given": "0"}), 1)
    env.run_until_idle(lambda: not warm and (env.engine.live.clear() or False))
    successor = env.connection.get(run.run_id)
    assert successor.continued_from == run.run_id
    assert successor.attributes == {"first": "1", "last": "2"}


@dataclass
class Progress:
    done: int


class Stage(BaseModel):
    name: str


@pytest.mark.parametrize("value", [Progress(3), Stage(name="packing"), {"done": 3}, None], ids=str)
def test_dataclasses_and_models_are_published_as_they_are(app, env, value):
    @app.workflow
    async def body():
        publish("value", value)

    run = env.start(body)
    run.wait()
    assert asyncio.run(run.query("value", type=type(value))) == value


@pytest.mark.parametrize("turns", [1, 3])
def test_a_run_publishes_so_many_names_and_no_more(app, env, turns):
    @app.workflow
    async def body():
        for number in range(64):
            publish(f"value-{number}", number)
            if number % 30 < turns - 1:
                await asyncio.sleep(1)
        publish("value-0", "again")
        try:
            publish("one more", 1)
        except ConfigurationError:
            return "refused"

    run = env.start(body)
    assert run.wait() == "refused"
    assert len(asyncio.run(run.published())) == 64


@pytest.mark.parametrize("how", ["cancel", "terminate", "deadline"])
def test_a_child_that_continued_as_new_ends_with_its_parent(app, env, how):
    @app.workflow
    async def child(left: int) -> str:
        await sleep("1 day")
        if left:
            continue_as_new(left - 1)
        return "nobody stopped me"

    @app.workflow
    async def body() -> str:
        async with asyncio.timeout(1.5 * 86400 if how == "deadline" else None):
            return await child(2)

    run = env.start(body)

    def in_second_life() -> bool:
        first = env.connection.backend.inspector.get_run(child_run_id(run.run_id, 0))
        return first is not None and first.closed

    env.run_until_idle(in_second_life)
    if how != "deadline":
        asyncio.run(getattr(run, how)())
    env.run_until_idle()
    assert env.connection.get(child_run_id(run.run_id, 0)).status is RunStatus.CANCELLED
