"""Random schedules of everything that can go wrong, from seeds, on a store without transactions.

`everstep.testing.simulator.Simulation` runs a program of the corpus on three workers that share nothing but the
store. The schedule, drawn from the seed, interleaves them at every call of a port; delivers messages late, in any
order and twice (at the same time, or long after); kills workers at any call; makes their clocks differ by minutes and
jump. Each program must end as it does without faults, and its record must satisfy every oracle of the design's
section 8.

A failure prints the seed and the end of the schedule. To see it again:

    with Simulation(wf, seed=SEED) as simulation: ...

TEST_SCALE=20 multiplies the number of seeds by 20.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import pytest

from everstep.app import Workflow
from everstep.testing.simulator import Faults, Simulation
from tests.simulation.programs import PROGRAMS, ends_well, queue, sequence, wf

SCALE = int(os.environ.get("TEST_SCALE", "1"))
USUAL = Faults()
DEADLY = Faults(crash=0.06, crashes=8, duplicate=0.05, delay=0.01)
CROWDED = Faults(crash=0.003, duplicate=0.4, delay=0.1)


def simulate(programs: list[Workflow[Any, Any]], *, seed: int, faults: Faults, verify: bool = False) -> list[str]:
    """Run the programs together under one schedule; the schedule."""
    with Simulation(wf, seed=seed, faults=faults, verify=verify) as simulation:
        runs = [simulation.start(program) for program in programs]
        simulation.run()
        for program, run in zip(programs, runs, strict=True):
            simulation.check(run, ends=partial(ends_well, program.name, disturbed=simulation.disturbed))
        return simulation.log


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
@pytest.mark.parametrize(
    ("faults", "seeds"), [(USUAL, 30), (DEADLY, 25), (CROWDED, 15)], ids=["usual", "deadly", "crowded"]
)
def test_any_schedule(program: Workflow[Any, Any], faults: Faults, seeds: int) -> None:
    for seed in range(seeds * SCALE):
        simulate([program], seed=seed, faults=faults)


@pytest.mark.parametrize("faults", [USUAL, DEADLY], ids=["usual", "deadly"])
def test_all_programs_together(faults: Faults) -> None:
    for seed in range(10 * SCALE):
        simulate(PROGRAMS, seed=1_000 + seed, faults=faults)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_verified_at_every_turn(program: Workflow[Any, Any]) -> None:
    for seed in range(5 * SCALE):
        simulate([program], seed=2_000 + seed, faults=USUAL, verify=True)


def test_no_faults_no_repetition() -> None:
    """Only the order is random here; then no step body may run twice."""
    calm = Faults(crash=0, crashes=0, duplicate=0, delay=0.05, longest_delay=5_000_000, skew=0)
    for seed in range(20 * SCALE):
        simulate(PROGRAMS, seed=seed, faults=calm)


def test_a_seed_is_a_schedule() -> None:
    assert simulate([queue], seed=7, faults=USUAL) == simulate([queue], seed=7, faults=USUAL)
    assert simulate([queue], seed=7, faults=USUAL) != simulate([queue], seed=8, faults=USUAL)


def test_a_lost_message_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracles bite: when the store loses a message, the simulation says which seed and what is stuck."""
    with Simulation(wf, seed=3) as simulation:
        run = simulation.start(sequence)
        send = simulation.backend.queue.send
        lossy = type(
            "Lossy", (), {"send": lambda self, messages: send(messages[1:]), "discard": lambda self, ids: None}
        )
        object.__setattr__(simulation.backend, "queue", lossy())
        for worker in simulation._workers:
            worker.backend.queue._port = simulation.backend.queue  # type: ignore[attr-defined]
        simulation.run()
        with pytest.raises(AssertionError, match=r"seed 3: run .*\n  - it is running, not closed"):
            simulation.check(run)
