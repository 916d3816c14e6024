"""A small language of workflow bodies: random programs, and one interpreter for plain asyncio and for Everstep alike.

A program is a tree of JSON lists ``[kind, number, …]``; the number is the node's own, from 1 in reading order. Every
duration is whole milliseconds and follows from node number and size class, spread so widely that no two timers of a
program are due at the same instant (`plain` tells when they are, and the program is left out).

The interpreter keeps a trace: when what began, ended, failed or was cancelled, in virtual milliseconds since the start.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count, groupby
from typing import Any, Final, Protocol

from hypothesis import strategies as st

Node = list[Any]
LIMIT_SECONDS: Final = 5_000_000
"""The whole program is cut off then, so that one that waits for an event nobody sets ends, too."""

RETRY_SECONDS: Final = 0.777


class Platform(Protocol):
    """What differs between plain asyncio and a workflow."""

    def step(self, kind: str, number: int, ms: int) -> Awaitable[int]: ...
    def sleep(self, seconds: float) -> Awaitable[None]: ...
    def as_completed(self, aws: list[Any]) -> Iterable[Awaitable[Any]]: ...
    def hook(self, payloads: list[tuple[int, int]]) -> AbstractAsyncContextManager[Awaitable[int]]:
        """An open hook to which somebody sends: so many milliseconds later, this payload."""

    def child(self, tree: Node) -> Awaitable[Any]:
        """The tree in a run of its own."""


# --- programs ----------------------------------------------------------------------------------------

SIZES: Final = {"short": 1_000, "medium": 30_000, "long": 900_000}

LEAVES: Final = (
    *(["step"] * 8),
    *(["sleep"] * 4),
    *(["pipeline"] * 2),
    *(["hook"] * 3),
    *(["put"] * 2),
    *(["set"] * 2),
    *("get", "wait_set", "value", "raise"),
)
BRANCHES: Final = (
    "sequence",
    "sequence",
    "gather",
    "gather",
    "group",
    "group",
    "as_completed",
    "wait",
    "wait",
    "limit",
    "limit",
    "try",
    "try",
    "finally",
    "on_cancel",
    "with",
    "with",
    "spawn",
    "spawn",
    "shield",
    "child",
)
STEPS: Final = ("work", "work", "work", "thread", "fail", "flaky")
WHEN: Final = ("FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED")


@st.composite
def _trees(draw: st.DrawFn, depth: int) -> Node:
    """A node that is at most so deep."""

    def one_of(choices: Any) -> Any:
        return draw(st.sampled_from(choices))

    def inner(deep: int = depth - 1) -> Node:
        return draw(_trees(deep))

    def several() -> list[Node]:
        return [inner() for _ in range(draw(st.integers(1, 4)))]

    size = list(SIZES)
    match one_of(LEAVES if depth <= 0 else BRANCHES * 2 + LEAVES):
        case "step":
            return ["step", one_of(STEPS), one_of(size)]
        case "sleep":
            return ["sleep", one_of(["everstep", "asyncio"]), one_of(size)]
        case "pipeline":
            return ["pipeline", draw(st.integers(1, 3)), one_of(size), draw(st.integers(0, 1))]
        case "hook":
            sizes = tuple(one_of(size) for _ in range(draw(st.integers(1, 4))))  # a list would be taken for a node
            return ["hook", sizes, draw(st.integers(1, len(sizes))), draw(st.booleans())]
        case "child":
            return ["child", one_of(size), inner()]
        case "sequence" | "group" | "as_completed" as kind:
            return [kind, several()]
        case "gather":
            return ["gather", several(), draw(st.booleans())]
        case "wait":
            return ["wait", several(), one_of(WHEN), one_of([*size, None])]
        case "limit":
            return ["limit", inner(), one_of(size), one_of(["timeout", "wait_for"])]
        case "try" | "shield" as kind:
            return [kind, inner()]
        case "finally" | "on_cancel" as kind:
            return [kind, inner(), ["step", "work", one_of(size)] if draw(st.booleans()) else ["value"]]
        case "with":
            return ["with", one_of(["one", "two", "lock"]), inner()]
        case "spawn":
            return ["spawn", inner(), inner(), one_of(["await", "cancel", "leave"])]
        case leaf:
            return [leaf]


@st.composite
def _programs(draw: st.DrawFn) -> Node:
    """Several trees, at once or one after the other."""
    parts = [["try", draw(_trees(3))] for _ in range(draw(st.integers(2, 4)))]
    kind = draw(st.sampled_from(["gather", "group", "sequence"]))
    return _numbered([kind, parts, True] if kind == "gather" else [kind, parts], count(1))


def _numbered(tree: Node, numbers: Iterator[int]) -> Node:
    """The tree with a number in second place of each node."""

    def inside(part: Any) -> Any:
        if isinstance(part, list) and part and isinstance(part[0], str):
            return _numbered(part, numbers)
        return [inside(each) for each in part] if isinstance(part, (list, tuple)) else part

    number = next(numbers)
    return [tree[0], number, *(inside(part) for part in tree[1:])]


programs: Final = _programs()


def ms_of(number: int, size: str, salt: int = 0) -> int:
    """The milliseconds of a duration: the same for the same node."""
    return random.Random(number * 1_000 + salt).randrange(SIZES[size] // 20, SIZES[size] * 2)


# --- running them ------------------------------------------------------------------------------------


def describe(error: BaseException) -> str:
    """An exception's type and message; of a group, what it holds, in no particular order."""
    if isinstance(error, BaseExceptionGroup):
        return f"{type(error).__name__}({', '.join(sorted(describe(each) for each in error.exceptions))})"
    return f"{type(error).__name__}: {error}"


