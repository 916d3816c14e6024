"""A map that tolerates failures, as a user writes it: tasks under a semaphore."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Batch:
    """What came of each item that was begun, by its index.

    Attributes:
        reason: ``completed``: all items were begun. ``enough`` of them succeeded, or ``too many failures``.
    """

    results: dict[int, Any] = field(default_factory=dict)
    errors: dict[int, Exception] = field(default_factory=dict)
    reason: str = "completed"

    @property
    def in_order(self) -> list[Any]:
        """The results in the order of the items; raises the first error there is."""
        for index in sorted(self.errors):
            raise self.errors[index]
        return [self.results[index] for index in sorted(self.results)]

    @property
    def counts(self) -> tuple[str, int, int]:
        return self.reason, len(self.results), len(self.errors)


async def each(
    function: Callable[[Any, int], Awaitable[Any]],
    items: Sequence[Any],
    *,
    at_once: int = 1,
    tolerated: int | None = None,
    tolerated_share: float | None = None,
    enough: int | None = None,
) -> Batch:
    """Call the function with each item and its index.

    Args:
        tolerated: how many may fail before no more are begun; by default all may.
        tolerated_share: the same, as a share of all items.
        enough: how many are to succeed before no more are begun.
    """
    batch = Batch()
    gate = asyncio.Semaphore(at_once)
    limits = [
        limit
        for limit in (tolerated, None if tolerated_share is None else tolerated_share * len(items))
        if limit is not None
    ]

    async def one(index: int, item: Any) -> None:
        async with gate:
            if batch.reason != "completed":
                return
            try:
                batch.results[index] = await function(item, index)
            except Exception as error:
                batch.errors[index] = error
            if any(len(batch.errors) > limit for limit in limits):
                batch.reason = "too many failures"
            elif enough is not None and len(batch.results) >= enough:
                batch.reason = "enough"

    await asyncio.gather(*(one(index, item) for index, item in enumerate(items)))
    return batch
