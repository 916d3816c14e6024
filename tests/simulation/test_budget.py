"""What a run costs in calls of the store, when nothing goes wrong: the budget of the design's section 5.

Without transactions each writing call is a billed write, a refused one too, and each `runs.load` a query. A
sequential step must cost one message, one write and, with a warm instance, no read; a fan-out of n about n deposits
and a handful of turns, and no write may grow with the square of anything.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from everstep import Workflows, sleep
from everstep.app import Workflow
from everstep.backends.memory import open_memory
from everstep.testing import WorkflowEnvironment
from everstep.testing.watching import Moment, watched

wf = Workflows()

FIXED = 4
"""Writes of a run besides its steps': created, first turn, started, closed."""


@wf.step
async def echo(value: int) -> int:
    return value


@wf.workflow
async def steps_in_sequence(count: int) -> int:
    for number in range(count):
        await echo(number)
    return count


@wf.workflow
async def steps_at_once(count: int) -> int:
    return sum(await asyncio.gather(*(echo(number) for number in range(count))))


@wf.workflow
async def sleeps(count: int) -> int:
    for _ in range(count):
        await sleep("1h")
    return count


def calls_of(program: Workflow[Any, Any], count: int, *, warm: bool = True) -> Counter[str]:
    """How often each call was made."""
    calls: Counter[str] = Counter()

    def hook(moment: Moment, call: str, _args: tuple[Any, ...], _value: Any) -> None:
        if moment == "before":
            calls[call] += 1

    with WorkflowEnvironment(wf, verify=False, backend=watched(open_memory(atomic_units=False), hook)) as env:
        run = env.start(program, count)
        env.run_until_idle(None if warm else lambda: env.engine.live.clear() or False)  # type: ignore[func-returns-value]
        assert run.wait() is not None
    return calls


def writes(calls: Counter[str]) -> int:
    return (
        sum(times for call, times in calls.items() if call.partition(".")[0] in ("runs", "inbox", "steps"))
        - calls["runs.load"]
    )


@pytest.mark.parametrize("count", [1, 10, 50])
def test_a_sequential_step_is_one_message_and_one_write(count: int) -> None:
    calls = calls_of(steps_in_sequence, count)
    assert writes(calls) == count + FIXED
    assert calls["queue.send"] == count + 1
    assert calls["source.acknowledge"] == count + 1
    assert calls["runs.load"] == 1, "a warm instance needs no read"


def test_a_cold_step_costs_one_read() -> None:
    calls = calls_of(steps_in_sequence, 10, warm=False)
    assert writes(calls) == 10 + FIXED
    assert calls["runs.load"] == 11


def test_a_timer_is_one_message_and_one_write() -> None:
    calls = calls_of(sleeps, 10)
    assert writes(calls) == 10 + FIXED
    assert calls["source.acknowledge"] == 11
    assert calls["runs.load"] <= 11


@pytest.mark.parametrize("count", [10, 100])
def test_a_fan_out_grows_with_its_width(count: int) -> None:
    calls = calls_of(steps_at_once, count)
    assert calls["inbox.deposit"] == count
    assert writes(calls) <= 6 * count + FIXED
    assert calls["source.acknowledge"] <= 2 * count + 1
