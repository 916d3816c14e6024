"""A run is parked by broken code and goes on with fixed code, with a crash at every call on the way.

The broken app lacks a step, or its body asks for something else than the history holds. It works on the run until
nothing is left to do: the run must then be parked, with all outcomes that arrived kept. Then the fixed app comes and
the run is resumed; it must end as if nothing had been. The process dies once, at each call of either half (with
transactions at every third; TEST_SCALE=10: at each).
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path

import pytest

from everstep import Workflows
from everstep.assembly import use_connection
from everstep.client import start_sync
from everstep.core.run import RunStatus
from everstep.testing.oracles import chain_of, examine, outcome
from everstep.testing.watching import Crash, Moment, watched
from tests.simulation.crashing import OpenStore, Store, Trial

SCALE = int(os.environ.get("TEST_SCALE", "1"))


def build_app(*, lacks: str | None = None, asks_otherwise: bool = False) -> Workflows:
    """Two steps at once, then a third; in broken variants."""
    app = Workflows()

    @app.step(name="double")
    async def double(value: int) -> int:
        return 2 * value

    @app.step(name="total")
    async def total(values: list[int]) -> int:
        return sum(values)

    @app.workflow(name="calculate")
    async def calculate() -> int:
        first, second = await asyncio.gather(double(1), double(2))
        if asks_otherwise:
            return await total([first, second, 100])
        return await total([first, second])

    if lacks is not None:
        del app.steps[lacks]
    return app


GOOD = build_app()


def broken_then_fixed(store: Store, broken: Workflows, die_at: tuple[Moment, int] | None) -> tuple[int, list[str]]:
    """One run through both halves; how many calls it took, and what is wrong."""
    trial = Trial(store, die_at, app=broken)
    with use_connection(trial.connect(store.backend)):
        run = start_sync(GOOD.workflows["calculate"])
    trial.work_off()
    status = store.backend.inspector.get_run(run.run_id)
    assert status is not None
    wrong = [] if status.shown_status is RunStatus.PARKED else [f"with broken code it is {status.shown_status}"]

    trial.deploy(GOOD)
    for _ in range(2):  # who asked and got no answer asks again
        try:
            trial.connect(watched(store.backend, trial.process.hook)).resume(run.run_id)
        except Crash:
            store.lose("asker")
            trial.process.dead = False
        else:
            break
    trial.work_off()
    wrong += examine(GOOD, store.backend, run.run_id, trial.registry.bodies, disturbed=True)
    if outcome(chain_of(store.backend, run.run_id)[-1].run) != ("completed", 6):
        wrong.append(f"it ended as {outcome(chain_of(store.backend, run.run_id)[-1].run)}")
    return trial.process.calls, wrong


@pytest.mark.parametrize("kind", ["memory", "atomic", "sqlite", "worker"])
@pytest.mark.parametrize("lacks", ["double", "total"])
def test_a_missing_step(kind: str, lacks: str, tmp_path: Path, open_store: OpenStore) -> None:
    broken = build_app(lacks=lacks)
    store = open_store(kind, tmp_path)
    calls, wrong = broken_then_fixed(store, broken, None)
    assert not wrong, f"without any crash: {wrong}"
    for call in range(1, calls + 1, 1 if kind == "memory" or SCALE >= 10 else 3):
        _, wrong = broken_then_fixed(store, broken, ("before", call))
        assert not wrong, f"death before call {call}: {wrong}"


def has_turns(store: Store, run_id: str, count: int) -> bool:
    return len(store.backend.inspector.history(run_id)) >= count


@pytest.mark.parametrize("kind", ["memory", "atomic"])
def test_other_code(kind: str, tmp_path: Path, open_store: OpenStore) -> None:
    """The good code makes the first turns, the broken code cannot replay them, the good code goes on."""
    broken = build_app(asks_otherwise=True)
    calls = 100
    call = 0
    while call <= calls:
        store = open_store(kind, tmp_path)
        trial = Trial(store, ("before", call) if call else None, app=GOOD)
        with use_connection(trial.connect(store.backend)):
            run = start_sync(GOOD.workflows["calculate"])
        trial.work_off(stop=partial(has_turns, store, run.run_id, 3))
        trial.deploy(broken)
        trial.work_off()
        parked = store.backend.inspector.get_run(run.run_id)
        assert parked is not None
        assert parked.problem is not None, f"death before call {call}: broken code went on"
        assert parked.problem.code == "divergence"
        trial.deploy(GOOD)
        trial.connect(store.backend).resume(run.run_id)
        trial.work_off()
        wrong = examine(GOOD, store.backend, run.run_id, trial.registry.bodies, disturbed=True)
        assert not wrong, f"death before call {call}: {wrong}"
        assert outcome(chain_of(store.backend, run.run_id)[-1].run) == ("completed", 6)
        calls = calls if call else trial.process.calls
        call += 1
