"""Attributes: plain text by which people find runs, set at the start, by the body, by steps and from outside."""

from __future__ import annotations

import pytest

from everstep import (
    AttributeValidationError,
    ContextError,
    WorkflowRunFailedError,
    continue_as_new,
    create_hook,
    get_run,
    get_step_metadata,
    remove_attributes,
    resume_hook_sync,
    set_attributes,
)
from everstep.core.history import AttributesRequested, SetAttributes
from everstep.ports import RunQuery
from everstep.testing import replay
from tests.model.conftest import do


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


def found(env, **attributes):
    return [run.run_id for run in env.connection.backend.inspector.list_runs(RunQuery(attributes=attributes)).runs]


def test_a_body_changes_them(app, env, step):
    @app.workflow
    async def body() -> str:
        set_attributes(phase="first", customer="ada")
        await step()
        set_attributes({"phase": "second", "näme with spaces": "ö"}, customer=None)
        set_attributes(phase="third")
        await create_hook(token="t")
        remove_attributes("phase", "start", "never there")
        return "done"

    run = env.start(body.with_options(attributes={"start": "x"}))
    env.run_until_idle(lambda: len(env.history(run).turns) == 1)
    assert do(run.attributes()) == {"start": "x", "phase": "first", "customer": "ada"}
    assert found(env, phase="first", customer="ada") == [run.run_id]
    env.wait_for_hook(run)
    assert do(run.attributes()) == {"start": "x", "phase": "third", "näme with spaces": "ö"}
    assert found(env, phase="third", start="x") == [run.run_id]
    assert found(env, phase="first") == found(env, customer="ada") == []
    resume_hook_sync("t")
    assert run.wait() == "done"
    assert do(run.attributes()) == {"näme with spaces": "ö"}
    assert found(env, start="x") == []
    assert replay(app, env.history(run)) == "done"
    assert len([c for turn in env.history(run).turns for c in turn.commands if isinstance(c, SetAttributes)]) == 4


def test_a_step_changes_them(app, env):
    @app.step(name="note")
    async def note() -> None:
        await get_run(get_step_metadata().run_id).set_attributes(noted="yes", phase=None)

    @app.workflow
    async def body() -> None:
        set_attributes(phase="one")
        await note()

    run = env.start(body)
    run.wait()
    env.run_until_idle()
    assert do(run.attributes()) in ({"noted": "yes"}, {"phase": "one"})


def test_somebody_outside_changes_them(app, env):
    @app.workflow
    async def body() -> None:
        await create_hook(token="t")
        set_attributes(own="2")

    run = env.start(body.with_options(attributes={"start": "x"}))
    env.wait_for_hook(run)
    do(run.set_attributes(seen="1", own="1"))
    do(run.set_attributes({"start": None}))
    env.run_until_idle()
    assert do(run.attributes()) == {"seen": "1", "own": "1"}
    assert found(env, seen="1") == [run.run_id]
    resume_hook_sync("t")
    run.wait()
    assert do(run.attributes()) == {"seen": "1", "own": "2"}
    assert len([e for t in env.history(run).turns for e in t.events if isinstance(e, AttributesRequested)]) == 2
    assert replay(app, env.history(run)) is None
    do(run.set_attributes(late="1"))
    assert do(run.attributes()) == {"seen": "1", "own": "2"}, "a run that has ended is left as it is"


def test_before_it_begins(app, env, step):
    @app.workflow
    async def body() -> None:
        set_attributes(own="2")

    run = env.start(body.with_options(start_at="1h"))
    do(run.set_attributes(own="1", outside="1"))
    run.wait()
    assert do(run.attributes()) == {"own": "2", "outside": "1"}


def test_they_go_on_with_the_run(app, env, step):
    @app.workflow(name="loop")
    async def loop(number: int = 0) -> None:
        await step()
        if number < 2:
            set_attributes({f"round {number}": "x", f"round {number - 1}": None})
            continue_as_new(number + 1)

    run = env.start(loop.with_options(attributes={"start": "x"}))
    env.run_until_idle(lambda: env.engine.live.clear() or False)
    run.wait()
    assert do(run.attributes()) == {"start": "x", "round 1": "x"}


@pytest.mark.parametrize("cold", [False, True])
def test_there_is_a_limit_of_all_together(app, env, step, cold):
    """The same on every replay, although the record has later attributes then."""

    @app.workflow
    async def body() -> list[object]:
        set_attributes({f"a{number}": "x" for number in range(32)})
        await step()
        try:
            set_attributes({f"b{number}": "x" for number in range(32)})
        except AttributeValidationError as error:
            seen: list[object] = [str(error)]
        set_attributes({f"b{number}": "x" for number in range(31)})
        await step()
        remove_attributes("start")
        set_attributes(b31="x")
        await step()
        set_attributes(b31="again")
        return seen

    run = env.start(body.with_options(attributes={"start": "x"}))
    env.run_until_idle((lambda: env.engine.live.clear() or False) if cold else None)
    assert run.wait() == ["a run has at most 64 attributes, and these would make 65"]
    assert len(do(run.attributes())) == 64
    assert replay(app, env.history(run)) == run.wait()


def test_a_limit_from_outside(app, env):
    @app.workflow
    async def body() -> None:
        await create_hook(token="t")

    run = env.start(body.with_options(attributes={f"a{number}": "x" for number in range(64)}))
    env.wait_for_hook(run)
    with pytest.raises(AttributeValidationError, match="at most 64 attributes, and these would make 65"):
        do(run.set_attributes(one_more="x"))
    do(run.set_attributes(a0=None, one_more="x"))
    env.run_until_idle()
    assert len(do(run.attributes())) == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"$ours": "x"}, r"'\$ours' begins with '\$', which is reserved"),
        ({"$ours": None}, r"'\$ours' begins with '\$', which is reserved"),
        ({"": "x"}, "0 characters; allowed are 1 to 256"),
        ({"k" * 257: None}, "257 characters"),
        ({"k": "ö" * 129}, "longer than 256 bytes"),
        ({"k": 3}, "key and value are text; got 3"),
        ({3: "x"}, "key and value are text"),
        ({str(number): "x" for number in range(65)}, "at most 64 attributes, not 65"),
    ],
)
def test_limits(app, env, changes, message):
    @app.workflow
    async def body() -> None:
        set_attributes(changes)

    with pytest.raises(WorkflowRunFailedError, match=message) as caught:
        env.run(body)
    assert isinstance(caught.value.error, AttributeValidationError)

    @app.workflow(name="waits")
    async def waits() -> None:
        await create_hook()

    run = env.start(waits)
    with pytest.raises(AttributeValidationError, match=message):
        do(run.set_attributes(changes))


def test_in_the_wrong_place():
    with pytest.raises(ContextError, match=r"set_attributes\(\) belongs in a workflow body"):
        set_attributes(a="b")
    with pytest.raises(ContextError, match=r"remove_attributes\(\) belongs in a workflow body"):
        remove_attributes("a")
