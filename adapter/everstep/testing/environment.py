"""Run an app's workflows in this process, in memory, with time that skips to whatever is due next."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from contextvars import copy_context
from datetime import datetime
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

from everstep.app import Workflow, Workflows
from everstep.assembly import use_connection
from everstep.backends.memory import open_memory
from everstep.client import Run, start_sync
from everstep.core.durations import to_datetime
from everstep.core.history import Micros, StartTimer
from everstep.core.recorded import outstanding
from everstep.errors import SerializationError
from everstep.hooks import HookInfo, hook_info
from everstep.ports import Backend, Unreadable
from everstep.runtime import guard
from everstep.runtime.connection import Connection, at_rest
from everstep.runtime.handle import StepRunner, handle
from everstep.runtime.progress import Observer
from everstep.testing.clock import VirtualClock
from everstep.testing.history import History

P = ParamSpec("P")
R = TypeVar("R")


def _outside_loop(function: Callable[[], R]) -> R:
    """Call it where no event loop is running: in an async test, in a thread that is waited for."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return function()
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(copy_context().run, function).result()


WORKER: Final = "test-worker"
FOREVER: Final[Micros] = 1 << 62


class WorkflowEnvironment(AbstractContextManager["WorkflowEnvironment"]):
    """An app on an in-memory backend.

    ::

        with WorkflowEnvironment(app) as env:
            assert env.run(trial, "ada") == ...          # two weeks, in milliseconds

    Within the block `start` and `get_run` use it too, also in async tests. One message is handled at a time, as a
    short-lived invocation would; nothing happens but when somebody waits, or calls `step` or `run_until_idle`.

    Args:
        verify: replay every run from scratch after each turn, and park what does not replay.
        seed: of everything random, so that a test repeats.
        backend: another backend than a fresh in-memory one.
        observe: told of progress.
    """

    def __init__(
        self,
        app: Workflows,
        *,
        verify: bool = True,
        seed: int = 0,
        backend: Backend | None = None,
        clock: VirtualClock | None = None,
        observe: Observer | None = None,
    ) -> None:
        guard.install()
        self.app = app
        self.clock = clock or VirtualClock()
        chance = random.Random(seed)
        self.connection = Connection(
            backend or open_memory(atomic_units=True),
            self.clock,
            entropy=chance.randbytes,
            chance=chance.random,
            step_forward=self.step,
        )
        self.engine = self.connection.engine(app, verify=verify, observe=observe)
        self._runner = StepRunner()
        self._lock = threading.RLock()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(use_connection(self.connection))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._stack.close()
        self.close()

    def close(self) -> None:
        """Throw away what is running."""
        _outside_loop(self._close)

    def _close(self) -> None:
        self.engine.live.clear()
        self._runner.close()
        self.connection.close()

    def run(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Start a run, work until it ends, and return what it returned. Raises as `Run.return_value` does."""
        return self.start(workflow, *args, **kwargs).wait()

    def start(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """Start a run; nothing of it happens yet."""
        with use_connection(self.connection):
            return start_sync(workflow, *args, **kwargs)

    def step(self) -> bool:
        """Handle one message, skipping time to it if need be. False when there is none."""
        return _outside_loop(self._step)

    def _step(self) -> bool:
        with self._lock:
            source = self.engine.backend.source
            source.register(WORKER, until=FOREVER)
            deliveries = source.receive(WORKER, limit=1, now=self.clock.now())
            if not deliveries:
                due = source.next_due()
                if due is None:
                    return False
                self.clock.set(max(due, self.clock.now()))
                deliveries = source.receive(WORKER, limit=1, now=self.clock.now())
            for delivery in deliveries:
                if isinstance(delivery.message, Unreadable):
                    raise SerializationError(delivery.message.reason)
                with use_connection(self.connection):
                    handle(
                        self.engine,
                        delivery.message,
                        self._runner,
                        root_id=delivery.root_id,
                        receives=delivery.receives,
                    )
                source.acknowledge([delivery.message_id])
            return bool(deliveries)

    def run_until_idle(self, stop: Callable[[], bool] | None = None) -> int:
        """Handle messages until there are none (or `stop` says so); how many it were."""
        handled = 0
        while not (stop is not None and stop()) and self.step():
            handled += 1
        return handled

    def run_until_closed(self, run: Run[Any]) -> None:
        """Handle messages until the run is closed or parked."""
        self.run_until_idle(lambda: at_rest(self.connection.get(run.run_id)))

    def wait_for_hook(self, run: Run[Any], *, token: str | None = None) -> HookInfo:
        """Handle messages until the run has an open hook, the oldest or the one with this token; what to resume.

        Raises:
            LookupError: it will have none without something else happening first.
        """

        def find() -> HookInfo | None:
            for op, held in outstanding(self.history(self._newest(run)).turns).hooks.items():
                claim = self.connection.backend.hooks.find(held) if token in (None, held) else None
                if claim is not None and (claim.run_id, claim.op) == (self._newest(run), op):
                    return hook_info(claim)
            return None

        return self._wait_for(run, find, "hook" if token is None else f"hook with the token {token!r}")

    def wait_for_sleep(self, run: Run[Any]) -> datetime:
        """Handle messages until the run sleeps; when its first sleep is over. `Run.wake_up` ends it sooner.

        Raises:
            LookupError: it will not sleep without something else happening first.
        """

        def find() -> datetime | None:
            turns = self.history(self._newest(run)).turns
            waiting = outstanding(turns).timers
            asked = (command for turn in turns for command in turn.commands if isinstance(command, StartTimer))
            due = [timer.due for timer in asked if timer.sleep and timer.op in waiting]
            return to_datetime(min(due)) if due else None

        return self._wait_for(run, find, "sleep")

    def _wait_for(self, run: Run[Any], find: Callable[[], R | None], what: str) -> R:
        while (found := find()) is None:
            record = self.connection.get(run.run_id)
            if at_rest(record) or not self.step():
                reason = "" if record.problem is None else f": {record.problem.message}"
                raise LookupError(
                    f"run {run.run_id} has no {what}, and nothing is left to do: it is {record.shown_status}{reason}"
                )
        return found

    def _newest(self, run: Run[Any]) -> str:
        return self.connection.get(run.run_id).run_id

    def history(self, run: Run[Any] | str) -> History:
        """The history of a run as it is now."""
        return History.read(self.connection.backend, run if isinstance(run, str) else run.run_id)
