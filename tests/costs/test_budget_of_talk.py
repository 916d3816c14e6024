"""What hooks, children, requests and the like cost on AWS, by the meter: exactly, so that a change shows.

Write request units (WRU) are those of small items, on a warm worker, with messages handled one after the other.
"""

from __future__ import annotations

import asyncio

import pytest

from everstep import Workflows, create_hook, publish, set_attributes, sleep, start
from tests.costs import test_budget
from tests.costs.test_budget import Trial

wf = Workflows()


@wf.step
async def clean_up() -> str:
    return "done"


@wf.workflow
async def nothing() -> str:
    return "done"


@wf.workflow
async def asks(count: int) -> list[str]:
    seen = []
    for _ in range(count):
        async with create_hook(token="t") as hook:
            seen.append(await hook)
    return seen


@wf.workflow
async def streams(count: int) -> list[str]:
    async with create_hook(token="t") as hook:
        return [await hook for _ in range(count)]


@wf.workflow
async def confirms() -> str | None:
    return await create_hook(token="t").get_conflict()


@wf.workflow
async def calls(count: int) -> list[str]:
    return [await nothing() for _ in range(count)]


@wf.workflow
async def starts() -> str:
    return (await start(nothing)).run_id


@wf.workflow
async def sleeps() -> None:
    try:
        await sleep("1h")
    except asyncio.CancelledError:
        await clean_up()
        raise


@wf.workflow
async def describes() -> None:
    set_attributes(a="b")
    publish("progress", 1)


trial = test_budget.trial


class Cost:
    """What was used since it was made, or since the last look."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.before = trial.meter.usage()

    def look(self) -> tuple[float, float, float, float]:
        """Write units, read units, messages, requests to the table."""
        used = self.trial.meter.usage() - self.before
        self.before = self.trial.meter.usage()
        requests = sum(number for name, number in used.requests.items() if name.startswith("dynamodb:"))
        return used.quantities["dynamodb.write"], used.quantities["dynamodb.read"], used.details["messages"], requests


def begin(trial, workflow, **arguments):
    """A run that has come to rest; and the cost from then on."""
    engine = trial.connection.engine(wf)
    run = trial.connection.start(workflow.name, workflow.encode_json(arguments), attributes={})
    trial.drain(engine)
    return run, engine, Cost(trial)


def status(trial, run):
    return trial.connection.backend.runs.load(run.run_id).run.status


@pytest.fixture
def empty(trial):
    """What a run costs that does nothing."""
    cost = Cost(trial)
    begin(trial, nothing)
    writes, reads, messages, requests = cost.look()
    assert (writes, messages) == (2 + 1 + 1, 1)  # created (and its entry in the list), its turn, closed
    return writes, reads, messages, requests


def test_a_hook(trial, empty):
    """Open: claim, and look that it was in time. Resume: find, deposit, message. Then: turn, inbox, release."""
    cost = Cost(trial)
    run, engine, _ = begin(trial, asks, count=1)
    opened = cost.look()
    assert opened[0] == 2 + 1 + 1  # as an empty run that is not yet closed, and the claim
    trial.connection.resume_hook("t", b'"x"')
    assert cost.look() == (1, 1, 1, 2)
    trial.drain(engine)
    writes, reads, messages, _ = cost.look()
    assert (writes, messages) == (1 + 1 + 1 + 1 + 1, 0)  # wake flag down, turn, release, inbox entry removed; closed
    assert reads == 1
    assert status(trial, run) == "completed"


def test_more_of_the_same(trial):
    """Each further hook of a run: 6 WRU, 3 RRU, 1 message. Each further payload of an open hook: 4 WRU, 2 RRU, 1."""
    for workflow, expected in [(asks, (6, 3, 1)), (streams, (4, 2, 1))]:
        run, engine, cost = begin(trial, workflow, count=3)
        for _ in range(2):
            trial.connection.resume_hook("t", b'"x"')
            trial.drain(engine)
            assert cost.look()[:3] == expected
        trial.connection.resume_hook("t", b'"x"')
        trial.drain(engine)
        assert status(trial, run) == "completed"


def test_asking_for_a_conflict(trial, empty):
    """The answer is a deposit, a wake-up and a turn more."""
    cost = Cost(trial)
    run, _, _ = begin(trial, confirms)
    writes, reads, messages, _ = cost.look()
    assert (writes - empty[0], messages - empty[2]) == (1 + 1 + 1 + 1 + 1 + 1 + 1, 1)  # the hook's two, too
    assert reads - empty[1] == 1 + 1
    assert status(trial, run) == "completed"


def test_a_child(trial, empty):
    """A run of its own, and its outcome: deposit, wake flag (up and down), turn, inbox entry removed."""
    cost = Cost(trial)
    run, _, _ = begin(trial, calls, count=1)
    one = cost.look()
    begin(trial, calls, count=2)
    two = cost.look()
    more = (empty[0] + 5, empty[1] + 2, empty[2] + 1)  # its record is looked for before it is made
    assert tuple(after - before for after, before in zip(two[:3], one[:3], strict=True)) == more
    assert tuple(after - before for after, before in zip(one[:3], empty[:3], strict=True)) == more
    assert status(trial, run) == "completed"


def test_a_run_that_is_started_and_not_awaited(trial, empty):
    cost = Cost(trial)
    begin(trial, starts)
    assert cost.look()[:3] == (2 * empty[0], 2 * empty[1] + 1, 2 * empty[2])


@pytest.mark.parametrize(("ask", "expected"), [("cancel", 1 + 1 + 1 + 1), ("terminate", 1 + 1 + 1)])
def test_ending_a_run(trial, ask, expected):
    """Ask: look, deposit, message. Then: wake flag down, turns (of cancel with the clean-up), inbox, closed."""
    run, engine, cost = begin(trial, sleeps)
    getattr(trial.connection, ask)(run.run_id, "enough")
    assert cost.look() == (1, 1, 1, 2)
    trial.drain(engine)
    writes, reads, messages, _ = cost.look()
    assert (writes, reads, messages) == (expected + 1, *((1, 1) if ask == "cancel" else (2, 0)))
    assert status(trial, run) == "cancelled"


def test_waking_pausing_and_unpausing(trial):
    run, engine, cost = begin(trial, sleeps)
    for ask in ("pause", "unpause", "wake_up"):
        getattr(trial.connection, ask)(run.run_id)  # a deposit; wake flag down, a turn, the record, the inbox entry
        trial.drain(engine)
        assert cost.look()[:3] == (1 + 1 + 1 + 1 + 1, 2, 1)
    assert status(trial, run) == "completed"


def test_attributes_and_published_values(trial, empty):
    """One write each, in whatever number they are changed within a turn."""
    cost = Cost(trial)
    begin(trial, describes)
    writes, _, messages, _ = cost.look()
    assert (writes - empty[0], messages - empty[2]) == (2, 0)
