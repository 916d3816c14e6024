"""Many runs in large batches, with duplicates and redeliveries, handled by threads at once."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from everstep import Workflows, sleep
from everstep.core.run import RunStatus
from tests.aws.handlers.functions import FOREVER, WORKER

wf = Workflows()


@wf.workflow
async def fan_out(number: int) -> list[int]:
    squares = await asyncio.gather(*(square(number + each) for each in range(4)))
    await sleep(number)
    first, _ = await asyncio.gather(cube(number), asyncio.sleep(1))
    return [*squares, first]


@wf.step
async def square(number: int) -> int:
    await asyncio.sleep(0)
    return number * number


@wf.step
def cube(number: int) -> int:
    return number * number * number


@pytest.mark.parametrize("seed", range(6))
def test_results_are_those_of_one_at_a_time(deploy, seed):
    chance = random.Random(seed)
    deployed = deploy(wf)
    runs = [deployed.start(fan_out, number) for number in range(8)]
    source = deployed.backend.source
    for _ in range(500):
        deliveries = deployed.receive(chance.randint(1, 10))
        if not deliveries:
            break
        again = [replace(each, receives=each.receives + chance.randint(0, 1)) for each in deliveries]
        twice = deliveries + [each for each in again if chance.random() < 0.3]
        chance.shuffle(twice)
        assert deployed.invoke(twice) == []
        if chance.random() < 0.3:  # delivered once more, later and in a batch of its own
            assert deployed.invoke([replace(each, receives=2) for each in deliveries]) == []
        source.recover(now=deployed.clock.now())
        source.register(WORKER, until=FOREVER)
    for number, run in enumerate(runs):
        record = deployed.connection.get(run.run_id)
        assert record.status is RunStatus.COMPLETED, record.problem
        expected = [(number + each) ** 2 for each in range(4)] + [number**3]
        assert run_result(record) == expected
        consumed = [event for turn in deployed.history(run).turns for event in turn.events]
        assert len(consumed) == len({repr(event) for event in consumed})


def run_result(record):
    import json

    return json.loads(record.result)