@dataclass
class Interpreter:
    """Runs one program. Made inside the loop it runs on."""

    platform: Platform
    trace: list[tuple[int, int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = asyncio.get_running_loop().time()
        self.places: dict[str, Any] = {"one": asyncio.Semaphore(1), "two": asyncio.Semaphore(2), "lock": asyncio.Lock()}
        self.items: asyncio.Queue[int] = asyncio.Queue(maxsize=1)
        self.flag = asyncio.Event()
        self.left: list[asyncio.Task[Any]] = []

    async def main(self, tree: Node) -> str:
        """The outcome and the trace, as JSON."""
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                outcome = ["returned", await self.run(tree)]
        except (Exception, asyncio.CancelledError) as error:  # a child that was cancelled cancels who gathers it
            outcome = ["raised", describe(error)]
        self.note(0, "over")
        return json.dumps({"outcome": outcome, "trace": self.trace})

    def note(self, number: int, what: str) -> None:
        elapsed = asyncio.get_running_loop().time() - self.began
        self.trace.append((round(elapsed * 1000), number, what))

    async def run(self, node: Node) -> Any:
        kind, number, *parts = node
        self.note(number, f"{kind} begins")
        try:
            value = await getattr(self, f"do_{kind}")(number, *parts)
        except asyncio.CancelledError:
            self.note(number, "cancelled")
            raise
        except Exception as error:
            self.note(number, describe(error))
            raise
        self.note(number, "ends")
        return value

    # --- leaves

    async def do_step(self, number: int, kind: str, size: str) -> int:
        return await self.platform.step(kind, number, ms_of(number, size))

    async def do_sleep(self, number: int, kind: str, size: str) -> None:
        seconds = ms_of(number, size) / 1000
        await (self.platform.sleep(seconds) if kind == "everstep" else asyncio.sleep(seconds))

    async def do_value(self, number: int) -> int:
        await asyncio.sleep(0)
        return number

    async def do_raise(self, number: int) -> None:
        raise LookupError(f"node {number}")

    async def do_hook(self, number: int, sizes: list[str], wanted: int, at_once: bool) -> list[int]:
        """Wait for so many payloads, one after the other or by as many tasks; what comes later is dropped."""
        payloads = [(ms_of(number, size, 30 + each), number * 100 + each) for each, size in enumerate(sizes)]

        async def take() -> int:
            payload = await hook
            self.note(number, f"payload {payload}")
            return payload

        async with self.platform.hook(payloads) as hook:
            if at_once:
                return list(await asyncio.gather(*(take() for _ in range(wanted))))
            return [await take() for _ in range(wanted)]

    async def do_child(self, number: int, size: str, node: Node) -> Any:
        return await self.platform.child(["sequence", number, [["sleep", number, "everstep", size], node]])

    async def do_put(self, number: int) -> None:
        await self.items.put(number)

    async def do_get(self, number: int) -> int:
        return await self.items.get()

    async def do_set(self, number: int) -> None:
        self.flag.set()

    async def do_wait_set(self, number: int) -> None:
        await self.flag.wait()

    # --- one after the other

    async def do_sequence(self, number: int, nodes: list[Node]) -> list[Any]:
        return [await self.run(node) for node in nodes]

    async def do_try(self, number: int, node: Node) -> Any:
        try:
            return await self.run(node)
        except Exception as error:
            return describe(error)

    async def do_finally(self, number: int, node: Node, cleanup: Node) -> Any:
        try:
            return await self.run(node)
        finally:
            await self.run(cleanup)

    async def do_on_cancel(self, number: int, node: Node, cleanup: Node) -> Any:
        try:
            return await self.run(node)
        except asyncio.CancelledError:
            await self.run(cleanup)
            raise

    async def do_with(self, number: int, place: str, node: Node) -> Any:
        async with self.places[place]:
            self.note(number, "has its place")
            return await self.run(node)

    async def do_limit(self, number: int, node: Node, size: str, form: str) -> Any:
        seconds = ms_of(number, size) / 1000
        if form == "wait_for":
            return await asyncio.wait_for(self.run(node), seconds)
        async with asyncio.timeout(seconds):
            return await self.run(node)

    # --- at once

    async def do_gather(self, number: int, nodes: list[Node], return_exceptions: bool) -> list[Any]:
        found = await asyncio.gather(*(self.run(node) for node in nodes), return_exceptions=return_exceptions)
        return [describe(each) if isinstance(each, BaseException) else each for each in found]

    async def do_group(self, number: int, nodes: list[Node]) -> list[Any]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.run(node)) for node in nodes]
        return [task.result() for task in tasks]

    async def do_as_completed(self, number: int, nodes: list[Node]) -> list[Any]:
        found = []
        for completed in self.platform.as_completed([self.run(node) for node in nodes]):
            try:
                found.append(await completed)
            except Exception as error:
                found.append(describe(error))
        return found

    async def do_wait(self, number: int, nodes: list[Node], when: str, size: str | None) -> list[Any]:
        tasks = [asyncio.create_task(self.run(node)) for node in nodes]
        done, pending = await asyncio.wait(
            tasks, return_when=when, timeout=None if size is None else ms_of(number, size) / 1000
        )
        waited = [position for position, task in enumerate(tasks) if task in done]
        for task in tasks:
            if task in pending:
                task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        return [waited, [describe(each) if isinstance(each, BaseException) else each for each in ended]]

    async def do_spawn(self, number: int, node: Node, meanwhile: Node, then: str) -> Any:
        task = asyncio.create_task(self.run(node))
        self.left.append(task)
        first = await self.run(meanwhile)
        if then == "leave":
            return first
        if then == "cancel":
            self.note(number, f"cancels: {task.cancel()}")
        ended = await asyncio.gather(task, return_exceptions=True)
        return [first, *(describe(each) if isinstance(each, BaseException) else each for each in ended)]

    async def do_shield(self, number: int, node: Node) -> Any:
        return await asyncio.shield(self.run(node))

    async def do_pipeline(self, number: int, length: int, size: str, room: int) -> list[int]:
        """A producer and a consumer over a queue of their own."""
        items: asyncio.Queue[int | None] = asyncio.Queue(maxsize=room)
        seen: list[int] = []

        async def produce() -> None:
            for item in range(length):
                await items.put(await self.platform.step("work", item, ms_of(number, size, 10 + item)))
            await items.put(None)

        async def consume() -> None:
            while (item := await items.get()) is not None:
                seen.append(await self.platform.step("work", item + 100, ms_of(number, size, 20 + item)))
                self.note(number, f"item {item}")

        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            group.create_task(consume())
        return seen


# --- comparing ---------------------------------------------------------------------------------------


def comparable(found: str) -> dict[str, Any]:
    """Outcome and trace; cancellations of one instant are in no promised order.

    `TaskGroup` cancels its tasks in the order of a set, which plain asyncio takes from memory addresses.
    """
    document = json.loads(found)
    trace: list[Any] = []
    for _, entries in groupby(document["trace"], key=lambda entry: entry[0]):
        instant = list(entries)
        trace.append(sorted(instant) if any(what == "cancelled" for _, _, what in instant) else instant)
    return {"outcome": document["outcome"], "trace": trace}


Run = Callable[[Node], str]
