"""Arguments bind by the signature, travel as their annotations say, and are copies."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from everstep import TypeValidationError, WorkflowRunFailedError
from everstep.ports import RunQuery


class Colour(Enum):
    RED = "r"
    BLUE = "b"


@dataclass
class Point:
    x: int
    y: int


@dataclass
class Weight:
    grams: int


class Customer(BaseModel):
    name: str
    since: datetime


def runs(env):
    return env.connection.backend.inspector.list_runs(RunQuery()).runs


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing a required argument: 'user_id'"),
        ((1, 2), {}, "too many positional arguments"),
        ((), {"user": 1}, "missing a required argument: 'user_id'"),
        ((1,), {"extra": 1}, "got an unexpected keyword argument 'extra'"),
        ((1,), {"user_id": 1}, "multiple values for argument 'user_id'"),
    ],
)
def test_a_bad_call_is_a_type_error_at_start_and_nothing_is_written(app, env, args, kwargs, message):
    @app.workflow(name="create")
    async def create(user_id):
        return user_id

    with pytest.raises(TypeError, match=message):
        env.start(create, *args, **kwargs)
    assert runs(env) == []
    assert not env.step()


def test_a_value_that_does_not_fit_is_refused_at_start(app, env):
    @app.workflow(name="create")
    async def create(*, count: Annotated[int, Field(gt=0)], points: list[Point]):
        return count

    with pytest.raises(TypeValidationError, match=r"workflow 'create'.*count"):
        env.start(create, count=0, points=[])
    with pytest.raises(TypeValidationError, match=r"workflow 'create'.*points"):
        env.start(create, count=1, points=[Point(1, 2), "no point"])
    assert runs(env) == []


def test_a_bad_step_call_raises_in_the_body_before_anything_is_recorded(app, env):
    @app.step(name="charge")
    async def charge(amount: int) -> int:
        return amount

    @app.workflow
    async def body():
        caught = []
        for call in (lambda: charge(), lambda: charge("many"), lambda: charge(1, 2)):
            try:
                call()
            except (TypeError, TypeValidationError) as error:
                caught.append(type(error).__name__)
        return caught, await charge(3)

    run = env.start(body)
    assert run.wait() == (["TypeError", "TypeValidationError", "TypeError"], 3)
    assert sum(len(turn.commands) for turn in env.history(run).turns) == 2


def test_a_result_that_does_not_fit_fails_the_step_without_retries(app, env):
    attempts = []

    @app.step(name="count")
    async def count() -> int:
        attempts.append(1)
        return "many"  # type: ignore[return-value]

    @app.workflow
    async def body():
        return await count()

    with pytest.raises(WorkflowRunFailedError) as caught:
        env.run(body)
    assert isinstance(caught.value.__cause__, TypeValidationError)
    assert "step 'count'" in str(caught.value.__cause__)
    assert len(attempts) == 1


def test_an_instance_that_does_not_fit_its_own_class_fails_the_step_and_does_not_park_the_run(app, env):
    @app.step(name="weigh")
    async def weigh() -> Weight:
        return Weight(grams=None)  # type: ignore[arg-type]

    @app.workflow
    async def body() -> str | None:
        try:
            await weigh()
        except TypeValidationError as error:
            return str(error)
        return None

    assert env.run(body) == "result of step 'weigh' at $.grams: Input should be a valid integer (got NoneType None)"


def test_a_return_value_that_does_not_fit_fails_the_run(app, env):
    @app.workflow(name="total")
    async def total() -> int:
        return "much"  # type: ignore[return-value]

    with pytest.raises(WorkflowRunFailedError, match=r"workflow 'total'"):
        env.run(total)


def test_annotated_values_come_back_as_what_they_are(app, env):
    seen = []

    @app.step
    async def echo(
        point: Point,
        customer: Customer,
        colour: Colour,
        when: datetime,
        amount: Decimal,
        key: UUID,
        data: bytes,
        tags: set[str],
        pair: tuple[int, str],
        path: Path,
        nested: dict[str, list[Point]],
    ) -> tuple[Point, Customer, Colour]:
        seen.append((point, customer, colour, when, amount, key, data, tags, pair, path, nested))
        return point, customer, colour

    values = (
        Point(1, 2),
        Customer(name="Ada", since=datetime(2020, 1, 1, tzinfo=UTC)),
        Colour.BLUE,
        datetime(2026, 1, 1, 12, tzinfo=UTC),
        Decimal("12.50"),
        UUID(int=7),
        b"\x00\xff",
        {"a", "b"},
        (1, "x"),
        Path("/tmp/a"),
        {"points": [Point(3, 4)]},
    )

    @app.workflow
    async def body() -> tuple[Point, Customer, Colour]:
        result = await echo(*values)
        assert isinstance(result[0], Point)
        return result

    assert env.run(body) == values[:3]
    assert seen == [values]


def test_without_annotations_the_built_in_types_are_kept(app, env):
    values = [
        None,
        "",
        0,
        [],
        (1, (2,)),
        {1, 2},
        frozenset({"a"}),
        b"\xff",
        Decimal("1.10"),
        UUID(int=1),
        datetime(2026, 1, 1, tzinfo=UTC),
        date(2026, 1, 1),
        timedelta(microseconds=1),
        Path("a"),
        {1: "one", "$set": []},
        float("inf"),
        1 << 80,
    ]

    @app.step
    async def echo(value):
        return value

    @app.workflow
    async def body(values):
        return [await echo(value) for value in values]

    result = env.run(body, values)
    assert result == values
    assert [type(value) for value in result] == [type(value) for value in values]


def test_arguments_are_passed_by_value(app, env):
    @app.step
    async def spoil(items: list[int]) -> int:
        items.append(99)
        return len(items)

    @app.workflow
    async def body() -> list[int]:
        items = [1]
        await spoil(items)
        await spoil(items)
        return items

    assert env.run(body) == [1]


def test_defaults_are_those_of_the_code_that_runs(app, env):
    @app.step
    async def price(amount, *, currency="usd", **more):
        return amount, currency, more

    @app.workflow
    async def body(count=2, *rest):
        return [await price(count), await price(1, currency="eur", tip=3), rest]

    assert env.run(body) == [(2, "usd", {}), (1, "eur", {"tip": 3}), ()]
    assert env.run(body, 5, 6, 7)[2] == (6, 7)
