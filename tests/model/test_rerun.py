"""Running again what ran before: from the beginning, or with what happened before a step kept."""

from __future__ import annotations

import asyncio

import pytest

from everstep import (
    ConfigurationError,
    WorkflowRunCancelledError,
    WorkflowRunFailedError,
    WorkflowRunParkedError,
    continue_as_new,
    create_hook,
    get_run,
    get_workflow_metadata,
    publish,
    random,
    resume_hook_sync,
    set_attributes,
    sleep,
    start,
    uuid4,
)
from everstep.core.history import RunStep, StartChild
from everstep.core.ids import child_run_id
from everstep.core.run import Origin
from everstep.testing import replay
from tests.model.conftest import do


@pytest.fixture
def env(app, environment):
    with environment(app) as env:
        yield env


@pytest.fixture
def ran():
    """What steps were run with, in order."""
    return []


@pytest.fixture
def work(app, ran):
    @app.step(name="work")
    async def work(value: object) -> object:
        ran.append(value)
        return value

    return work


@pytest.fixture
def last(app, ran):
    @app.step(name="last", max_retries=0)
    async def last(value: object) -> object:
        ran.append(("last", value))
        if len([each for each in ran if isinstance(each, tuple)]) == 1:
            raise ConnectionError("not this time")
        return value

    return last


def commands(env, run, kind):
    return [command for turn in env.history(run).turns for command in turn.commands if isinstance(command, kind)]


def test_from_the_beginning(app, env, work, ran):
    @app.workflow
    async def body(value: str) -> list[object]:
        return [await work(value), uuid4().hex]

    run = env.start(body.with_options(attributes={"customer": "ada"}), "x")
    first = run.wait()
    again = do(run.rerun())
    second = again.wait()
    assert again.run_id != run.run_id
    assert (first[0], second[0]) == ("x", "x")
    assert first[1] != second[1], "it is another run, with chance of its own"
    assert ran == ["x", "x"]
    assert do(again.attributes()) == {"customer": "ada", "$rerunOf": run.run_id}
    assert do(get_run(again.run_id).workflow_name()) == body.name


def test_from_the_beginning_while_it_runs(app, env, work):
    @app.workflow
    async def body() -> object:
        return await create_hook()

    run = env.start(body)
    env.wait_for_hook(run)
    again = do(run.rerun())
    for each in (run, again):
        resume_hook_sync(env.wait_for_hook(each), each.run_id)
    assert (run.wait(), again.wait()) == (run.run_id, again.run_id)


@pytest.mark.parametrize("step", ["last", 3])
def test_from_a_step(app, env, work, last, ran, step):
    @app.workflow
    async def body() -> list[object]:
        seen = [await work(random().random()) for _ in range(2)]
        await sleep("1h")
        return [*seen, await last(uuid4().hex), await work(random().random())]

    run = env.start(body)
    with pytest.raises(WorkflowRunFailedError, match="not this time"):
        run.wait()
    begin = env.clock.now()
    again = do(run.rerun(from_step=step))
    result = again.wait()
    assert env.clock.now() == begin, "what happened before is kept, and the sleep is over"
    assert ran[:3] == [*result[:2], ("last", result[2])]
    assert ran[3:] == [("last", result[2]), result[3]]
    record = env.connection.get(again.run_id)
    assert record.origin == Origin(run_id=run.run_id, turns=4)
    assert replay(app, env.history(again)) == result
    assert record.attributes == {"$rerunOf": run.run_id}


def test_from_a_step_again_and_again(app, env, work, ran):
    """The third run keeps turns of the second, which kept turns of the first: all have the first one's chance."""

    @app.workflow
    async def body() -> list[object]:
        return [await work((number, random().random())) for number in range(3)]

    run = env.start(body)
    first = run.wait()
    second = do(run.rerun(from_step=1))
    assert second.wait() == first
    third = do(second.rerun(from_step=2))
    assert third.wait() == first
    assert [number for number, _ in ran] == [0, 1, 2, 1, 2, 2]
    assert env.connection.get(third.run_id).origin == Origin(run_id=run.run_id, turns=3)


def test_from_a_step_of_a_group(app, env, work, ran):
    """What else was under way when the step was asked for runs again, too."""

    @app.workflow
    async def body() -> object:
        first = await work("before")
        return [first, await asyncio.gather(work("a"), work("b"), work("c"))]

    run = env.start(body)
    result = run.wait()
    ran.clear()
    assert do(run.rerun(from_step=2)).wait() == result
    assert sorted(ran) == ["a", "b", "c"]


def test_hooks_in_what_is_kept(app, env, work, last):
    """One that is open is open again, under its token; what came for it before is kept."""

    @app.workflow
    async def body() -> list[object]:
        chosen, default = create_hook(token="chosen"), create_hook()
        async with create_hook(token="over") as over:
            seen = [await over]
        seen.append(await chosen)
        seen.append(await last(default.token))
        return [*seen, await chosen, await default]

    run = env.start(body)
    env.wait_for_hook(run, token="over")
    resume_hook_sync("over", 1)
    resume_hook_sync("chosen", 2)
    with pytest.raises(WorkflowRunFailedError):
        run.wait()
    assert env.connection.backend.hooks.find("chosen") is None
    again = do(run.rerun(from_step="last"))
    info = env.wait_for_hook(again, token="chosen")
    assert info.run_id == again.run_id
    env.run_until_idle()
    resume_hook_sync("chosen", 3)
    [default] = [command.token for command in _opened(env, run) if command.token not in ("chosen", "over")]
    resume_hook_sync(default, 4)
    assert again.wait() == [1, 2, default, 3, 4]
    assert replay(app, env.history(again)) == [1, 2, default, 3, 4]


