"""The workflows that are run while workers are killed. Every step body leaves a line in a file that only grows."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

from everstep import FatalError, RetryPolicy, Workflows, create_hook, get_step_metadata, sleep

wf = Workflows()

soon = RetryPolicy(first_delay="20ms", cap="50ms")


def leave_a_line(log: str) -> None:
    """Who runs what. One write to a file opened for appending is never mixed with another's."""
    step = get_step_metadata()
    note(log, f"{step.run_id} {step.step_id.rpartition('_')[2]} {step.attempt} {os.getpid()}")


def note(path: str, line: str) -> None:
    """Add a line to a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def lines(log: Path) -> list[tuple[tuple[str, int, int], int]]:
    """All lines so far: (run, operation, attempt) and the process."""
    if not log.exists():
        return []
    return [
        ((run_id, int(op), int(attempt)), int(pid))
        for run_id, op, attempt, pid in (line.split() for line in log.read_text().splitlines())
    ]


def bodies(log: Path) -> Counter[tuple[str, int, int]]:
    """How often each step body began."""
    return Counter(key for key, _ in lines(log))


@wf.step
async def add(log: str, a: int, b: int) -> int:
    leave_a_line(log)
    await asyncio.sleep(0.002)
    return a + b


@wf.step
def add_in_thread(log: str, a: int, b: int) -> int:
    leave_a_line(log)
    return a + b


@wf.step(max_retries=5, retry=soon)
async def third_time(log: str, value: int) -> int:
    leave_a_line(log)
    if get_step_metadata().attempt < 3:
        raise ConnectionError("not yet")
    return value


@wf.step
async def refuse(log: str, why: str) -> None:
    leave_a_line(log)
    raise FatalError(why)


@wf.step(at_most_once=True)
async def pay(log: str, amount: int) -> int:
    leave_a_line(log)
    await asyncio.sleep(0.005)
    return amount


@wf.step
async def wait_for_file(log: str, path: str) -> str:
    leave_a_line(log)
    while not Path(path).exists():
        await asyncio.sleep(0.01)
    return "it is there"


@wf.step
async def meet(log: str, number: int, workers: int) -> int:
    """Ends when so many processes have begun one."""
    leave_a_line(log)
    while len({pid for _, pid in lines(Path(log))}) < workers:
        await asyncio.sleep(0.05)
    return number


@wf.step
async def kill_the_worker(log: str) -> str:
    leave_a_line(log)
    if not Path(log).with_name("mended").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return "mended"


@wf.workflow
async def poisoned(log: str, width: int) -> list[str]:
    tasks = [add(log, number, 0) for number in range(width)]
    found = await asyncio.gather(*tasks, kill_the_worker(log), return_exceptions=True)
    return [type(each).__name__ if isinstance(each, BaseException) else str(each) for each in found]


@wf.workflow
async def chain(log: str, length: int) -> int:
    total = 0
    for number in range(length):
        total = await add(log, total, number)
    return total


@wf.workflow
async def fan(log: str, width: int) -> int:
    first = await asyncio.gather(*(add(log, number, 0) for number in range(width)))
    second = await asyncio.gather(*(add_in_thread(log, number, 1) for number in first))
    return sum(second)


@wf.workflow
async def naps(log: str, times: int) -> list[int]:
    ticks = []
    for number in range(times):
        await sleep("15ms")
        ticks.append(await third_time(log, number))
    return ticks


@wf.workflow
async def undo(log: str, times: int) -> str:
    done = [await add(log, number, 0) for number in range(times)]
    try:
        async with asyncio.timeout(86_400), asyncio.TaskGroup() as group:
            group.create_task(refuse(log, "sold out"))
            group.create_task(sleep(86_400))
    except* FatalError:
        for number in reversed(done):
            await add(log, number, 100)
    return f"undid {len(done)}"


@wf.workflow
async def payments(log: str, times: int) -> list[str]:
    async def one(amount: int) -> str:
        try:
            return f"paid {await pay(log, amount)}"
        except Exception as error:
            return type(error).__name__

    return [await one(amount) for amount in range(times)]


@wf.workflow
async def collect(log: str, token: str, count: int) -> list[str]:
    """Take so many payloads, and deal with each before the next."""
    seen: list[str] = []
    async with create_hook(token=token) as hook:
        while len(seen) < count:
            payload = await hook
            await add(log, len(seen), 0)
            seen.append(payload)
    return seen


@wf.workflow
async def gate(log: str, path: str) -> str:
    said = await wait_for_file(log, path)
    return f"{said} {await add(log, 1, 1)}"


@wf.workflow
async def meeting(log: str, width: int) -> int:
    return sum(await asyncio.gather(*(meet(log, number, 2) for number in range(width))))
