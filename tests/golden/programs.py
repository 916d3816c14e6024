"""The workflows behind the golden histories. Once a history is kept, its workflow here may not change."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from everstep import (
    FatalError,
    RetryPolicy,
    Workflows,
    as_completed,
    continue_as_new,
    get_step_metadata,
    now,
    random,
    sleep,
    uuid4,
)

app = Workflows()


@dataclass
class Item:
    name: str
    price: Decimal


@app.step(name="echo")
async def echo(value: Any) -> Any:
    return value


@app.step(name="price")
async def price(item: Item, *, factor: int = 2) -> Item:
    return Item(item.name, item.price * factor)


@app.step(name="flaky", max_retries=2, retry=RetryPolicy(first_delay=1, jitter="none"))
async def flaky(fail_until: int) -> int:
    attempt = get_step_metadata().attempt
    if attempt < fail_until:
        raise ConnectionError(f"attempt {attempt}")
    return attempt


@app.step(name="fatal")
async def fatal(text: str) -> None:
    raise FatalError(text)


@app.workflow(name="sequence")
async def sequence(count: int) -> list[Any]:
    return [await echo(number) for number in range(count)]


@app.workflow(name="typed")
async def typed(items: list[Item], *, when: datetime | None = None) -> list[Item]:
    return list(await asyncio.gather(*(price(item, factor=3) for item in items)))


@app.workflow(name="retries")
async def retries() -> list[Any]:
    log: list[Any] = [await flaky(2)]
    for call in (flaky(9), fatal("no"), fatal("never")):
        try:
            await call
        except (ConnectionError, FatalError) as error:
            log.append(str(error))
    return log


@app.workflow(name="deadlines")
async def deadlines() -> list[str]:
    log = []
    for limit in (5, 50):
        try:
            async with asyncio.timeout(limit):
                await sleep(20)
                log.append("slept")
        except TimeoutError:
            log.append("late")
    task = asyncio.create_task(sleep(1000))
    await asyncio.wait([task], timeout=10)
    task.cancel()
    return log


@app.workflow(name="concurrent")
async def concurrent() -> list[Any]:
    async def later(seconds: int) -> Any:
        await asyncio.sleep(seconds)
        return await echo(seconds)

    order = [await each for each in as_completed([later(3), later(1), later(2)])]
    gate = asyncio.Semaphore(2)

    async def gated(number: int) -> Any:
        async with gate:
            return await echo(number)

    tasks: list[asyncio.Task[Any]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks += [group.create_task(gated(number)) for number in range(5)]
            group.create_task(fatal("group"))
    except* FatalError:
        order.append("group failed")
    return [*order, [task.done() for task in tasks]]


@app.workflow(name="chance")
async def chance() -> list[Any]:
    seen: list[Any] = [now(), uuid4(), random().random(), random().randint(1, 100)]
    await sleep("1h")
    return [*seen, now(), uuid4()]


@app.workflow(name="endless")
async def endless(number: int) -> int:
    number = await echo(number) + 1
    if number < 3:
        continue_as_new(number)
    return number


@app.workflow(name="fails")
async def fails() -> None:
    await echo("before")
    raise ValueError("the workflow's own")


RUNS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "sequence": (sequence, (4,)),
    "typed": (typed, ([Item("anvil", Decimal("10.10")), Item("rope", Decimal(2))],)),
    "retries": (retries, ()),
    "deadlines": (deadlines, ()),
    "concurrent": (concurrent, ()),
    "chance": (chance, ()),
    "endless": (endless, (0,)),
    "fails": (fails, ()),
}
