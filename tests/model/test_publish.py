"""Published values: anybody reads them by name at once, and the run is not woken for it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from everstep import (
    ConfigurationError,
    ContextError,
    SerializationError,
    TypeValidationError,
    WorkflowRunFailedError,
    WorkflowRunNotFoundError,
    continue_as_new,
    create_hook,
    get_run,
    publish,
    resume_hook_sync,
)
from everstep.core.history import PublishValue
from everstep.testing import replay
from tests.model.conftest import do


@dataclass
class Progress:
    done: int
    of: int


@pytest.fixture
def env(app, environment):
    with environment(app) as env:
        yield env


def published(env, run):
    return [c for turn in env.history(run).turns for c in turn.commands if isinstance(c, PublishValue)]


def test_the_last_value_is_read(app, env):
    @app.workflow
    async def body() -> str:
        for number in range(3):
            publish("progress", Progress(number, 3))
            publish("näme", [Progress(number, 0)], type=list[Progress])
            await create_hook(token=f"t{number}")
        return "done"

    run = env.start(body)
    for number in range(3):
        env.wait_for_hook(run, token=f"t{number}")
        turns = len(env.history(run).turns)
        assert do(run.query("progress", type=Progress)) == Progress(number, 3)
        assert do(run.query("näme")) == [{"done": number, "of": 0}]
        assert do(run.query("näme", type=list[Progress])) == [Progress(number, 0)]
        assert do(run.published()) == ["näme", "progress"]
        env.run_until_idle()
        assert len(env.history(run).turns) == turns
        resume_hook_sync(f"t{number}")
    assert run.wait() == "done"
    assert do(run.query("progress", type=Progress)) == Progress(2, 3)
    assert replay(app, env.history(run)) == "done"


def test_of_several_in_one_turn_the_last_counts(app, env):
    @app.workflow
    async def body() -> None:
        for number in range(5):
            publish("a", number)
            publish("b", -number)
        await create_hook(token="t")
        publish("a", "again")

    run = env.start(body)
    env.wait_for_hook(run)
    assert (do(run.query("a")), do(run.query("b"))) == (4, -4)
    assert [command.name for command in published(env, run)] == ["a", "b"]
    resume_hook_sync("t")
    run.wait()
    assert (do(run.query("a")), do(run.query("b"))) == ("again", -4)


def test_what_was_not_published(app, env):
    @app.workflow
    async def body(what: str) -> None:
        if what:
            publish(what, 1)
        await create_hook()

    run = env.start(body, "")
    with pytest.raises(LookupError, match="has published nothing as 'x'; it has published nothing at all"):
        do(run.query("x"))
    run = env.start(body, "y")
    env.wait_for_hook(run)
    with pytest.raises(LookupError, match="has published nothing as 'x'; it has published 'y'"):
        do(run.query("x"))
    with pytest.raises(TypeValidationError, match=f"the value 'y' of run {run.run_id}"):
        do(run.query("y", type=Progress))
    with pytest.raises(WorkflowRunNotFoundError):
        do(get_run("wrun_01ARZ3NDEKTSV4RRFFQ69G5FAV").query("x"))


def test_a_run_that_went_on_as_a_new_one(app, env):
    @app.workflow(name="loop")
    async def loop(number: int = 0) -> None:
        publish(f"round {number}", number)
        if number < 2:
            continue_as_new(number + 1)
        await create_hook(token="t")

    run = env.start(loop)
    env.wait_for_hook(run)
    assert do(run.published()) == ["round 2"], "of the newest"


def test_limits(app, env):
    @app.workflow
    async def body(what: str) -> None:
        match what:
            case "names":
                for number in range(65):
                    publish(f"name {number}", 1)
            case "large":
                publish("x", "x" * 70_000)
            case "unfit":
                publish("x", object())
            case _:
                publish(what, 1)

    for what, error, message in [
        ("names", ConfigurationError, "at most 64 names, and 'name 64' would be one more"),
        ("large", SerializationError, "the value published as 'x' is 70,002 bytes as JSON, more than 65,536"),
        ("unfit", SerializationError, "a published value"),
        ("", ConfigurationError, "has 1 to 128 printable characters; '' has not"),
        ("x" * 129, ConfigurationError, "has 1 to 128 printable characters"),
        ("two\nlines", ConfigurationError, "has 1 to 128 printable characters"),
    ]:
        with pytest.raises(WorkflowRunFailedError, match=message) as caught:
            env.run(body, what)
        assert isinstance(caught.value.error, error)


def test_in_the_wrong_place():
    with pytest.raises(ContextError, match=r"publish\(\) belongs in a workflow body"):
        publish("x", 1)
