"""Clients that send payloads and requests to runs while everything goes wrong, for them too.

A client dies like any other process, and then does the same again under the same id. What was acknowledged counts, and
counts once (oracles 3 and 7 of the design).
"""

from __future__ import annotations

import os
import random
from collections import Counter
from functools import partial
from typing import Any

import pytest

from everstep import HookConflictError, Workflows, create_hook, get_workflow_metadata, resume_hook_sync
from everstep.app import Workflow
from everstep.core.history import HookReceived
from everstep.testing.oracles import chain_of, outcome
from everstep.testing.simulator import Errand, Faults, Simulation
from tests.simulation.alone import add
from tests.simulation.programs import PROGRAMS, ends_well, wf

SCALE = int(os.environ.get("TEST_SCALE", "1"))
USUAL = Faults()
DEADLY = Faults(crash=0.06, crashes=8, duplicate=0.05, delay=0.01)
faults = pytest.mark.parametrize("faults", [USUAL, DEADLY], ids=["usual", "deadly"])

talk = Workflows()
talk.steps["add"] = add


@talk.workflow
async def collect(count: int) -> list[Any]:
    """Each payload is dealt with in a step before the next is taken."""
    seen: list[Any] = []
    async with create_hook(token=f"post of {get_workflow_metadata().run_id}") as hook:
        async for value in hook:
            seen.append(await add(value, 0))
            if len(seen) == count:
                return seen
    raise AssertionError


@talk.workflow
async def compete(token: str) -> list[Any]:
    """Take one payload under a token that others want too."""
    while True:
        async with create_hook(token=token) as hook:
            try:
                return [await hook, await add(1, 1)]
            except HookConflictError as error:
                holder = error.run_id
        async with create_hook(token=f"{token} after {get_workflow_metadata().run_id} {holder}") as again:
            await again


def consumed(simulation: Simulation, *run_ids: str) -> Counter[str]:
    """The payloads that runs took, by the ids of who sent them."""
    turns = [turn for run_id in run_ids for history in chain_of(simulation.backend, run_id) for turn in history.turns]
    events = [event for turn in turns for event in turn.events]
    return Counter(event.key.partition(".")[2] for event in events if isinstance(event, HookReceived))


@faults
def test_every_payload_that_was_acknowledged_is_taken_once(faults: Faults) -> None:
    for seed in range(40 * SCALE):
        with Simulation(talk, seed=seed, faults=faults) as simulation:
            run = simulation.start(collect, 6)
            token = f"post of {run.run_id}"
            errands: dict[str, Errand] = {}
            for number in range(6):
                send = partial(resume_hook_sync, token, number, resume_id=f"r{number}")
                errands[f"r{number}"] = simulation.ask(send)
                if number % 2:
                    simulation.ask(send)  # a client that was not patient
            simulation.run()
            simulation.check(run, ends=lambda ended: (ended[0], sorted(ended[1])) == ("completed", [*range(6)]))
            assert consumed(simulation, run.run_id) == Counter(errands.keys()), f"seed {seed}"


@faults
def test_two_runs_want_one_token(faults: Faults) -> None:
    """Whoever has it gets the payload, and the other one has it then. Who sends again may meet the other one."""
    for seed in range(20 * SCALE):
        with Simulation(talk, seed=seed, faults=faults) as simulation:
            runs = [simulation.start(compete, "the token") for _ in range(2)]
            first = simulation.ask(partial(resume_hook_sync, "the token", "first", resume_id="first"))
            for number in range(2):
                again = f"the token after {runs[number].run_id} {runs[1 - number].run_id}"
                simulation.ask(partial(resume_hook_sync, again, resume_id="again"), after=[first])
            second = simulation.ask(partial(resume_hook_sync, "the token", "second", resume_id="second"), after=[first])
            simulation.run()
            taken = consumed(simulation, *(run.run_id for run in runs))
            results = [outcome(simulation.ended(run)) for run in runs]
            said = f"seed {seed}: {taken} {results}"
            assert 1 <= taken["first"] <= first.tries, said
            assert taken["second"] <= second.tries, f"{said}: it may be dropped with the hook it was sent to"
            assert ("completed", ["first", 2]) in results, said


@faults
@pytest.mark.parametrize("ask", ["cancel", "terminate", "pause", "set_attributes"])
def test_what_is_asked_of_any_run(ask: str, faults: Faults) -> None:
    """At any moment of any program: the run ends as it must, with all that belongs to it."""
    for number, program in enumerate(PROGRAMS):
        for seed in range(2 * SCALE):
            with Simulation(wf, seed=100 * number + seed, faults=faults) as simulation:
                run, connection = simulation.start(program), simulation.connection
                changes = ({"asked": "yes"},) if ask == "set_attributes" else ()
                asked = simulation.ask(partial(getattr(connection, ask), run.run_id, *changes))
                if ask == "pause":
                    simulation.ask(partial(connection.unpause, run.run_id), after=[asked])
                simulation.run()
                if simulation.ended(run).paused_at is not None:  # the client died, and asked once more
                    simulation.ask(partial(connection.unpause, run.run_id))
                    simulation.run()
                ends = None if ask == "pause" else partial(may_end, program, ask, simulation)
                simulation.check(run, ends=ends)  # a deadline and what it was for may both be over when a pause is
                assert asked.done


def may_end(program: Workflow[Any, Any], ask: str, simulation: Simulation, ended: tuple[str, Any]) -> bool:
    """Whether the run ended as it must, or as one that was cancelled; some bodies make something else of that."""
    if ends_well(program.name, ended, disturbed=simulation.disturbed):
        return True
    return (ask in ("cancel", "terminate") and ended[0] == "cancelled") or (
        ask == "cancel" and program.name in ("cancels", "family", "cancelled_child", "swallows_it")
    )


def test_a_lost_payload_is_noticed() -> None:
    """The oracles bite: a registry that forgets a payload that was acknowledged leaves a run that does not end."""
    with Simulation(talk, seed=1) as simulation:
        run = simulation.start(collect, 2)
        deposit = simulation.backend.inbox.deposit
        chance = random.Random(1)
        lossy = lambda run_id, entry: True if chance.random() < 0.5 else deposit(run_id, entry)  # noqa: E731
        simulation.backend.inbox.deposit = lossy  # type: ignore[method-assign]
        for number in range(2):
            simulation.ask(partial(resume_hook_sync, f"post of {run.run_id}", number, resume_id=f"{number}"))
        simulation.run()
        with pytest.raises(AssertionError, match="it is running, not closed"):
            simulation.check(run)
