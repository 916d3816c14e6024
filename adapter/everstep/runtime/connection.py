"""A process's connection to a backend: what programs outside workflows go through."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Final

from everstep.core.durations import When
from everstep.core.run import RunRecord, RunStatus
from everstep.errors import WorkflowRunNotFoundError
from everstep.ports import Backend, Clock
from everstep.runtime import guard
from everstep.runtime.engine import Engine
from everstep.runtime.progress import Observer
from everstep.runtime.registry import Registry
from everstep.runtime.start import resume_run, start_run

FIRST_POLL_SECONDS: Final = 0.01
LAST_POLL_SECONDS: Final = 0.25


class Connection:
    """A backend, with the time and the chance that go with it.

    Args:
        step_forward: where nobody else works on the messages (tests), does some of the work, or says that there is
            nothing to do until something arrives from outside.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        *,
        entropy: Callable[[int], bytes],
        chance: Callable[[], float],
        step_forward: Callable[[], bool] | None = None,
    ) -> None:
        self.backend = backend
        self.clock = clock
        self.entropy = entropy
        self.chance = chance
        self.step_forward = step_forward
        self._listeners: list[Callable[[], None]] = []
        self._changed = threading.Condition()
        self._waiters: list[Callable[[], None]] = []

    def engine(self, registry: Registry, *, verify: bool = False, observe: Observer | None = None) -> Engine:
        """An engine for an app on this connection."""
        guard.install()
        return Engine(
            registry=registry,
            backend=self.backend,
            clock=self.clock,
            entropy=self.entropy,
            chance=self.chance,
            verify=verify,
            observe=observe,
        )

    # --- runs ------------------------------------------------------------------------------------

    def start(
        self,
        workflow: str,
        data: bytes,
        *,
        attributes: Mapping[str, str],
        idempotency_key: str | None = None,
        start_at: When | None = None,
    ) -> RunRecord:
        """Start a run; durable when it returns."""
        run = start_run(
            self.backend,
            self.clock,
            self.entropy,
            workflow=workflow,
            data=data,
            attributes=attributes,
            idempotency_key=idempotency_key,
            start_at=start_at,
        )
        self.sent()
        return run

    def resume(self, run_id: str) -> RunRecord:
        """Try a parked run again."""
        run = resume_run(self.backend, self.clock, run_id, f"resume.{self.entropy(8).hex()}")
        self.sent()
        return run

    def find(self, run_id: str) -> RunRecord | None:
        """The run as it is now; where it went on as another, that one."""
        run = self.backend.inspector.get_run(run_id)
        while run is not None and run.status is RunStatus.CONTINUED and run.continued_to is not None:
            successor = self.backend.inspector.get_run(run.continued_to)
            if successor is None:  # its message is on its way
                break
            run = successor
        return run

    def get(self, run_id: str) -> RunRecord:
        """As `find`; `WorkflowRunNotFoundError` when there is none."""
        run = self.find(run_id)
        if run is None:
            raise WorkflowRunNotFoundError(run_id)
        return run

    # --- being told ------------------------------------------------------------------------------

    def on_sent(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call the listener whenever this process has sent a message; returns what takes it off."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def sent(self) -> None:
        for listener in tuple(self._listeners):
            listener()

    def on_closed(self, waiter: Callable[[], None]) -> Callable[[], None]:
        """Call the waiter whenever a run was closed or parked by this process; returns what takes it off."""
        self._waiters.append(waiter)
        return lambda: self._waiters.remove(waiter)

    def closed(self, _run_id: str) -> None:
        for waiter in tuple(self._waiters):
            waiter()

    def close(self) -> None:
        self.backend.close()


def at_rest(run: RunRecord) -> bool:
    """Whether the run will not move by itself any more: it is closed, or parked."""
    return (run.closed and run.status is not RunStatus.CONTINUED) or (run.problem is not None and not run.closed)
