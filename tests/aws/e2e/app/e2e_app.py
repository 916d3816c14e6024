"""More workflows for the app of the project: each for one thing that only a deployed stack can show."""

import asyncio
import os

from app import wf  # type: ignore[import-not-found]  # what `everstep init` wrote

from everstep import FatalError, RetryPolicy, StepInterruptedError, get_step_metadata, now, sleep

quickly = RetryPolicy(first_delay="1s", factor=1, cap="1s", jitter="none")


@wf.workflow
async def three_steps(*, name: str) -> str:
    greeting = await hail(name)
    louder = await shout(greeting)
    return await sign(louder)


@wf.step
def hail(name: str) -> str:
    return f"hello {name}"


@wf.step
async def shout(text: str) -> str:
    return text.upper()


@wf.step
def sign(text: str) -> str:
    return f"{text}!"


@wf.workflow
async def fails_twice() -> int:
    return await third_time_lucky()


@wf.step(max_retries=3, retry=quickly)
def third_time_lucky() -> int:
    attempt = get_step_metadata().attempt
    if attempt < 3:
        raise ConnectionError(f"attempt {attempt}")
    return attempt


@wf.workflow
async def sleeps(*, seconds: float) -> float:
    """How long it slept, in seconds."""
    begun = now()
    await sleep(seconds)
    return (now() - begun).total_seconds()


@wf.workflow
async def echo(*, text: str) -> str:
    return await repeat(text)


@wf.step
def repeat(text: str) -> str:
    return text


@wf.workflow
async def squares(*, count: int) -> list[int]:
    return await asyncio.gather(*(square(number) for number in range(count)))


@wf.step
def square(number: int) -> int:
    return number * number


@wf.workflow
async def gives_up(*, order: int) -> None:
    await decline(order)


@wf.step
def decline(order: int) -> None:
    raise FatalError(f"order {order} was declined")


@wf.workflow
async def survives_a_killer() -> str:
    try:
        await kill_the_worker()
    except StepInterruptedError:
        return await hail("survivor")
    return "nobody died"


@wf.step
def kill_the_worker() -> None:
    os._exit(1)
