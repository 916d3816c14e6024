"""Suite 9: a map over items, by tasks under a semaphore.

A map and its items leave no events; the steps, waits and child runs in them do.
"""

from __future__ import annotations

import asyncio
import random

import pytest

from everstep import register_serializable, sleep
from everstep.ports import RunQuery
from tests.behaviour.mapping import Batch, each
from tests.behaviour.places import EVERYWHERE

LARGE = 150_000


class RefusedError(Exception):
    """What an item that fails raises."""


async def refuse_negative(item: int, index: int) -> int:
    if item < 0:
        raise RefusedError(item)
    return item * 2


@pytest.fixture
def counts(app):
    """A workflow that maps and tells how it went."""

    @app.workflow
    async def counts(items: list[int], limits: dict[str, float]) -> tuple[str, int, int]:
        return (await each(refuse_negative, items, **limits)).counts  # type: ignore[arg-type]

    return counts


@EVERYWHERE
def test_9_1_each_item_runs_a_step(app, place):
    @app.step
    async def greet(name: str) -> str:
        return f"Hello, {name}!"

    @app.workflow
    async def body(names: list[str]) -> list[str]:
        return (await each(lambda name, _: greet(name), names)).in_order

    account = place.run(body, ["World", "Ada"])
    assert account.result == ["Hello, World!", "Hello, Ada!"]
    account.expect("started | greet+", "greet. | greet+", "greet. | return", messages=3)


def test_9_2_items_without_steps(app, place):
    @app.workflow
    async def body(items: list[int]) -> list[int]:
        return (await each(refuse_negative, items)).in_order

    account = place.run(body, [1, 2])
    assert account.result == [2, 4]
    account.expect("started | return", messages=1)


def test_9_3_the_function_knows_the_index(app, place):
    async def add(item: int, index: int) -> int:
        return item + index

    @app.workflow
    async def body(items: list[int]) -> list[int]:
        return (await each(add, items)).in_order

    assert place.run(body, [10, 20, 30]).result == [10, 21, 32]


def test_9_4_no_items(app, place):
    @app.workflow
    async def body() -> list[int]:
        return (await each(refuse_negative, [])).in_order

    account = place.run(body)
    assert account.result == []
    account.expect("started | return", messages=1)


def test_9_5_stops_at_the_first_failure(app, place, counts):
    assert place.run(counts, [1, -1, 3], {"tolerated": 0}).result == ("too many failures", 1, 1)


@EVERYWHERE
def test_9_6_the_failure_of_an_item_fails_the_run(app, place):
    @app.step(max_retries=0)
    async def refuse(item: int) -> int:
        raise RefusedError(item)

    @app.workflow
    async def body() -> list[int]:
        return (await each(lambda item, _: refuse(item), [7, 8], tolerated=0)).in_order

    account = place.run(body)
    with pytest.raises(RefusedError, match="7"):
        account.result
    account.expect("started | refuse+", "refuse! | raise", messages=2)


def test_9_7_stops_when_enough_have_succeeded(app, place, counts):
    assert place.run(counts, [1, 2, 3, 4], {"enough": 2}).result == ("enough", 2, 0)


def test_9_8_tolerates_a_failure_and_completes(app, place, counts):
    assert place.run(counts, [1, -1, 3], {"tolerated": 1}).result == ("completed", 2, 1)


def test_9_9_stops_when_too_many_have_failed(app, place, counts):
    assert place.run(counts, [-1, -2, 3], {"tolerated": 1}).result == ("too many failures", 0, 2)


def test_9_10_stops_when_too_great_a_share_has_failed(app, place, counts):
    limits = {"tolerated_share": 0.25}
    assert place.run(counts, [-1, -2, 3, 4, 5], limits).result == ("too many failures", 0, 2)
    assert place.run(counts, [-1, 2, 3, 4, 5], limits).result == ("completed", 4, 1)


@EVERYWHERE
def test_9_11_results_are_in_the_order_of_the_items(app, place):
    ended = []

    @app.step
    async def work(item: int) -> str:
        await asyncio.sleep((3 - item) * 0.02)
        ended.append(item)
        return f"r{item}"

    async def last_first(item: int, _: int) -> str:
        await sleep(f"{(3 - item) * 20}ms")  # they come back in reverse also where steps run one after the other
        return await work(item)

    @app.workflow
    async def body() -> list[str]:
        return (await each(last_first, [0, 1, 2], at_once=3)).in_order

    assert place.run(body).result == ["r0", "r1", "r2"]
    assert ended == [2, 1, 0]


def test_9_12_a_map_leaves_no_events_of_its_own(app, place):
    @app.step
    async def work(item: str) -> str:
        return f"f{item}"

    @app.workflow
    async def body() -> list[str]:
        return (await each(lambda item, _: work(item), ["a", "b"], at_once=2)).in_order

    account = place.run(body)
    assert account.result == ["fa", "fb"]
    assert account.turns[0] == "started | work+ work+"
    assert sum(turn.count("work.") for turn in account.turns) == 2


