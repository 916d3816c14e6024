"""Several `Worker`s on one SQLite file, in one event loop with virtual time: they race, and nobody dies.

Each worker runs one step at a time, so the steps of a fan-out are spread over all of them, and each keeps a live
instance of the run that the others leave behind: turns are lost to others and made again, outcomes arrive at an
instance that does not know their operation yet. Nothing goes wrong here, so no step body may run twice.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import pytest

from everstep.app import Workflow
from everstep.assembly import use_connection
from everstep.backends.sqlite import open_sqlite
from everstep.client import start_sync
from everstep.runtime.connection import Connection
from everstep.runtime.worker import Worker
from everstep.testing.clock import VirtualClock
from everstep.testing.oracles import CountedSteps, chain_of, examine, outcome
from tests.simulation.crashing import resting
from tests.simulation.programs import PROGRAMS, ends_well, wf

SCALE = int(os.environ.get("TEST_SCALE", "1"))
WORKERS = 3


async def serve(workers: list[Worker], clock: VirtualClock, chance: random.Random) -> None:
    """Let them serve until nothing is left; time skips to what is due whenever all rest."""
    source = workers[0].engine.backend.source
    serving = [asyncio.ensure_future(worker.serve()) for worker in workers]
    while not any(each.done() for each in serving):
        if chance.random() < 0.2:
            chance.choice(workers).wake()  # looks for messages at a random moment, not only when the clock ticks
        for _ in range(4):
            await asyncio.sleep(0)
        if not all(resting(worker) for worker in workers):
            continue
        due = source.next_due()
        if due is None:
            break
        clock.set(max(due, clock.now()))
        chance.choice(workers).wake()
    for worker in workers:
        worker.stop()
    await asyncio.gather(*serving)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_workers_together(program: Workflow[Any, Any], tmp_path: Path) -> None:
    clock = VirtualClock()
    for seed in range(2 * SCALE):
        chance = random.Random(seed)
        registry = CountedSteps(wf)
        connections = [
            Connection(open_sqlite(tmp_path / "runs.db"), clock, entropy=os.urandom, chance=chance.random)
            for _ in range(WORKERS)
        ]
        with use_connection(connections[0]):
            run = start_sync(program)
            workers = [Worker(connection.engine(registry), concurrency=1) for connection in connections]
            asyncio.run(serve(workers, clock, chance))
        backend = connections[0].backend
        wrong = examine(wf, backend, run.run_id, registry.bodies, disturbed=False)
        ended = outcome(chain_of(backend, run.run_id)[-1].run)
        if not ends_well(program.name, ended, disturbed=False):
            wrong.append(f"this is not how it should have ended: {ended}")
        for connection in connections:
            connection.close()
        assert not wrong, f"seed {seed}: {'; '.join(wrong)}"
