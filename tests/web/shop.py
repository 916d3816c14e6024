"""The app that the tests of the HTTP API serve."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from everstep import (
    BaseHook,
    FatalError,
    RetryPolicy,
    WebhookRequest,
    WebhookResponse,
    Workflows,
    continue_as_new,
    create_hook,
    create_webhook,
    get_step_metadata,
    get_writable,
    publish,
    sleep,
)

wf = Workflows()
AT_ONCE = RetryPolicy(first_delay=0)


@dataclass
class Permission(BaseHook):
    approved: bool
    by: str = "somebody"


class Parcel(BaseModel):
    weight: float
    to: str


@wf.workflow
async def order(item: str, count: int = 1, when: datetime | None = None) -> dict[str, Any]:
    """Packs what was ordered."""
    return await pack(item, count)


@wf.step(timeout="30s")
async def pack(item: str, count: int) -> dict[str, Any]:
    return {"item": item, "count": count}


@wf.workflow
async def ship(parcel: Parcel, *, express: bool = False) -> Parcel:
    return parcel


@wf.workflow
async def refuse() -> None:
    raise ValueError("no such shelf")


@wf.workflow
async def nap(seconds: float = 86_400) -> str:
    await sleep(seconds)
    return "rested"


@wf.workflow
async def tidy() -> None:
    try:
        await sleep("10d")
    except asyncio.CancelledError:
        await pack("broom", 1)
        raise


@wf.workflow
async def again(left: int) -> int:
    if left:
        continue_as_new(left - 1)
    return left


@wf.workflow
async def flaky() -> int:
    return await third_time()


@wf.step(retry=AT_ONCE)
async def third_time() -> int:
    if get_step_metadata().attempt < 3:
        raise OSError("the line is busy")
    return 3


@wf.workflow
async def waits(token: str, anything: bool = False) -> list[Any]:
    """Takes two payloads."""
    hook = create_hook(token=token) if anything else Permission.wait(token=token, metadata={"for": token})
    taken = [await hook, await hook]
    return [asdict(each) if isinstance(each, Permission) else each for each in taken]


@wf.workflow
async def parent(number: int) -> int:
    return sum(await asyncio.gather(*(child(each) for each in range(number))))


@wf.workflow
async def child(number: int) -> int:
    return number


@wf.workflow
async def notified(answer: WebhookResponse | None = None, requests: int = 1) -> list[WebhookRequest]:
    hook = create_webhook(respond_with=answer)
    publish("url", hook.url)
    return [await hook for _ in range(requests)]


@wf.workflow
async def asked(how: str = "json", twice: bool = False) -> str:
    """Answers its caller in a step."""
    hook = create_webhook(respond_with="manual")
    publish("url", hook.url)
    request = await hook
    if how == "nothing":
        return "gone"
    await (reply_sync(request) if how == "sync" else reply(request, how))
    if twice:
        try:
            await reply(request, "text")
        except FatalError as error:
            return str(error)
    return "answered"


@wf.step(retry=AT_ONCE)
async def reply(request: WebhookRequest, how: str) -> None:
    match how:
        case "json":
            await request.respond_with(WebhookResponse.json({"echo": request.text()}, status=201, headers={"X-A": "b"}))
        case "text":
            await request.respond_with(WebhookResponse.text("second"))
        case "large":
            await request.respond_with(WebhookResponse(body=bytes(range(256)) * 20_000))
        case "retry":
            if get_step_metadata().attempt == 1:
                raise OSError("the line is busy")
            await request.respond_with(WebhookResponse.text(f"attempt {get_step_metadata().attempt}"))
        case _:
            raise AssertionError(how)


@wf.step
def reply_sync(request: WebhookRequest) -> None:
    request.respond_with_sync(WebhookResponse.text("from a thread"))


@wf.workflow
async def report(lines: int, pause: float = 0.0, *, fails: int = 0, close: bool = False) -> None:
    await write(lines, pause, fails, close)


@wf.step(retry=AT_ONCE, max_retries=5)
async def write(lines: int, pause: float, fails: int, close: bool) -> None:
    """Writes a line at a time; in its first attempts it fails half-way."""
    attempt = get_step_metadata().attempt
    out = get_writable(on_retry="discard" if fails else "keep")
    for number in range(lines):
        if attempt <= fails and number == lines // 2:
            await out.drain()
            raise OSError("the pen broke")
        await out.write({"line": number, "attempt": attempt, "text": "zwölf\r\nboxing\u2028wizards\n"})
        if pause:
            await out.drain()
            await asyncio.sleep(pause)
    if close:
        await out.close()


@wf.workflow
async def raw(chunks: int) -> None:
    await write_raw(chunks)


@wf.step
async def write_raw(chunks: int) -> None:
    async with get_writable(type=bytes, namespace="raw") as out:
        for number in range(chunks):
            await out.write(bytes([number, 10, 13, 0, 255]))


@wf.workflow
async def huge(size: int) -> str:
    return await fill(size)


@wf.step
async def fill(size: int) -> str:
    return "x" * size
