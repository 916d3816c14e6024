"""Child runs: a workflow called in a body is a run of its own, whose outcome comes back, whatever it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from everstep import (
    ContextError,
    FatalError,
    Run,
    RunStatus,
    WorkflowRunCancelledError,
    WorkflowRunFailedError,
    WorkflowRunParkedError,
    as_completed,
    continue_as_new,
    create_hook,
    get_run,
    get_workflow_metadata,
    now,
    resume_hook_sync,
    sleep,
    start,
)
from everstep.core.history import CancelChild, ChildCancelled, RunStep, StartChild
from everstep.core.ids import child_run_id
from everstep.ports import RunQuery
from everstep.testing import replay
from tests.model.conftest import do


@dataclass
class Report:
    name: str
    pages: int


class OutOfPaperError(Exception):
    def __init__(self, name: str, left: int) -> None:
        super().__init__(name, left)
        self.left = left


@pytest.fixture
def env(app, environment):
    with environment(app) as env:
        yield env


@pytest.fixture
def step(app):
    @app.step(name="step")
    async def step(value: int) -> int:
        return value

    return step


@pytest.fixture
def double(app, step):
    @app.workflow(name="double")
    async def double(value: int) -> int:
        return 2 * await step(value)

    return double


@pytest.fixture
def waiter(app, step):
    """Waits for a hook; says so when it is cancelled, with a step."""

    @app.workflow(name="waiter")
    async def waiter(token: str) -> str:
        try:
            return await create_hook(token=token)
        except asyncio.CancelledError:
            await step(1)
            raise

    return waiter


def commands(env, run, kind):
    return [command for turn in env.history(run).turns for command in turn.commands if isinstance(command, kind)]


def runs(env, workflow):
    return env.connection.backend.inspector.list_runs(RunQuery(workflow=workflow.name)).runs


def child_of(run, number=0):
    return child_run_id(run.run_id, number)


# --- results -----------------------------------------------------------------------------------------


def test_a_workflow_called_in_a_body_is_a_run(app, env, step):
    @app.workflow(name="write")
    async def write(name: str, *, pages: int) -> Report:
        return Report(name, await step(pages))

    @app.workflow
    async def parent() -> list[Report]:
        return [await write("first", pages=3), await write("second", pages=4)]

    run = env.start(parent)
    assert run.wait() == [Report("first", 3), Report("second", 4)]
    assert replay(app, env.history(run)) == [Report("first", 3), Report("second", 4)]
    first = env.connection.get(child_of(run, 0))
    assert {each.run_id for each in runs(env, write)} == {first.run_id, child_of(run, 1)}
    assert first.attributes == {"$parentRunId": run.run_id, "$rootRunId": run.run_id}
    assert (first.root_id, first.parent.run_id, first.parent.op) == (run.run_id, run.run_id, 0)
    assert do(get_run(first.run_id, type=Report).return_value()) == Report("first", 3)


def test_children_at_once(app, env, double):
    @app.workflow
    async def parent() -> list[object]:
        gathered = await asyncio.gather(*(double(number) for number in range(5)))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(double(number)) for number in range(3)]
        completed = [await each for each in as_completed([double(7), double(8)])]
        return [gathered, [task.result() for task in tasks], sorted(completed)]

    assert env.run(parent) == [[0, 2, 4, 6, 8], [0, 2, 4], [14, 16]]
    assert len(runs(env, double)) == 10


def test_fibonacci(app, env):
    @app.workflow(name="fibonacci")
    async def fibonacci(number: int) -> int:
        if number < 2:
            return number
        return sum(await asyncio.gather(fibonacci(number - 1), fibonacci(number - 2)))

    run = env.start(fibonacci, 7)
    assert run.wait() == 13
    found = runs(env, fibonacci)
    assert len(found) == 41
    assert {each.root_id for each in found} == {run.run_id}


def test_a_deep_recursion(app, env):
    @app.workflow(name="down")
    async def down(levels: int) -> int:
        return 1 + await down(levels - 1) if levels else 0

    assert env.run(down, 60) == 60


def test_large_values(app, env):
    @app.workflow(name="echo")
    async def echo(text: str) -> str:
        return text

    @app.workflow
    async def parent() -> int:
        return len(await echo("x" * 2_000_000))

    assert env.run(parent) == 2_000_000


def test_a_child_that_goes_on_as_a_new_run(app, env, step):
    @app.workflow(name="loop")
    async def loop(number: int) -> int:
        if await step(number) < 3:
            continue_as_new(number + 1)
        return number

    @app.workflow
    async def parent() -> int:
        return await loop(0)

    assert env.run(parent) == 3
    assert len(runs(env, loop)) == 4


# --- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [ValueError("no"), FatalError("never"), OutOfPaperError("a4", 2), LookupError(("a", 1))]
)
def test_errors_cross_with_their_class(app, env, error):
    @app.workflow(name="fails")
    async def fails() -> None:
        raise error from OSError("why")

    @app.workflow
    async def parent() -> str:
        try:
            await fails()
        except Exception as caught:
            return f"{type(caught)} {caught.args} {type(caught.__cause__).__name__} {getattr(caught, 'left', None)}"
        return "none"

    assert env.run(parent) == f"{type(error)} {error.args} OSError {getattr(error, 'left', None)}"


def test_an_error_that_nobody_catches(app, env):
    @app.workflow(name="fails")
    async def fails() -> None:
        raise OutOfPaperError("a4", 2)

    @app.workflow(name="between")
    async def between() -> None:
        await fails()

    @app.workflow
    async def parent() -> None:
        await between()

    with pytest.raises(WorkflowRunFailedError) as caught:
        env.run(parent)
    assert isinstance(caught.value.error, OutOfPaperError)
    assert caught.value.error.left == 2
    assert runs(env, fails)[0].status is runs(env, between)[0].status is RunStatus.FAILED


def test_a_bad_call_is_an_error_in_the_body(app, env, double):
    @app.workflow
    async def parent() -> list[str]:
        seen = []
        for call in (lambda: double(), lambda: double("many"), lambda: start(double, object())):
            try:
                await call()
            except Exception as error:
                seen.append(type(error).__name__)
        return seen

    run = env.start(parent)
    assert run.wait() == ["TypeError", "TypeValidationError", "TypeValidationError"]
    assert not commands(env, run, StartChild)


def test_a_call_that_nobody_awaits(app, env, double):
    @app.workflow
    async def parent() -> None:
        double(1)

    with pytest.warns(RuntimeWarning, match="workflow 'double' was called but never awaited, so it did not run"):
        env.run(parent)
    assert not runs(env, double)


def test_a_child_cannot_have_an_idempotency_key(app, env, double):
    @app.workflow
    async def parent(how: str) -> None:
        keyed = double.with_options(idempotency_key="k")
        await (keyed(1) if how == "call" else start(keyed, 1))

    for how in ("call", "start"):
        with pytest.raises(WorkflowRunFailedError, match="it cannot have an idempotency key"):
            env.run(parent, how)


def test_a_workflow_is_not_called_outside_of_a_body(double):
    with pytest.raises(ContextError, match="workflow 'double' is not called but started"):
        double(1)


def test_a_child_that_is_parked_is_waited_for(app, env, step, double):
    @app.workflow
    async def parent() -> int:
        return await double(4)

    del app.steps["step"]
    run = env.start(parent)
    env.run_until_idle()
    assert do(run.status()) == "running"
    with pytest.raises(WorkflowRunParkedError):
        do(get_run(child_of(run)).return_value())
    app.steps["step"] = step
    env.connection.resume(child_of(run))
    assert run.wait() == 8


# --- runs that nobody waits for ----------------------------------------------------------------------


def test_a_run_that_is_started_and_not_awaited(app, env, waiter):
    @app.workflow
    async def parent() -> str:
        handle = await start(waiter, "t")
        assert isinstance(handle, Run)
        return handle.run_id

    run = env.start(parent)
    child_id = run.wait()
    assert child_id == child_of(run)
    env.run_until_idle()
    child = get_run(child_id)
    assert do(child.status()) == "running", "the end of the parent is nothing to it"
    assert do(child.attributes()) == {"$parentRunId": run.run_id, "$rootRunId": run.run_id}
    resume_hook_sync("t", "hello")
    assert child.wait() == "hello"
    env.run_until_idle()
    assert len(env.history(run).turns) == 1
    assert not env.connection.backend.runs.load(run.run_id).inbox


def test_the_handle_of_a_child_is_not_for_the_body(app, env, double):
    @app.workflow
    async def parent() -> None:
        handle = await start(double, 1)
        await handle.return_value()

    with pytest.raises(WorkflowRunFailedError, match=r"Run.return_value\(\) was called in a workflow body"):
        env.run(parent)


@pytest.mark.parametrize("awaited", [True, False])
def test_options_of_a_child(app, env, awaited):
    @app.workflow(name="child")
    async def child() -> float:
        return now().timestamp()

    @app.workflow
    async def parent() -> float:
        begin = now().timestamp()
        later = child.with_options(attributes={"customer": "ada"}, start_at="2h")
        if awaited:
            return await later() - begin
        await start(later)
        return begin

    run = env.start(parent)
    env.run_until_idle(lambda: bool(commands(env, run, StartChild)))
    assert do(get_run(child_of(run)).status()) == "pending", "it is seen before it begins"
    if awaited:
        assert run.wait() == 7200
    else:
        assert get_run(child_of(run)).wait() == run.wait() + 7200
    assert do(get_run(child_of(run)).attributes()) == {
        "customer": "ada",
        "$parentRunId": run.run_id,
        "$rootRunId": run.run_id,
    }


def test_children_follow_from_their_parent(app, environment, double):
    """Their ids are the same on every replay, also where one was called and withdrawn."""

    @app.workflow
    async def parent() -> list[str]:
        withdrawn = asyncio.create_task(double(0))
        await asyncio.sleep(0)
        withdrawn.cancel()
        first = await start(double, 1)
        await double(2)
        second = await start(double, 3)
        return [first.run_id, second.run_id, get_workflow_metadata().run_id]

    with environment(app) as env:
        run = env.start(parent)
        env.run_until_idle(lambda: env.engine.live.clear() or False)
        first, second, run_id = run.wait()
        assert len({first, second, run_id}) == 3
        assert do(get_run(second, type=int).return_value()) == 6
        assert replay(app, env.history(run)) == [first, second, run_id]


# --- cancelling --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancel", "terminate"])
def test_a_child_that_others_cancel(app, env, waiter, how):
    @app.workflow
    async def parent() -> list[str | None]:
        try:
            await waiter("t")
        except WorkflowRunCancelledError as error:
            return [error.run_id, error.reason]
        return []

    run = env.start(parent)
    child = _first_child(env, run)
    env.wait_for_hook(child)
    do(child.cancel("not today") if how == "cancel" else child.terminate("not today"))
    assert run.wait() == [child.run_id, "not today"]
    assert len([e for t in env.history(run).turns for e in t.events if isinstance(e, ChildCancelled)]) == 1


def _first_child(env, run):
    env.run_until_idle(lambda: env.connection.backend.inspector.get_run(child_of(run)) is not None)
    return get_run(child_of(run))


@pytest.mark.parametrize("moment", ["before it exists", "while it runs", "when it has ended"])
def test_cancelling_the_parent_cancels_its_children(app, env, waiter, moment):
    @app.workflow
    async def parent() -> str:
        return await waiter("t")

    run = env.start(parent)
    match moment:
        case "before it exists":
            env.run_until_idle(lambda: bool(commands(env, run, StartChild)))
        case "while it runs":
            env.wait_for_hook(_first_child(env, run))
        case "when it has ended":
            child = _first_child(env, run)
            env.wait_for_hook(child)
            resume_hook_sync("t", "done")
            env.run_until_idle(lambda: do(child.status()) == "completed")
    do(run.cancel("enough"))
    env.run_until_idle()
    child = get_run(child_of(run))
    if moment == "when it has ended":
        assert do(child.status()) == "completed"
        assert do(run.status()) in ("completed", "cancelled")
        return
    assert (do(run.status()), do(child.status())) == ("cancelled", "cancelled")
    assert len(commands(env, run, CancelChild)) == 1
    assert len(commands(env, child, RunStep)) == (1 if moment == "while it runs" else 0), "it may clean up"
    with pytest.raises(WorkflowRunCancelledError, match=f"run {run.run_id} waits for it no more"):
        child.wait()


def test_a_deadline_cancels_the_child(app, env, waiter):
    @app.workflow
    async def parent() -> str:
        try:
            return await asyncio.wait_for(waiter("t"), 3600)
        except TimeoutError:
            return "too late"

    run = env.start(parent)
    assert run.wait() == "too late"
    env.run_until_idle()
    assert do(get_run(child_of(run)).status()) == "cancelled"


def test_a_child_left_to_itself_when_the_parent_returns(app, env, waiter):
    """As asyncio.run does with tasks that are left: what is awaited by them is cancelled."""

    @app.workflow
    async def parent() -> str:
        task = asyncio.create_task(waiter("t"))
        await sleep(5)
        return f"{task.done()}"

    run = env.start(parent)
    assert run.wait() == "False"
    env.run_until_idle()
    assert do(get_run(child_of(run)).status()) == "cancelled"


def test_cancelling_goes_down_to_the_grandchildren_and_past_new_beginnings(app, env, waiter, step):
    @app.workflow(name="loop")
    async def loop(number: int) -> str:
        await step(number)
        if number < 2:
            continue_as_new(number + 1)
        return await waiter("t")

    @app.workflow
    async def parent() -> str:
        return await loop(0)

    run = env.start(parent)
    env.run_until_idle()
    grandchild = runs(env, waiter)[0]
    assert grandchild.status is RunStatus.RUNNING
    do(run.cancel())
    env.run_until_idle()
    assert runs(env, waiter)[0].status is RunStatus.CANCELLED
    assert sorted(each.status for each in runs(env, loop)) == ["cancelled", "continued", "continued"]
    assert do(run.status()) == "cancelled"


def test_a_run_that_was_started_is_not_cancelled_with_its_parent(app, env, waiter):
    @app.workflow
    async def parent() -> None:
        await start(waiter, "t")
        await sleep("1h")

    run = env.start(parent)
    env.wait_for_hook(_first_child(env, run))
    do(run.cancel())
    env.run_until_idle()
    assert do(run.status()) == "cancelled"
    assert do(get_run(child_of(run)).status()) == "running"


def test_terminating_the_parent_terminates_its_children(app, env, waiter):
    @app.workflow(name="between")
    async def between() -> str:
        return await waiter("t")

    @app.workflow
    async def parent() -> str:
        return await between()

    run = env.start(parent)
    env.run_until_idle()
    do(run.terminate("stop"))
    env.run_until_idle()
    assert do(run.status()) == "cancelled"
    assert runs(env, between)[0].status is runs(env, waiter)[0].status is RunStatus.CANCELLED
    assert not commands(env, runs(env, waiter)[0].run_id, RunStep), "it is not asked"
    assert env.connection.backend.hooks.find("t") is None


def test_a_child_that_begins_later_is_cancelled_at_once(app, env, double):
    @app.workflow
    async def parent() -> int:
        return await double.with_options(start_at="365 days")(1)

    run = env.start(parent)
    env.run_until_idle(lambda: bool(commands(env, run, StartChild)))
    begin = env.clock.now()
    do(run.cancel())
    env.run_until_idle(lambda: do(get_run(child_of(run)).status()) == "cancelled")
    assert env.clock.now() == begin
    env.run_until_idle()
    assert env.clock.now() == begin, "the message that was to start it is taken back"
