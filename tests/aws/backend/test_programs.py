"""Whole programs on AWS's backend: the same results as in memory, and the requests and write units they cost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from moto import mock_aws

from everstep import RetryableError, Workflows, get_step_metadata, sleep
from everstep.app import Workflow
from everstep.core.history import StepCompleted, StepFailed
from everstep.ports import Backend
from everstep.testing import WorkflowEnvironment
from everstep.testing.clock import VirtualClock
from everstep.testing.oracles import examine, outcome
from tests.aws.backend.provisioned import new_resources
from tests.aws.backend.wire import Wire, tapped
from tests.aws.servers.emulator import reset_ministack

wf = Workflows()


@wf.step
async def echo(value: int) -> int:
    return value


@wf.step
async def large(size: int) -> str:
    return "".join(f"{number:x}" for number in range(size))


@wf.step(at_most_once=True)
async def once(value: int) -> int:
    return value


@wf.step
async def third_time(value: int) -> int:
    if get_step_metadata().attempt < 3:
        raise RetryableError("not yet", retry_after=timedelta(minutes=30))
    return value


@wf.step
async def hopeless() -> None:
    raise ValueError("no")


@wf.workflow
async def sequence(count: int) -> int:
    total = 0
    for number in range(count):
        total += await echo(number)
    return total


@wf.workflow
async def fan_out(count: int) -> int:
    return sum(await asyncio.gather(*(echo(number) for number in range(count))))


@wf.workflow
async def naps(count: int) -> int:
    for number in range(count):
        await sleep(timedelta(days=number))
    return count


@wf.workflow
async def stubborn(value: int) -> int:
    return await third_time(value) + await once(value)


@wf.workflow
async def fails(_: int) -> None:
    await hopeless()


@wf.workflow
async def in_time(count: int) -> int:
    for number in range(count):
        async with asyncio.timeout(3600):
            await echo(number)
    return count


@wf.workflow
async def megabytes(count: int) -> int:
    texts = [await large(700_000) for _ in range(count)]
    shorter = [await large(len(text) // 1000) for text in texts]
    return sum(len(text) for text in shorter)


PROGRAMS: list[tuple[Workflow[Any, Any], int]] = [
    (sequence, 10),
    (fan_out, 50),
    (naps, 4),
    (stubborn, 7),
    (fails, 0),
    (in_time, 3),
    (megabytes, 2),
]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture(params=["moto", "ministack"])
def place(request: pytest.FixtureRequest, clock: VirtualClock) -> Iterator[tuple[Backend, Wire]]:
    if request.param == "moto":
        with mock_aws():
            yield tapped(new_resources(None), clock)
    else:
        endpoint = request.getfixturevalue("ministack")
        reset_ministack(endpoint)
        yield tapped(new_resources(endpoint), clock)


@pytest.mark.parametrize(("program", "count"), PROGRAMS, ids=[program.name for program, _ in PROGRAMS])
@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
def test_same_result_as_in_memory(
    place: tuple[Backend, Wire], clock: VirtualClock, program: Workflow[Any, Any], count: int, warm: bool
) -> None:
    with WorkflowEnvironment(wf) as here:
        run = here.start(program, count)
        here.run_until_idle()
        expected = outcome(here.connection.get(run.run_id))
        assert expected[0] == ("failed" if program is fails else "completed"), expected
    backend, _ = place
    with WorkflowEnvironment(wf, backend=backend, clock=clock) as env:
        run = env.start(program, count)
        env.run_until_idle(None if warm else lambda: env.engine.live.clear() or False)  # type: ignore[func-returns-value]
        assert outcome(env.connection.get(run.run_id)) == expected
        bodies: Counter[tuple[str, int, int]] = Counter(
            (run.run_id, event.op, event.attempt)
            for turn in backend.inspector.history(run.run_id)
            for event in turn.events
            if isinstance(event, (StepCompleted, StepFailed))
        )
        assert examine(wf, backend, run.run_id, bodies, disturbed=False) == []


def _requests(place: tuple[Backend, Wire], clock: VirtualClock, program: Workflow[Any, Any], count: int) -> Wire:
    backend, wire = place
    with WorkflowEnvironment(wf, backend=backend, clock=clock, verify=False) as env:
        wire.clear()
        env.start(program, count)
        env.run_until_idle()
    return wire


@pytest.mark.parametrize("count", [1, 10])
def test_requests_of_steps_in_sequence(place: tuple[Backend, Wire], clock: VirtualClock, count: int) -> None:
    """Each step: one write, one message, no read. The run: created and entered in the list, turn 0, closed."""
    wire = _requests(place, clock, sequence, count)
    assert wire.requests == {
        "PutItem": 1 + 1 + count,  # the record, turn 0, a turn for each step
        "UpdateItem": 1,  # closed
        "Query": 1,  # the first worker knows nothing of the run
        "SendMessageBatch": 1 + count,
    }
    closing = 1  # the record has less than 1 KB, and its closing is in no index
    assert wire.put_units() + closing == count + 4


def test_requests_of_steps_at_once(place: tuple[Backend, Wire], clock: VirtualClock) -> None:
    """About three writes a step: deposited, flag asked for, removed."""
    count = 50
    wire = _requests(place, clock, fan_out, count)
    removed = sum(
        len(requests)
        for name, given in wire.parameters
        if name == "BatchWriteItem"
        for requests in given["RequestItems"].values()
    )
    writes = wire.put_units() + removed + wire.requests["DeleteItem"] + wire.requests["UpdateItem"]
    assert writes <= 3 * count + 10  # created 2, turn 0 of 4 KB 4, the turn of all outcomes 1, flag lowered 1, closed 1
    assert wire.requests["SendMessageBatch"] <= 1 + count // 10 + 10
    assert wire.requests["Query"] == 2


def test_a_timeout_that_is_not_needed_asks_the_scheduler_once(place: tuple[Backend, Wire], clock: VirtualClock) -> None:
    wire = _requests(place, clock, in_time, 3)
    assert wire.requests["CreateSchedule"] == wire.requests["DeleteSchedule"] == 3
