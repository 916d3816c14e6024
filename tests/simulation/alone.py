"""Programs that keep to themselves: one for each thing a body can do alone, each with one result whatever happens.

Times are far apart (a step takes no virtual time; timeouts are a day, retries that must lose against one wait ten
days), so that minutes of delay and skew cannot change a result. What depends on the order of arrival is sorted.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import everstep
from everstep import FatalError, RetryableError, RetryPolicy, Workflows, get_step_metadata, sleep

wf = Workflows()

DAY = 86_400
quickly = RetryPolicy(first_delay=5, factor=2, cap=60)
in_ten_days = RetryPolicy(first_delay=10 * DAY, cap=10 * DAY, jitter="none")


@wf.step
async def add(a: int, b: int) -> int:
    return a + b


@wf.step
def add_in_thread(a: int, b: int) -> int:
    return a + b


@wf.step(max_retries=3, retry=quickly)
async def third_time(value: int) -> int:
    if get_step_metadata().attempt < 3:
        raise ConnectionError("not yet")
    return value


@wf.step(max_retries=2)
async def asks_to_wait(value: int) -> int:
    if get_step_metadata().attempt == 1:
        raise RetryableError("come back", retry_after=timedelta(minutes=10))
    return value


@wf.step(max_retries=1, retry=in_ten_days)
async def slow(value: int) -> int:
    if get_step_metadata().attempt == 1:
        raise ConnectionError("not today")
    return value


@wf.step
async def refuse(why: str) -> int:
    raise FatalError(why)


@wf.step(max_retries=1, retry=quickly)
async def never(why: str) -> int:
    raise ValueError(why)


@wf.step(at_most_once=True)
async def pay(amount: int) -> str:
    return f"paid {amount}"


@wf.workflow
async def sequence() -> int:
    total = 0
    for number in range(4):
        total = await add(total, number)
    return total


@wf.workflow
async def threads() -> list[int]:
    return list(await asyncio.gather(*(add_in_thread(number, 1) for number in range(3))))


@wf.workflow
async def gathered() -> list[int]:
    return list(await asyncio.gather(*(add(number, number) for number in range(5))))


@wf.workflow
async def nested_gather() -> list[list[int]]:
    async def row(start: int) -> list[int]:
        first = await add(start, 1)
        return list(await asyncio.gather(add(first, 1), add(first, 2)))

    return list(await asyncio.gather(row(0), row(10), row(20)))


@wf.workflow
async def group_fails() -> str:
    seen = []
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(add(1, 1))
            group.create_task(sleep(10 * DAY))
            group.create_task(refuse("no"))
    except* FatalError as errors:
        seen = [str(error) for error in errors.exceptions]
    return f"{seen} {await add(1, 2)}"


@wf.workflow
async def in_time() -> int:
    async with asyncio.timeout(DAY):
        return await add(1, 2)


@wf.workflow
async def too_late() -> int:
    try:
        async with asyncio.timeout(DAY):
            return await slow(1)
    except TimeoutError:
        return await add(2, 2)


@wf.workflow
async def sleeper() -> list[int]:
    ticks = []
    for number in range(3):
        await sleep("1h")
        ticks.append(await add(number, 0))
    await asyncio.sleep(DAY)
    return ticks


@wf.workflow
async def naps() -> int:
    async def nap(hours: int) -> int:
        await sleep(timedelta(hours=hours))
        return hours

    first, second = await asyncio.gather(nap(1), nap(2))
    await sleep("1h")
    return await add(first, second)


@wf.workflow
async def identical_timers() -> list[str]:
    async def nap(name: str) -> str:
        await sleep(60)
        return name

    async def late() -> str:
        try:
            async with asyncio.timeout(60):  # asked for before the sleep, so it fires before it
                await asyncio.sleep(60)
        except TimeoutError:
            return "late"
        return "slept"

    return list(await asyncio.gather(*(nap(f"nap {number}") for number in range(6)), late(), late()))


@wf.workflow
async def retries() -> list[int]:
    return list(await asyncio.gather(third_time(1), asks_to_wait(2), add(3, 0)))


@wf.workflow
async def fails() -> int:
    await add(1, 1)
    return await never("for good")


@wf.workflow
async def once() -> str:
    await add(1, 1)
    return await pay(5)


@wf.workflow
async def saga() -> list[str]:
    undone = []
    try:
        first = await add(1, 0)
        undone.append(first)
        second = await third_time(2)
        undone.append(second)
        await refuse("out of stock")
    except FatalError as error:
        return [str(await add(number, 100)) for number in reversed(undone)] + [str(error)]
    return []


@wf.workflow
async def semaphore() -> int:
    places = asyncio.Semaphore(2)

    async def one(number: int) -> int:
        async with places:
            return await add(number, 1)

    return sum(await asyncio.gather(*(one(number) for number in range(6))))


@wf.workflow
async def queue() -> list[int]:
    items: asyncio.Queue[int] = asyncio.Queue(maxsize=1)
    seen: list[int] = []

    async def produce() -> None:
        for number in range(4):
            await items.put(await add(number, 10))

    async def consume() -> None:
        while True:
            seen.append(await add(await items.get(), 1))
            items.task_done()

    consumer = asyncio.create_task(consume())
    await produce()
    await items.join()
    consumer.cancel()
    return seen


@wf.workflow
async def generations(left: int = 3, total: int = 0) -> int:
    total = await add(total, left)
    if left:
        everstep.continue_as_new(left - 1, total)
    return total


@wf.workflow
async def as_they_come() -> list[int]:
    seen = []
    for completed in everstep.as_completed([add(number, 0) for number in range(4)]):
        seen.append(await completed)
    return sorted(seen)


@wf.workflow
async def first_of_two() -> int:
    quick, endless = asyncio.ensure_future(add(1, 1)), asyncio.ensure_future(sleep(10 * DAY))
    done, pending = await asyncio.wait({quick, endless}, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    return len(done) + quick.result()


@wf.workflow
async def cancels() -> list[str]:
    said = []

    async def stubborn() -> None:
        try:
            await sleep(10 * DAY)
        except asyncio.CancelledError:
            said.append(f"cleaned {await add(1, 1)}")
            raise

    task = asyncio.create_task(stubborn())
    in_flight = asyncio.create_task(slow(1))
    await add(0, 0)
    task.cancel()
    in_flight.cancel()
    for ended in await asyncio.gather(task, in_flight, return_exceptions=True):
        said.append(type(ended).__name__)
    return said


EXPECTED: dict[str, tuple[str, object]] = {
    "sequence": ("completed", 6),
    "threads": ("completed", [1, 2, 3]),
    "gathered": ("completed", [0, 2, 4, 6, 8]),
    "nested_gather": ("completed", [[2, 3], [12, 13], [22, 23]]),
    "group_fails": ("completed", "['no'] 3"),
    "in_time": ("completed", 3),
    "too_late": ("completed", 4),
    "sleeper": ("completed", [0, 1, 2]),
    "naps": ("completed", 3),
    "identical_timers": ("completed", [*(f"nap {number}" for number in range(6)), "late", "late"]),
    "retries": ("completed", [1, 2, 3]),
    "fails": ("failed", "ValueError: for good"),
    "once": ("completed", "paid 5"),
    "saga": ("completed", ["102", "101", "out of stock"]),
    "semaphore": ("completed", 21),
    "queue": ("completed", [11, 12, 13, 14]),
    "generations": ("completed", 6),
    "as_they_come": ("completed", [0, 1, 2, 3]),
    "first_of_two": ("completed", 3),
    "cancels": ("completed", ["cleaned 2", "CancelledError", "CancelledError"]),
}
"""How each ends, under any schedule."""
