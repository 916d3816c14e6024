"""Suite 3: child contexts, as functions of the body and as runs of their own.

As a function a child context leaves no event: its steps are the run's. As a run it has a history of its own, and the
parent's has its beginning and its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from everstep import RetryPolicy, Workflow, register_serializable, sleep
from everstep.testing.watching import Crash
from tests.behaviour.places import EVERYWHERE, Account

QUICK = RetryPolicy(first_delay="10ms", jitter="none")
LARGE = 500_000


class BrokenError(Exception):
    """A step's failure."""


@dataclass
class Called:
    """How often the steps and the child contexts of a test began."""

    steps: int = 0
    contexts: int = 0


@pytest.fixture
def called() -> Called:
    return Called()


@pytest.fixture
def echo(app, called):
    @app.step
    async def echo(value):
        called.steps += 1
        return value

    return echo


@pytest.fixture
def broken(app):
    @app.step(max_retries=0)
    async def broken(value):
        raise BrokenError(value)

    return broken


def nested(context: Callable[..., Any]) -> bool:
    """Whether the context is a function of the body."""
    return not isinstance(context, Workflow)


def expect(
    account: Account,
    context: Callable[..., Any],
    *,
    function: tuple[list[str], int],
    run: tuple[list[str], int],
) -> None:
    """The history and the number of messages, for either kind of context."""
    turns, messages = function if nested(context) else run
    account.expect(*turns, messages=messages)


@EVERYWHERE
def test_3_1_a_context_with_one_step(app, place, context, echo):
    @context
    async def child(value):
        return await echo(value)

    @app.workflow
    async def body(value):
        return await child(value)

    account = place.run(body, "x")
    assert account.result == "x"
    expect(
        account,
        child,
        function=(["started | echo+", "echo. | return"], 2),
        run=(["started | child+", "child. | return"], 4),
    )


def test_3_2_a_context_with_a_name(app, place, echo):
    @app.workflow(name="shipping of the order")
    async def child(value):
        return await echo(value)

    @app.workflow
    async def body(value):
        return await child(value)

    account = place.run(body, "x")
    assert account.result == "x"
    account.expect("started | shipping of the order+", "shipping of the order. | return", messages=4)
    assert account.child(0).record.workflow == "shipping of the order"


def test_3_3_a_context_with_steps_in_sequence(app, place, context, echo):
    @context
    async def child(value):
        first = await echo(value)
        return await echo(first + "!")

    @app.workflow
    async def body(value):
        return await child(value)

    account = place.run(body, "x")
    assert account.result == "x!"
    steps = ["started | echo+", "echo. | echo+", "echo. | return"]
    expect(account, child, function=(steps, 3), run=(["started | child+", "child. | return"], 5))
    if not nested(child):
        assert account.child(0).turns == steps


@EVERYWHERE
def test_3_4_an_error_in_a_context_fails_the_run(app, place, context, broken):
    @context
    async def child(value):
        return await broken(value)

    @app.workflow
    async def body(value):
        return await child(value)

    account = place.run(body, "no")
    with pytest.raises(BrokenError, match="no"):
        account.result
    expect(
        account,
        child,
        function=(["started | broken+", "broken! | raise"], 2),
        run=(["started | child+", "child! | raise"], 4),
    )


@EVERYWHERE
def test_3_5_an_error_in_a_context_can_be_caught(app, place, context, echo, broken):
    @context
    async def child(value):
        return await broken(value)

    @app.workflow
    async def body(value):
        try:
            return await child(value)
        except BrokenError as error:
            return await echo(f"instead of {error}")

    account = place.run(body, "this")
    assert account.result == "instead of this"
    expect(
        account,
        child,
        function=(["started | broken+", "broken! | echo+", "echo. | return"], 3),
        run=(["started | child+", "child! | echo+", "echo. | return"], 5),
    )


@EVERYWHERE
def test_3_6_a_context_in_a_context(app, place, context, echo):
    @context
    async def inner(value):
        return await echo(value + "2")

    @context
    async def outer(value):
        return await inner(await echo(value + "1"))

    @app.workflow
    async def body(value):
        return await outer(value)

    account = place.run(body, "x")
    assert account.result == "x12"
    expect(
        account,
        outer,
        function=(["started | echo+", "echo. | echo+", "echo. | return"], 3),
        run=(["started | outer+", "outer. | return"], 7),
    )
    if not nested(outer):
        grandchild = account.child(0).child(0)
        assert grandchild.record.attributes == {
            "$parentRunId": account.child(0).handle.run_id,
            "$rootRunId": account.handle.run_id,
        }
        assert grandchild.record.root_id == account.handle.run_id


def test_3_7_a_step_in_a_context_is_retried(app, place, context):
    tried = []

    @app.step(retry=QUICK)
    async def flaky(value):
        tried.append(value)
        if len(tried) == 1:
            raise BrokenError
        return value

    @context
    async def child(value):
        return await flaky(value)

    @app.workflow
    async def body(value):
        return await child(value)

    account = place.run(body, "x")
    assert account.result == "x"
    assert tried == ["x", "x"]
    expect(
        account,
        child,
        function=(["started | flaky+", "flaky. | return"], 3),  # a failed attempt is a message, and no turn
        run=(["started | child+", "child. | return"], 5),
    )


def test_3_8_a_step_in_a_context_uses_up_its_retries(app, place, context):
    tried = []

    @app.step(name="hopeless", max_retries=1, retry=QUICK)
    async def hopeless(value):
        tried.append(value)
        raise BrokenError(value)

    @context
    async def child(value):
        return await hopeless(value)

    @app.workflow
    async def body(value):
        return await child(value)

    account = place.run(body, "x")
    with pytest.raises(BrokenError) as raised:
        account.result
    assert raised.value.__notes__ == ["step 'hopeless' was tried 2 times"]
    assert tried == ["x", "x"]
    expect(
        account,
        child,
        function=(["started | hopeless+", "hopeless! | raise"], 3),
        run=(["started | child+", "child! | raise"], 5),
    )


