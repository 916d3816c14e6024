"""Pauses before the start, and histories that began as another run's."""

from __future__ import annotations

import asyncio

import pytest

from everstep import DivergenceError, RetryableError, RunStatus, Workflows, now, random, start
from everstep.core.history import RunStarted, WakeUpRequested
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
    assert [type(event) for event in turns[0].events] == [RunStarted, WakeUpRequested]
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
