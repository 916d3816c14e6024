"""Suite 6: wait for a condition, by a loop of a step that looks and a sleep."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from everstep import FatalError, register_serializable
from everstep.core.history import StartTimer
from tests.behaviour.places import EVERYWHERE
from tests.behaviour.polling import GaveUpError, until

FIRST = "started | count+"
WAIT = "count. | timer+"
NEXT = "timer. | count+"
LAST = "count. | return"


@pytest.fixture
def count(app):
    """A check that counts."""

    @app.step
    async def count(state: int) -> int:
        return state + 1

    return count


@EVERYWHERE
def test_6_1_polls_until_the_threshold(app, place, count):
    @app.workflow
    async def body(threshold: int) -> int:
        return await until(count, 0, reached=lambda state: state >= threshold, every=0.01)

    account = place.run(body, 3)
    assert account.result == 3
    account.expect(FIRST, WAIT, NEXT, WAIT, NEXT, LAST, messages=6)


def test_6_2_does_not_wait_when_the_first_check_is_enough(app, place, count):
    @app.workflow
    async def body() -> int:
        return await until(count, 4, reached=lambda state: state >= 5)

    account = place.run(body)
    assert account.result == 5
    account.expect(FIRST, LAST, messages=2)


def test_6_3_each_check_is_recorded_under_its_steps_name(app, place):
    @app.step(name="is the parcel there?")
    async def look(state: int) -> int:
        return state + 1

    @app.workflow
    async def body() -> int:
        return await until(look, 0, reached=lambda state: state == 2)

    account = place.run(body)
    assert account.result == 2
    account.expect(
        "started | is the parcel there?+",
        "is the parcel there?. | timer+",
        "timer. | is the parcel there?+",
        "is the parcel there?. | return",
        messages=4,
    )


def test_6_4_begins_with_a_state(app, place, count):
    @app.workflow
    async def body() -> int:
        return await until(count, 5, reached=lambda state: state >= 8)

    account = place.run(body)
    assert account.result == 8
    account.expect(FIRST, WAIT, NEXT, WAIT, NEXT, LAST, messages=6)


def test_6_5_waits_the_same_time_after_each_check(app, place, count):
    @app.workflow
    async def body() -> int:
        return await until(count, 0, reached=lambda state: state >= 3, every=2)

    account = place.run(body)
    assert account.result == 3
    waits = [
        command.due - turn.at
        for turn in account.backend.inspector.history(account.handle.run_id)
        for command in turn.commands
        if isinstance(command, StartTimer)
    ]
    assert waits == [2_000_000, 2_000_000]


def test_6_6_fails_when_its_attempts_are_used_up(app, place, count):
    @app.workflow
    async def body() -> int:
        return await until(count, 0, reached=lambda state: False, attempts=3)

    account = place.run(body)
    with pytest.raises(GaveUpError, match="3 attempts"):
        account.result
    account.expect(FIRST, WAIT, NEXT, WAIT, NEXT, "count. | raise", messages=6)


@pytest.fixture
def broken(app):
    @app.step
    async def broken(state: int) -> int:
        raise FatalError("the other side is gone")

    return broken


def test_6_7_the_error_of_a_check_fails_the_run(app, place, broken):
    @app.workflow
    async def body() -> int:
        return await until(broken, 0, reached=lambda state: True)

    account = place.run(body)
    with pytest.raises(FatalError, match="gone"):
        account.result
    account.expect("started | broken+", "broken! | raise", messages=2)


def test_6_8_the_error_of_a_check_can_be_caught(app, place, broken):
    @app.workflow
    async def body() -> str:
        try:
            return str(await until(broken, 0, reached=lambda state: True))
        except FatalError:
            return "recovered"

    account = place.run(body)
    assert account.result == "recovered"
    account.expect("started | broken+", "broken! | return", messages=2)


@dataclass
class Job:
    status: str = "RUNNING"
    attempts: int = 0


@EVERYWHERE
def test_6_9_the_state_is_an_object(app, place):
    @app.step
    async def look(job: Job) -> Job:
        return Job("DONE" if job.attempts else "RUNNING", job.attempts + 1)

    @app.workflow
    async def body() -> Job:
        return await until(look, Job(), reached=lambda job: job.status == "DONE", every=0.01)

    account = place.run(body)
    assert account.result == Job("DONE", 2)
    account.expect("started | look+", "look. | timer+", "timer. | look+", "look. | return", messages=4)


def test_6_10_the_last_state_is_nothing(app, place):
    @app.step
    async def look(state: int | None) -> int | None:
        return None

    @app.workflow
    async def body() -> int | None:
        return await until(look, 1, reached=lambda state: state is None)

    account = place.run(body)
    assert account.result is None
    account.expect("started | look+", "look. | return", messages=2)


class Marks:
    """A number that is stored as so many letters."""

    def __init__(self, text: str) -> None:
        self.number = len(text)


register_serializable(Marks, class_id="behaviour.Marks", serialize=lambda marks: "x" * marks.number, deserialize=Marks)


def test_6_11_the_state_has_a_serialization_of_its_own(app, place):
    @app.step
    async def look(marks):
        return Marks("x" * (marks.number + 1))

    @app.workflow
    async def body():
        marks = await until(look, Marks(""), reached=lambda marks: marks.number == 2)
        return "x" * marks.number

    account = place.run(body)
    assert account.result == "xx"
    account.expect("started | look+", "look. | timer+", "timer. | look+", "look. | return", messages=4)


@pytest.fixture
def tenfold(app):
    @app.step
    async def tenfold(value: int) -> int:
        return value * 10

    return tenfold


def test_6_12_the_last_state_goes_into_a_step(app, place, tenfold):
    checked = []

    @app.step
    async def count(state: int) -> int:
        checked.append(state)
        return state + 1

    @app.workflow
    async def body() -> int:
        return await tenfold(await until(count, 0, reached=lambda state: state == 2))

    account = place.run(body)
    assert account.result == 20
    assert checked == [0, 1]
    account.expect(FIRST, WAIT, NEXT, "count. | tenfold+", "tenfold. | return", messages=5)


def test_6_13_two_in_sequence(app, place, count):
    @app.workflow
    async def body() -> int:
        first = await until(count, 0, reached=lambda state: state == 2)
        return await until(count, first, reached=lambda state: state == 4)

    account = place.run(body)
    assert account.result == 4
    account.expect(FIRST, WAIT, NEXT, "count. | count+", WAIT, NEXT, LAST, messages=7)
