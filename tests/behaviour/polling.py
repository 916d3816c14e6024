"""Durable polling, as a user writes it: a step that looks, a sleep, and again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from everstep import sleep


class GaveUpError(Exception):
    """The state was not reached."""


async def until(
    check: Callable[[Any], Awaitable[Any]],
    state: Any,
    *,
    reached: Callable[[Any], bool],
    every: float = 1,
    attempts: int | None = None,
) -> Any:
    """Let the check make a new state of the last one until it is one that was wanted; that state."""
    made = 1
    while not reached(state := await check(state)):
        if made == attempts:
            raise GaveUpError(f"not reached in {attempts} attempts")
        made += 1
        await sleep(every)
    return state
