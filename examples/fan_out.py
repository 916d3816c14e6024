"""200 items at once, at most 20 at a time: plain asyncio, durable.

python examples/fan_out.py
"""

import asyncio

from everstep import Workflows, run

wf = Workflows()


@wf.workflow
async def resize_all(count: int = 200, at_once: int = 20) -> int:
    gate = asyncio.Semaphore(at_once)

    async def one(number: int) -> int:
        async with gate:
            return await resize(number)

    sizes = await asyncio.gather(*(one(number) for number in range(count)))
    return sum(sizes)


@wf.step
async def resize(number: int) -> int:
    await asyncio.sleep(0.01)  # the work
    return number * 2


if __name__ == "__main__":
    print(run(resize_all))
