"""Small workflows that together make every call of the hot path, each with one result whatever happens."""

from __future__ import annotations

import asyncio
import random
from base64 import b85encode
from typing import Final

import everstep
from everstep import (
    HookNotFoundError,
    RetryPolicy,
    Workflows,
    create_hook,
    get_step_metadata,
    get_workflow_metadata,
    get_writable,
    publish,
    resume_hook,
    set_attributes,
    sleep,
)

wf = Workflows()

DAY: Final = 86_400
LARGE: Final = 450_000
"""Characters that hardly become fewer by compression: too many for an item, a message and a record."""


def noise(seed: int) -> str:
    return b85encode(random.Random(seed).randbytes(LARGE * 4 // 5)).decode()


@wf.step
async def add(a: int, b: int) -> int:
    return a + b


@wf.step(max_retries=2, retry=RetryPolicy(first_delay=5, jitter="none"))
async def second_time(value: int) -> int:
    if get_step_metadata().attempt < 2:
        raise ConnectionError("not yet")
    return value


@wf.step(at_most_once=True)
async def pay(amount: int) -> str:
    return f"paid {amount}"


@wf.step
async def draw(seed: int) -> str:
    return noise(seed)


@wf.step
async def measure(text: str) -> int:
    return len(text)


@wf.step
async def tell(token: str, value: int) -> int:
    try:
        await resume_hook(token, value, resume_id=get_step_metadata().step_id)
    except HookNotFoundError:  # it was sent before, and taken
        pass
    return value


@wf.step
async def write(count: int) -> int:
    out = get_writable(type=int, on_retry="discard")
    for number in range(count):
        await out.write(number)
    return count


@wf.workflow
async def steady() -> int:
    return await second_time(await add(await add(1, 2), 3))


@wf.workflow
async def kept() -> int:
    """Deployed where the items of a closed run expire."""
    return await second_time(await add(1, 2))


@wf.workflow
async def fan_out() -> list[int]:
    """Two outcomes come 5 s after the others, so the run is woken more than once."""
    return list(await asyncio.gather(add(0, 0), add(1, 1), second_time(4), second_time(6)))


@wf.workflow
async def pair() -> list[int]:
    """Outcomes come one at a time, and to the inbox: when the first one does, a second step is under way."""
    return list(await asyncio.gather(add(1, 1), second_time(3)))


@wf.workflow
async def naps() -> int:
    async def nap(seconds: int) -> int:
        await sleep(seconds)
        return seconds

    return await add(*await asyncio.gather(nap(30), nap(60)))


@wf.workflow
async def long_nap() -> int:
    await sleep(DAY)
    return await add(1, 2)


@wf.workflow
async def in_time() -> int:
    async with asyncio.timeout(DAY):
        first = await add(1, 2)
    async with asyncio.timeout(DAY):
        return await add(first, 3)


@wf.workflow
async def large() -> tuple[int, str]:
    one, two = await asyncio.gather(draw(1), draw(2))
    return await measure(one + two), one


@wf.workflow
async def once() -> str:
    await add(1, 1)
    return await pay(5)


@wf.workflow
async def generations(left: int = 2, total: int = 0) -> int:
    total = await add(total, left)
    if left:
        everstep.continue_as_new(left - 1, total)
    return total


@wf.workflow
async def parent() -> int:
    return sum(await asyncio.gather(steady(), pair_of_naps()))


@wf.workflow
async def pair_of_naps() -> int:
    await sleep(30)
    await sleep(30)
    return await add(1, 1)


@wf.workflow
async def hooked() -> list[int]:
    seen: list[int] = []
    for number in range(2):
        async with create_hook(token=f"door of {get_workflow_metadata().run_id}") as hook:
            seen += await asyncio.gather(tell(hook.token, number), hook)
    return seen


@wf.workflow
async def talkative() -> int:
    set_attributes({"phase": "1"})
    publish("progress", 1)
    count = await write(3)
    set_attributes({"phase": "2"})
    publish("progress", 2)
    return await add(count, await write(2))


@wf.workflow
async def weigh(text: str) -> int:
    await sleep(60)
    return await measure(text)


EXPECTED: Final[dict[str, object]] = {
    "steady": 6,
    "kept": 3,
    "fan_out": [0, 2, 4, 6],
    "pair": [2, 3],
    "naps": 90,
    "long_nap": 3,
    "in_time": 6,
    "large": [2 * LARGE, noise(1)],
    "once": "paid 5",
    "generations": 3,
    "parent": 8,
    "hooked": [0, 0, 1, 1],
    "talkative": 5,
}
"""What each returns that has no arguments."""
STREAM: Final = [0, 1, 2, 0, 1]
"""What `talkative` writes."""


def ends_well(name: str, ended: tuple[str, object], *, claim_lost: bool) -> bool:
    """Whether a run of the program ended as it must. Where a claim is in doubt, its step may have been given up."""
    given_up = name == "once" and claim_lost and str(ended[1]).startswith("StepInterruptedError: ")
    return given_up or ended == ("completed", EXPECTED[name])
