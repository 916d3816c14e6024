"""Where the steps of a batch run: all on one event loop, which the process keeps.

The messages of a batch are handled by a thread each, so that the calls to the store overlap. The steps among them run
as tasks of one loop, that of the thread that was invoked. So what a step keeps in a module's global, such as an
asynchronous HTTP client, is used from the same loop always, whatever the size of the batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Final, TypeVar

from everstep.runtime.execute import DEFAULT_THREADS, Threads
from everstep.runtime.handle import StepRunner

T = TypeVar("T")

MOST_AT_ONCE: Final = 64
"""Messages of a batch that are handled at once; the others wait for one of them to end."""


class BatchRunner(StepRunner):
    """As `StepRunner`, for several threads at once while `together` runs."""

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        loop = self._runner.get_loop()
        if loop.is_running():  # in the thread that called `together`
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result()
        return super().run(coroutine)

    def together(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Make the calls at once, each in a thread and in a context of its own; what they returned, in order."""
        if len(calls) == 1:
            return [copy_context().run(calls[0])]
        return self._runner.run(_together(calls), context=copy_context()) if calls else []

    def renew(self) -> int:
        """Between invocations: leave threads behind in which functions still run although their time was up.

        They cannot be stopped. With threads of its own, the next batch does not wait for them. Returns how many.
        """
        running = self.threads.running
        if running:
            self.threads.close()
            self.threads = Threads(DEFAULT_THREADS)
        return running


async def _together(calls: Sequence[Callable[[], T]]) -> list[T]:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(min(len(calls), MOST_AT_ONCE), thread_name_prefix="everstep-message") as executor:
        return await asyncio.gather(*(loop.run_in_executor(executor, copy_context().run, call) for call in calls))
