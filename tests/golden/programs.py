"""The workflows behind the golden histories. Once a history is kept, its workflow here may not change."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from everstep import (
    BaseHook,
    FatalError,
    HookConflictError,
    RetryPolicy,
    Workflows,
    as_completed,
    continue_as_new,
    create_hook,
    create_webhook,
    get_run,
    get_step_metadata,
    get_workflow_metadata,
    now,
    publish,
    random,
    remove_attributes,
    resume_hook,
    set_attributes,
    sleep,
    start,
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


@dataclass
class Approval(BaseHook):
    approved: bool
    by: str = "nobody"


@app.step(name="tell")
async def tell(token: str, payload: Any) -> None:
    await resume_hook(token, payload, resume_id=get_step_metadata().step_id)


@app.step(name="ask", max_retries=0)
async def ask(run_id: str, what: str) -> None:
    run = get_run(run_id)
    match what:
        case "cancel":
            await run.cancel("no longer needed – why?")
        case "mark":
            await run.set_attributes({"asked by": "a step", "start": None})
        case _:
            await getattr(run, what)()


@app.step(name="never", cancellable=True, max_retries=1, retry=RetryPolicy(first_delay=86_400, jitter="none"))
async def never() -> None:
    raise ConnectionError("not today")


@app.workflow(name="hooks")
async def hooks() -> list[Any]:
    log: list[Any] = []
    async with Approval.wait(token="order-17", metadata={"number": 17}) as approval:
        await tell(approval.token, {"approved": True, "by": "ada"})
        log.append((await approval).by)
        other = create_hook(token="order-17")
        log.append(await other.get_conflict() is not None)
        try:
            await other
        except HookConflictError as error:
            log.append(error.token)
    again, default = create_hook(token="order-17"), create_hook()
    log.append(await again.get_conflict())
    for number in range(3):
        await tell(default.token, number)
    async for value in default:
        log.append(value)
        if value == 2:
            default.dispose()
    try:
        async with asyncio.timeout(3600):
            await create_webhook(metadata="nobody calls")
    except TimeoutError:
        log.append("late")
    return log


@app.workflow(name="child")
async def child(what: str) -> str:
    match what:
        case "fails":
            raise ValueError("the child's own")
        case "goes on":
            continue_as_new("returns")
        case "sleeps":
            await sleep("30 days")
    return f"{what}: {await echo(what)}"


@app.workflow(name="children")
async def children() -> list[str]:
    log = [await child("returns"), await child("goes on")]
    for what in ("fails", "sleeps"):
        try:
            await asyncio.wait_for(child(what), 60)
        except (ValueError, TimeoutError) as error:
            log.append(type(error).__name__)
    later = await start(child.with_options(attributes={"a": "b"}, start_at="1h"), "returns")
    return [*log, later.run_id, *await asyncio.gather(child("returns"), child("returns"))]


@app.workflow(name="cancelled")
async def cancelled() -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(never())
            group.create_task(ask(get_workflow_metadata().run_id, "cancel"))
            group.create_task(child("sleeps"))
            group.create_task(sleep("30 days"))
    finally:
        await echo("cleaned up")


@app.workflow(name="terminated")
async def terminated() -> None:
    create_hook(token="open")
    await asyncio.gather(ask(get_workflow_metadata().run_id, "terminate"), never(), child("sleeps"))


@app.workflow(name="controlled")
async def controlled() -> list[Any]:
    run_id, log = get_workflow_metadata().run_id, []
    set_attributes(phase="sleeps", start="x")
    await start(unpauser, run_id)
    begin = now()
    await asyncio.gather(sleep("30 days"), ask(run_id, "wake_up"))
    log.append((now() - begin).days)
    set_attributes({"phase": "pauses", "näme": "ö"})
    publish("progress", [1, 2])
    await asyncio.gather(ask(run_id, "pause"), ask(run_id, "mark"), echo(1))
    await echo(2)
    publish("progress", Approval(approved=True))
    remove_attributes("phase")
    return [*log, (now() - begin).seconds // 3600]


@app.workflow(name="unpauser")
async def unpauser(run_id: str) -> None:
    await sleep("1h")
    await ask(run_id, "unpause")


RUNS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "sequence": (sequence, (4,)),
    "typed": (typed, ([Item("anvil", Decimal("10.10")), Item("rope", Decimal(2))],)),
    "retries": (retries, ()),
    "deadlines": (deadlines, ()),
    "concurrent": (concurrent, ()),
    "chance": (chance, ()),
    "endless": (endless, (0,)),
    "fails": (fails, ()),
    "hooks": (hooks, ()),
    "children": (children, ()),
    "cancelled": (cancelled, ()),
    "terminated": (terminated, ()),
    "controlled": (controlled, ()),
}
