"""Suite 2: waits."""

from __future__ import annotations

from datetime import timedelta

import pytest

from everstep import sleep
from everstep.core.history import StartTimer
from tests.behaviour.places import EVERYWHERE


@EVERYWHERE
def test_2_1_a_wait_suspends_the_run_and_ends(app, place):
    @app.workflow
    async def body():
        await sleep("20ms")
        return "done"

    account = place.run(body)
    assert account.result == "done"
    account.expect("started | timer+", "timer. | return", messages=2)


def test_2_3_waits_in_sequence(app, place):
    @app.workflow
    async def body():
        waits = 0
        for _ in range(2):
            await sleep("5s")
            waits += 1
        return {"waits": waits}

    account = place.run(body)
    assert account.result == {"waits": 2}
    account.expect("started | timer+", "timer. | timer+", "timer. | return", messages=3)


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [("45s", 45), ("5m", 300), ("2h", 7200), ("3 days", 259_200), (1.5, 1.5), (timedelta(weeks=1), 604_800)],
    ids=str,
)
def test_2_4_units_of_time(app, place, duration, seconds):
    @app.workflow
    async def body():
        await sleep(duration)

    run = place.env.start(body)
    place.env.step()
    [turn] = place.env.history(run).turns
    [timer] = turn.commands
    assert isinstance(timer, StartTimer)
    assert timer.due - turn.at == seconds * 1_000_000
    assert place.env.engine.backend.source.next_due() == timer.due  # nothing is to be done before that


@pytest.mark.parametrize("place", ["memory", "aws"], indirect=True)
def test_2_5_a_long_wait_is_suspended(app, place):
    @app.workflow
    async def body():
        await sleep("1 hour")

    run = place.env.start(body)
    place.env.step()
    [began] = place.env.history(run).turns
    assert place.env.connection.get(run.run_id).status == "running"
    assert place.work() == 1  # a message that is due in an hour
    [_, ended] = place.env.history(run).turns
    assert ended.at - began.at >= 3600 * 1_000_000