def test_9_13_items_that_can_be_found_by_a_name(app, place):
    @app.workflow
    async def tenfold(item: int) -> int:
        return item * 10

    async def named(item: int, _: int) -> int:
        return await tenfold.with_options(attributes={"item": f"number {item}"})(item)

    @app.workflow
    async def body() -> list[int]:
        return (await each(named, [1, 2])).in_order

    account = place.run(body)
    assert account.result == [10, 20]
    for number in (1, 2):
        [run] = account.backend.inspector.list_runs(RunQuery(attributes={"item": f"number {number}"})).runs
        assert run.result == str(number * 10).encode()


class Capital:
    """A text that is stored in capitals."""

    def __init__(self, text: str) -> None:
        self.text = text


register_serializable(
    Capital, class_id="behaviour.Capital", serialize=lambda capital: capital.text.upper(), deserialize=Capital
)


def test_9_14_each_result_has_a_serialization_of_its_own(app, place):
    @app.step
    async def work(item):
        return Capital(item)

    @app.workflow
    async def body():
        return [capital.text for capital in (await each(lambda item, _: work(item), ["x", "y"])).in_order]

    assert place.run(body).result == ["X", "Y"]


@EVERYWHERE
def test_9_15_a_wait_in_an_item_suspends_the_run(app, place):
    worked = []

    @app.step
    async def work(item: int) -> str:
        worked.append(item)
        return f"r{item}"

    async def second_waits(item: int, index: int) -> str:
        if index == 1:
            await sleep("10ms")
        return await work(item)

    @app.workflow
    async def body() -> list[str]:
        return (await each(second_waits, [0, 1])).in_order

    account = place.run(body)
    assert account.result == ["r0", "r1"]
    assert worked == [0, 1]
    account.expect("started | work+", "work. | timer+", "timer. | work+", "work. | return", messages=4)


@EVERYWHERE
def test_9_16_results_that_are_large_together(app, place):
    @app.step
    async def page(number: int) -> str:
        return random.Random(number).randbytes(LARGE // 2).hex()

    @app.workflow
    async def body() -> tuple[int, int]:
        pages = (await each(lambda number, _: page(number), range(4))).in_order
        await sleep("10ms")
        return len(pages), sum(map(len, pages))

    assert place.run(body).result == (4, 4 * LARGE)


def waiting_after(app, kind):
    """A workflow that maps with steps, waits, and tells how it went; and what its steps saw."""
    worked: list[int] = []

    @app.step(max_retries=0)
    async def work(item: int) -> int:
        worked.append(item)
        return await refuse_negative(item, 0)

    @app.workflow
    async def body(items: list[int]):
        batch: Batch = await each(lambda item, _: work(item), items)
        await sleep("10ms")
        return batch.in_order if kind == "results" else batch.counts

    return body, worked


@EVERYWHERE
def test_9_17_a_wait_after_a_map(app, place):
    body, worked = waiting_after(app, "results")
    account = place.run(body, [1, 2])
    assert account.result == [2, 4]
    assert worked == [1, 2]
    account.expect("started | work+", "work. | work+", "work. | timer+", "timer. | return", messages=4)


@EVERYWHERE
def test_9_18_a_wait_after_a_map_with_a_failure(app, place):
    body, worked = waiting_after(app, "counts")
    account = place.run(body, [1, -1])
    assert account.result == ("completed", 1, 1)
    assert worked == [1, -1]
    account.expect("started | work+", "work. | work+", "work! | timer+", "timer. | return", messages=4)


class Joined:
    """A list of texts that is stored as one text."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts


register_serializable(
    Joined,
    class_id="behaviour.Joined",
    serialize=lambda joined: ",".join(joined.texts).upper(),
    deserialize=lambda text: Joined(text.split(",")),
)


def mapped_in_a_child(app, pause):
    """A workflow whose map is a child run, with a result of the class above."""

    @app.step
    async def work(item):
        return item

    @app.workflow
    async def mapped():
        return Joined((await each(lambda item, _: work(item), ["x", "y"])).in_order)

    @app.workflow
    async def body():
        joined = await mapped()
        if pause:
            await sleep("1s")
        return joined.texts

    return body


def test_9_19_the_result_as_a_whole_has_a_serialization_of_its_own(app, place):
    account = place.run(mapped_in_a_child(app, pause=False))
    assert account.result == ["X", "Y"]
    assert b'"X,Y"' in (account.child(0).record.result or b"")
    account.expect("started | mapped+", "mapped. | return", messages=5)


def test_9_20_a_replay_reads_the_result_as_a_whole(app, place):
    account = place.run(mapped_in_a_child(app, pause=True))
    assert account.result == ["X", "Y"]
    account.expect("started | mapped+", "mapped. | timer+", "timer. | return", messages=6)
