"""The reference: plain asyncio with virtual time, where a step is a coroutine that takes its time and returns."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Awaitable, Generator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from tests.properties.language import RETRY_SECONDS, Interpreter, Node


class Coincidence(Exception):
    """Two timers are due at the same instant: what comes first is nobody's promise."""


class _NeverWaits(selectors.SelectSelector):
    """A selector that lets virtual time pass instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise AssertionError("nothing will ever happen: the interpreter's own time limit should have been pending")
        self.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _NeverWaits()
        super().__init__(self._virtual)
        self._clock_resolution = 1e-7
        self.set_exception_handler(lambda loop, context: None)
        self._instants: set[int] = set()
        self.coincidence = False

    def time(self) -> float:
        return round(self._virtual.now, 6)

    def call_at(self, when: float, *args: Any, **options: Any) -> asyncio.TimerHandle:  # type: ignore[override]
        instant = round(when * 1_000_000)
        self.coincidence = self.coincidence or instant in self._instants
        self._instants.add(instant)
        return super().call_at(when, *args, **options)


class _Next:
    """Each time it is awaited, the next payload."""

    def __init__(self, waiting: asyncio.Queue[int]) -> None:
        self._waiting = waiting

    def __await__(self) -> Generator[Any, None, int]:
        return self._waiting.get().__await__()


class PlainPlatform:
    async def step(self, kind: str, number: int, ms: int) -> int:
        await asyncio.sleep(ms / 1000)
        if kind == "fail":
            raise ValueError(f"step {number}")
        if kind == "flaky":
            await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(ms / 1000)
        return number

    def sleep(self, seconds: float) -> Awaitable[None]:
        return asyncio.sleep(seconds)

    @asynccontextmanager
    async def hook(self, payloads: list[tuple[int, int]]) -> AsyncIterator[Awaitable[int]]:
        waiting: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for ms, payload in payloads:
            loop.call_later(ms / 1000, waiting.put_nowait, payload)
        yield _Next(waiting)

    async def child(self, tree: Node) -> Any:
        """A task that is not waited for when it is cancelled; what it does then is of no interest here."""
        task = asyncio.create_task(Interpreter(PlainPlatform()).run(tree))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            raise

    def as_completed(self, aws: list[Any]) -> Iterable[Awaitable[Any]]:
        return asyncio.as_completed([asyncio.ensure_future(each) for each in aws])


def run_plain(tree: Node) -> str:
    """The program's outcome and trace. `Coincidence` where they are not determined."""
    loop = VirtualLoop()

    async def main() -> str:
        return await Interpreter(PlainPlatform()).main(tree)

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        found = runner.run(main())
    if loop.coincidence:
        raise Coincidence
    return found