def _opened(env, run):
    return [command for turn in env.history(run).turns for command in turn.commands if hasattr(command, "metadata")]


def test_children_in_what_is_kept(app, env, work, last, ran):
    """One whose outcome is known does not run again; one that was waited for does; one that was started does not."""

    @app.workflow(name="child")
    async def child(value: str) -> object:
        return await work(value)

    @app.workflow
    async def body() -> list[object]:
        await start(child, "started")
        done = await child("done")
        waiting = asyncio.create_task(child("waiting"))
        await asyncio.sleep(0)
        return [done, await last("x"), await waiting]

    run = env.start(body)
    with pytest.raises(WorkflowRunFailedError):
        run.wait()
    env.run_until_idle()
    ran[:] = [("last", "x")]
    again = do(run.rerun(from_step="last"))
    assert again.wait() == ["done", "x", "waiting"]
    env.run_until_idle()
    assert sorted(ran[1:], key=str) == [("last", "x"), "waiting"]
    exists = [env.connection.find(child_run_id(again.run_id, number)) is not None for number in range(3)]
    assert exists == [False, False, True]
    assert len(commands(env, again, StartChild)) == 3


def test_what_is_kept_has_no_effect_again(app, env, work, last, ran):
    """Also not when all is asked for again, as after a run was parked."""
    broken = False

    @app.workflow(name="child")
    async def child() -> object:
        return await work("child")

    @app.workflow
    async def body() -> object:
        await start(child)
        publish("progress", 1)
        set_attributes(phase="one")
        await work("a")
        result = await last("x")
        set_attributes(phase="two")
        return await (work("other") if broken else create_hook(token="t")) and result

    run = env.start(body)
    with pytest.raises(WorkflowRunFailedError):
        run.wait()
    env.run_until_idle()
    again = do(run.rerun(from_step="last"))
    env.wait_for_hook(again)
    assert do(again.attributes()) == {"phase": "two", "$rerunOf": run.run_id}
    broken = True
    env.engine.live.clear()
    resume_hook_sync("t", "payload")
    with pytest.raises(WorkflowRunParkedError):
        env.run_until_idle()
        again.wait()
    broken = False
    env.connection.resume(again.run_id)
    assert again.wait() == "x"
    env.run_until_idle()
    assert ran.count("child") == 1


def test_attributes_of_what_is_kept(app, env, work, last):
    @app.workflow
    async def body() -> None:
        set_attributes(before="1", changed="1", gone=None)
        await last("x")
        set_attributes(changed="2")
        await work("y")

    run = env.start(body.with_options(attributes={"customer": "ada", "gone": "x"}))
    with pytest.raises(WorkflowRunFailedError):
        run.wait()
    again = do(run.rerun(from_step="last"))
    again.wait()
    assert do(again.attributes()) == {"customer": "ada", "before": "1", "changed": "2", "$rerunOf": run.run_id}


def test_a_body_that_uses_the_id_of_its_run_does_not_replay_as_another(app, env, work):
    @app.workflow
    async def body() -> object:
        await work(get_workflow_metadata().run_id)
        return await work("x")

    run = env.start(body)
    run.wait()
    again = do(run.rerun(from_step=1))
    with pytest.raises(WorkflowRunParkedError, match="where the history has step 'work'"):
        again.wait()


def test_what_was_cancelled_is_run_again(app, env, work):
    @app.workflow
    async def body() -> object:
        await work("a")
        return await create_hook(token="t")

    run = env.start(body)
    env.wait_for_hook(run)
    do(run.terminate())
    with pytest.raises(WorkflowRunCancelledError):
        run.wait()
    again = do(run.rerun(from_step="work"))
    env.wait_for_hook(again)
    resume_hook_sync("t", "x")
    assert again.wait() == "x"


def test_what_cannot_be_run_again_from_a_step(app, env, work):
    @app.workflow
    async def body() -> object:
        await work("a")
        return await create_hook(token="t")

    run = env.start(body)
    env.wait_for_hook(run)
    with pytest.raises(ConfigurationError, match="is running: only a run that has ended can be run again from a step"):
        do(run.rerun(from_step="work"))
    resume_hook_sync("t")
    run.wait()
    for step in ("play", 7):
        with pytest.raises(ConfigurationError, match=f"run {run.run_id} has no step {step!r}: 'everstep inspect"):
            do(run.rerun(from_step=step))


def test_the_newest_of_a_chain_is_run_again_from_a_step(app, env, work, ran):
    @app.workflow(name="loop")
    async def loop(number: int = 0) -> int:
        await work(number)
        if number < 2:
            continue_as_new(number + 1)
        return number

    run = env.start(loop)
    run.wait()
    assert do(run.rerun(from_step="work")).wait() == 2
    assert ran == [0, 1, 2, 2]
    assert do(run.rerun()).wait() == 2
    assert ran == [0, 1, 2, 2, 0, 1, 2]


def test_a_rerun_that_was_told_to_begin_twice(app, env, work, last, ran):
    """Its start message comes again when it is well under way: what it asked for itself takes effect, nothing else."""

    @app.workflow
    async def body() -> object:
        await work("a")
        return await last("x")

    run = env.start(body)
    with pytest.raises(WorkflowRunFailedError):
        run.wait()
    again = do(run.rerun(from_step="last"))
    source = env.connection.backend.source
    source.register("first", until=1 << 62)
    [delivery] = source.receive("first", limit=1, now=env.clock.now())
    assert delivery.message_id == f"start/{again.run_id}"
    source.kill("first")
    source.recover(now=env.clock.now())
    assert again.wait() == "x"
    assert ran.count(("last", "x")) == 2
    assert len(commands(env, again, RunStep)) == 2
