"""A process's connection to a backend: what programs outside workflows go through."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Final

from everstep.core.attributes import changed, check_changes, check_number
from everstep.core.durations import When
from everstep.core.history import (
    AttributesRequested,
    CancelRequested,
    PauseRequested,
    TerminateRequested,
    UnpauseRequested,
    WakeUpRequested,
)
from everstep.core.run import RunRecord, RunStatus
from everstep.errors import HookNotFoundError, WorkflowRunNotFoundError
from everstep.ports import Backend, Clock, HookClaim
from everstep.runtime import guard
from everstep.runtime.engine import Engine
from everstep.runtime.progress import Observer
from everstep.runtime.registry import Registry
from everstep.runtime.requests import Request, check_reason, request, resume_hook
from everstep.runtime.rerun import rerun
from everstep.runtime.start import resume_run, start_run
from everstep.runtime.stream_reading import ChunkPage, read_chunks

FIRST_POLL_SECONDS: Final = 0.01
LAST_POLL_SECONDS: Final = 0.25


class Connection:
    """A backend, with the time and the chance that go with it.

    Args:
        step_forward: where nobody else works on the messages (tests), does some of the work, or says that there is
            nothing to do until something arrives from outside.
        public_url: where the HTTP API can be reached from outside, for the addresses of webhooks.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        *,
        entropy: Callable[[int], bytes],
        chance: Callable[[], float],
        step_forward: Callable[[], bool] | None = None,
        public_url: str = "",
    ) -> None:
        self.backend = backend
        self.clock = clock
        self.entropy = entropy
        self.chance = chance
        self.step_forward = step_forward
        self.public_url = public_url
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
            public_url=self.public_url,
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

    def rerun(self, run_id: str, *, from_step: int | str | None = None) -> RunRecord:
        """Start a new run with the input of another one, from its beginning or from a step on."""
        run = rerun(self.backend, self.clock, self.entropy, run_id, from_step=from_step)
        self.sent()
        return run

    def cancel(self, run_id: str, reason: str | None = None) -> RunRecord:
        """Ask the run to end: its body is cancelled, and may clean up."""
        return self._request(run_id, CancelRequested(reason=check_reason(reason), nonce=self._request_key()))

    def terminate(self, run_id: str, reason: str | None = None) -> RunRecord:
        """End the run without asking its body."""
        return self._request(run_id, TerminateRequested(reason=check_reason(reason)))

    def wake_up(self, run_id: str) -> RunRecord:
        """End the run's sleeps now."""
        return self._request(run_id, WakeUpRequested(key=self._request_key()))

    def pause(self, run_id: str) -> RunRecord:
        """Deliver nothing to the run's body until it is unpaused."""
        return self._request(run_id, PauseRequested(key=self._request_key()))

    def unpause(self, run_id: str) -> RunRecord:
        """Deliver what has arrived since the run was paused, and go on."""
        return self._request(run_id, UnpauseRequested(key=self._request_key()))

    def set_attributes(self, run_id: str, changes: Mapping[str, str | None]) -> RunRecord:
        """Change attributes of the run; None removes one."""
        checked = check_changes(changes)
        run = self.backend.inspector.get_run(run_id)
        if run is not None:
            check_number(changed(run.attributes, checked))
        return self._request(run_id, AttributesRequested(key=self._request_key(), changes=checked))

    def _request(self, run_id: str, event: Request) -> RunRecord:
        run = request(self.backend, self.clock, run_id, event, nonce=self._request_key())
        self.sent()
        return run

    def _request_key(self) -> str:
        return self.entropy(8).hex()

    # --- hooks -----------------------------------------------------------------------------------

    def find_hook(self, token: str) -> HookClaim:
        """The hook that waits under this token; `HookNotFoundError` when there is none."""
        hook = self.backend.hooks.find(token)
        if hook is None:
            raise HookNotFoundError(token)
        return hook

    def resume_hook(self, token: str, payload: bytes, *, resume_id: str | None = None) -> HookClaim:
        """Send a payload to whoever waits under this token; durable when it returns."""
        nonce = self._request_key()
        key = nonce if resume_id is None else resume_id
        hook = resume_hook(self.backend, self.clock, token, payload, resume_id=key, nonce=nonce)
        self.sent()
        return hook

    def published(self, run_id: str) -> Mapping[str, bytes]:
        """The named values the run has published; where it went on as another, those of that one."""
        return self.backend.inspector.published(self.get(run_id).run_id)

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

    # --- streams ---------------------------------------------------------------------------------

    def read_chunks(
        self, run_id: str, name: str, start: int = 0, limit: int = 100, *, after: str | None = None
    ) -> ChunkPage:
        """A page of a stream: see `runtime.stream_reading.read_chunks`."""
        return read_chunks(self.backend, run_id, name, start=start, after=after, limit=limit)


def at_rest(run: RunRecord) -> bool:
    """Whether the run will not move by itself any more: it is closed, or parked."""
    return (run.closed and run.status is not RunStatus.CONTINUED) or (run.problem is not None and not run.closed)
