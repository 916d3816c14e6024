"""Suite 5: a run that another run waits for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from everstep import FatalError, register_serializable, sleep
from everstep.ports import RunQuery
from tests.behaviour.places import EVERYWHERE, Account

LARGE = 900_000


class OutOfStockError(Exception):
    def __init__(self, product: str, left: int) -> None:
        super().__init__(f"{left} of {product} left")
        self.product = product
        self.left = left


def children(account: Account) -> int:
    """How many runs were started by this one, as anybody can find out."""
    query = RunQuery(attributes={"$parentRunId": account.handle.run_id})
    return len(account.backend.inspector.list_runs(query).runs)


@pytest.fixture
def target(app):
    """Returns what it is given."""

    @app.workflow
    async def target(value):
        return value

    return target


@pytest.fixture
def failing(app):
    @app.workflow
    async def failing(product):
        raise OutOfStockError(product, 2)

    return failing


@pytest.fixture
def echo(app):
    @app.step
    async def echo(value):
        return value

    return echo


@EVERYWHERE
def test_5_1_a_child_run_returns_its_result(app, place, target):
    @app.workflow
    async def body(value):
        return await target(value)

    account = place.run(body, "hello")
    assert account.result == "hello"
    account.expect("started | target+", "target. | return", messages=3)
    assert children(account) == 1


def test_5_2_a_child_run_is_recorded_under_the_name_of_its_workflow(app, place):
    @app.workflow(name="billing")
    async def target(value):
        return value

    @app.workflow
    async def body(value):
        return await target(value)

    account = place.run(body, 1)
    account.expect("started | billing+", "billing. | return", messages=3)
    assert account.child(0).record.workflow == "billing"


@EVERYWHERE
def test_5_3_a_child_run_takes_and_returns_nested_values(app, place, target):
    value = {
        "lines": [{"product": "anvil", "price": Decimal("9.50")}, {"product": "rope", "price": Decimal(2)}],
        "at": datetime(2026, 11, 25, tzinfo=UTC),
        "tags": {"heavy", "old"},
        "size": (1, 2, None),
    }

    @app.workflow
    async def body(value):
        return await target(value)

    assert place.run(body, value).result == value


def test_5_4_a_child_run_takes_and_returns_nothing(app, place, target):
    @app.workflow
    async def body():
        return await target(None)

    account = place.run(body)
    assert account.result is None
    account.expect("started | target+", "target. | return", messages=3)


@EVERYWHERE
def test_5_5_the_error_of_a_child_run_fails_its_parent(app, place, failing):
    @app.workflow
    async def body():
        return await failing("rope")

    account = place.run(body)
    with pytest.raises(OutOfStockError) as raised:
        account.result
    assert (raised.value.product, raised.value.left) == ("rope", 2)
    account.expect("started | failing+", "failing! | raise", messages=3)
    assert account.child(0).record.status == "failed"


@EVERYWHERE
def test_5_6_the_error_of_a_child_run_can_be_caught(app, place, failing):
    @app.workflow
    async def body():
        try:
            return await failing("rope")
        except OutOfStockError as error:
            return f"only {error}"

    account = place.run(body)
    assert account.result == "only 2 of rope left"
    account.expect("started | failing+", "failing! | return", messages=3)


@EVERYWHERE
def test_5_7_a_child_run_with_a_large_payload(app, place):
    @app.step
    async def text(size: int) -> str:
        return "".join(f"{number:x}," for number in range(size))[:size]

    @app.workflow
    async def target(value: str) -> str:
        return value[::-1]

    @app.workflow
    async def body(size: int) -> bool:
        value = await text(size)
        return await target(value) == value[::-1]

    assert place.run(body, LARGE).result is True


def test_5_9_a_replay_does_not_start_a_child_again(app, place, target):
    @app.workflow
    async def body():
        result = await target("once")
        await sleep("1s")
        return result

    account = place.run(body)
    assert account.result == "once"
    account.expect("started | target+", "target. | timer+", "timer. | return", messages=4)
    assert children(account) == 1


def test_5_10_a_replay_raises_the_error_of_a_child_again(app, place, failing):
    @app.workflow
    async def body():
        try:
            await failing("rope")
        except OutOfStockError as error:
            await sleep("1s")
            return error.left
        return None

    account = place.run(body)
    assert account.result == 2
    account.expect("started | failing+", "failing! | timer+", "timer. | return", messages=4)
    assert children(account) == 1


def test_5_11_a_step_then_a_child_run(app, place, echo, target):
    @app.workflow
    async def body():
        return await target(await echo(1) + 1)

    account = place.run(body)
    assert account.result == 2
    account.expect("started | echo+", "echo. | target+", "target. | return", messages=4)


def test_5_12_a_child_run_then_a_step(app, place, echo, target):
    @app.workflow
    async def body():
        return await echo(await target(1) + 1)

    account = place.run(body)
    assert account.result == 2
    account.expect("started | target+", "target. | echo+", "echo. | return", messages=4)


def test_5_13_a_child_run_in_a_child_context(app, place, target):
    async def context(value):
        return await target(value)

    @app.workflow
    async def body():
        return await context("inside")

    account = place.run(body)
    assert account.result == "inside"
    account.expect("started | target+", "target. | return", messages=3)


@EVERYWHERE
def test_5_14_child_runs_in_sequence(app, place, target):
    @app.workflow
    async def body():
        return await target(1) + await target(2)

    account = place.run(body)
    assert account.result == 3
    account.expect("started | target+", "target. | target+", "target. | return", messages=5)
    assert children(account) == 2


class Parcel:
    """What a child run is given; it is stored as text of its own."""

    def __init__(self, content: str) -> None:
        self.content = content


def _unpack(text: str) -> Parcel:
    if not text.startswith("parcel:"):
        raise FatalError(text)
    return Parcel(text.removeprefix("parcel:"))


register_serializable(
    Parcel, class_id="behaviour.Parcel", serialize=lambda parcel: f"parcel:{parcel.content}", deserialize=_unpack
)


def test_5_15_a_serialization_for_what_a_child_run_takes(app, place):
    @app.workflow
    async def target(parcel):
        return parcel.content

    @app.workflow
    async def body(content):
        return await target(Parcel(content))

    account = place.run(body, "anvil")
    assert account.result == "anvil"
    assert b"parcel:anvil" in account.child(0).record.input


@dataclass
class Shout:
    text: str

    def _workflow_serialize(self) -> str:
        return self.text.upper()


register_serializable(Shout, class_id="behaviour.Shout", serialize=Shout._workflow_serialize, deserialize=Shout)


def test_5_16_a_serialization_for_what_a_child_run_returns(app, place):
    @app.workflow
    async def target(text):
        return Shout(text)

    @app.workflow
    async def body(text):
        return (await target(text)).text

    account = place.run(body, "hello")
    assert account.result == "HELLO"
    assert b"HELLO" in (account.child(0).record.result or b"")