@EVERYWHERE
def test_3_9_a_replay_has_the_result_of_a_context(app, place, context, echo, called):
    @context
    async def child(value):
        return await echo(value)

    @app.workflow
    async def body(value):
        result = await child(value)
        await sleep("10ms")
        return result

    account = place.run(body, "x")
    assert account.result == "x"
    assert called.steps == 1
    expect(
        account,
        child,
        function=(["started | echo+", "echo. | timer+", "timer. | return"], 3),
        run=(["started | child+", "child. | timer+", "timer. | return"], 5),
    )


@EVERYWHERE
def test_3_10_a_context_with_a_step_and_a_wait(app, place, context, echo, called):
    @context
    async def child(value):
        result = await echo(value)
        await sleep("10ms")
        return result

    @app.workflow
    async def body(value):
        return await child(value)

    account = place.run(body, "x")
    assert account.result == "x"
    assert called.steps == 1
    steps = ["started | echo+", "echo. | timer+", "timer. | return"]
    expect(account, child, function=(steps, 3), run=(["started | child+", "child. | return"], 5))
    if not nested(child):
        assert account.child(0).turns == steps


@EVERYWHERE
def test_3_11_a_large_result_of_a_context_survives_a_replay(app, place, context, called):
    @app.step
    async def large(size: int) -> str:
        called.steps += 1
        return "".join(f"{number:x}," for number in range(size))[:size]  # more than a kilobyte when compressed

    @context
    async def child(size: int) -> str:
        return await large(size)

    @app.workflow
    async def body(size: int) -> int:
        text = await child(size)
        await sleep("10ms")
        return len(text)

    account = place.run(body, LARGE)
    assert account.result == LARGE
    assert called.steps == 1


def test_3_12_a_context_is_interrupted_in_a_step(app, place, context):
    lives = []

    @app.step
    async def deadly(value):
        lives.append(value)
        if len(lives) == 1:
            raise Crash
        return value

    @context
    async def child(value):
        return await deadly(value)

    @app.workflow
    async def body(value):
        return await child(value)

    run = place.env.start(body, "x")
    with pytest.raises(Crash):
        place.work()
    source = place.env.engine.backend.source
    source.kill("test-worker")
    source.recover(now=place.env.clock.now())
    place.work()
    account = Account(place.env.connection.backend, run, None)
    assert account.result == "x"
    assert lives == ["x", "x"]
    steps = ["started | deadly+", "deadly. | return"]
    assert (account if nested(child) else account.child(0)).turns == steps


def test_3_13_a_context_with_a_wait_then_a_step(app, place, context, echo, called):
    @context
    async def child(value):
        await sleep("1s")
        return value

    @app.workflow
    async def body(value):
        return await echo(await child(value))

    account = place.run(body, "x")
    assert account.result == "x"
    assert called.steps == 1
    expect(
        account,
        child,
        function=(["started | timer+", "timer. | echo+", "echo. | return"], 3),
        run=(["started | child+", "child. | echo+", "echo. | return"], 5),
    )


class Shouted:
    """A text that is stored in capitals."""

    def __init__(self, text: str) -> None:
        self.text = text


register_serializable(
    Shouted, class_id="behaviour.Shouted", serialize=lambda shouted: shouted.text.upper(), deserialize=Shouted
)


def test_3_14_a_context_with_a_serialization_of_its_own(app, place, context, echo):
    @context
    async def child(text):
        return await echo(Shouted(text))

    @app.workflow
    async def body(text):
        return (await child(text)).text

    assert place.run(body, "hello child").result == "HELLO CHILD"


def test_3_15_an_error_that_a_context_raises_itself(app, place, context):
    @context
    async def child():
        raise BrokenError("without a step")

    @app.workflow
    async def body():
        await child()

    account = place.run(body)
    with pytest.raises(BrokenError, match="without a step"):
        account.result
    expect(account, child, function=(["started | raise"], 1), run=(["started | child+", "child! | raise"], 3))


def test_3_16_a_context_that_returns_nothing(app, place, context):
    @context
    async def child():
        return None

    @app.workflow
    async def body():
        return await child()

    account = place.run(body)
    assert account.result is None
    expect(account, child, function=(["started | return"], 1), run=(["started | child+", "child. | return"], 3))


def test_3_17_what_a_step_of_a_context_logs_is_logged_once(app, place, context):
    logged = []

    @app.step
    async def log(line):
        logged.append(line)

    @context
    async def child(value):
        await log(f"at {value}")
        return value

    @app.workflow
    async def body(value):
        result = await child(value)
        await sleep("1s")
        return result

    account = place.run(body, "x")
    assert account.result == "x"
    assert logged == ["at x"]


@EVERYWHERE
def test_3_18_a_step_and_a_wait_inside_and_after(app, place, context, echo, called):
    @context
    async def child(value):
        result = await echo(value + "1")
        await sleep("10ms")
        return result

    @app.workflow
    async def body(value):
        result = await echo(await child(value) + "2")
        await sleep("10ms")
        return result

    account = place.run(body, "x")
    assert account.result == "x12"
    assert called.steps == 2
    expect(
        account,
        child,
        function=(
            ["started | echo+", "echo. | timer+", "timer. | echo+", "echo. | timer+", "timer. | return"],
            5,
        ),
        run=(["started | child+", "child. | echo+", "echo. | timer+", "timer. | return"], 7),
    )
