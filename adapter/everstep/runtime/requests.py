"""What people and programs ask of runs: payloads for hooks, to end, to pause, to wake up (design 4.6).

A request is an event in the run's inbox and a message that makes somebody look there. It is durable when the call
returns, and takes effect with the run's next turn. The message comes after the deposit, and is always sent: whoever
made an earlier deposit may have died before its own.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from everstep.core.history import (
    AttributesRequested,
    CancelRequested,
    Event,
    HookReceived,
    Micros,
    PauseRequested,
    TerminateRequested,
    UnpauseRequested,
    WakeUpRequested,
    event_key,
)
from everstep.core.limits import check_size
from everstep.core.messages import AdvanceRun, outgoing
from everstep.core.run import RunRecord
from everstep.errors import ConfigurationError, HookNotFoundError, WorkflowRunNotFoundError
from everstep.ports import Backend, Clock, HookClaim
from everstep.runtime.deliver import entry_of

MAX_REASON: Final = 512
"""Characters of the reason of a cancellation."""
MAX_REQUEST_KEY: Final = 256
"""Characters of the id of a request."""

Request = (
    CancelRequested | TerminateRequested | WakeUpRequested | PauseRequested | UnpauseRequested | AttributesRequested
)


def request(backend: Backend, clock: Clock, run_id: str, event: Request, *, nonce: str) -> RunRecord:
    """Ask the run; its record as it was before. A closed run is left as it is; one that goes on as another asks that.

    Args:
        nonce: unique to this call.

    Raises:
        WorkflowRunNotFoundError: there is no such run.
    """
    run = backend.inspector.get_run(run_id)
    if run is None:
        raise WorkflowRunNotFoundError(run_id)
    if not run.closed:
        _deposit(backend, clock.now(), run.run_id, run.root_id, run.workflow, event, nonce)
    elif run.continued_to is not None:
        _deposit(backend, clock.now(), run.continued_to, run.root_id, run.workflow, event, nonce)
    return run


def resume_hook(backend: Backend, clock: Clock, token: str, payload: bytes, *, resume_id: str, nonce: str) -> HookClaim:
    """Send a payload to whoever waits under this token; the hook. The same `resume_id` counts once for a run and token.

    Args:
        nonce: unique to this call.

    Raises:
        HookNotFoundError: nobody does.
    """
    check_size(payload, "the payload of a hook")
    check_request_key(resume_id, "a resume id")
    with backend.unit():
        hook = backend.hooks.find(token)
        if hook is None:
            raise HookNotFoundError(token)
        key = f"{blake2b(token.encode('utf-8', 'backslashreplace'), digest_size=8).hexdigest()}.{resume_id}"
        event = HookReceived(op=hook.op, key=key, payload=payload, nonce=nonce)
        _deposit(backend, clock.now(), hook.run_id, hook.root_id, hook.workflow, event, nonce)
    return hook


def check_reason(reason: str | None) -> str | None:
    """The reason, if it is one that can be kept."""
    if reason is not None and not isinstance(reason, str):
        raise TypeError(f"the reason of a cancellation is text, not {type(reason).__name__}")
    if reason is not None and len(reason) > MAX_REASON:
        raise ConfigurationError(f"the reason has {len(reason)} characters; {MAX_REASON} are allowed")
    return reason


def check_request_key(key: str, what: str) -> str:
    """The key, if it is one that can be kept."""
    if not isinstance(key, str) or not 1 <= len(key) <= MAX_REQUEST_KEY or not key.isprintable():
        raise ConfigurationError(f"{what} has 1 to {MAX_REQUEST_KEY} printable characters; {key!r:.80} has not")
    return key


def _deposit(backend: Backend, now: Micros, run_id: str, root_id: str, workflow: str, event: Event, nonce: str) -> None:
    """Each call sends a message of its own: one that an earlier call has sent may be about to be acknowledged."""
    with backend.unit():
        backend.inbox.deposit(run_id, entry_of(event))
        message = AdvanceRun(run_id=run_id, cause=f"{event_key(event)}/{nonce}")
        backend.queue.send([outgoing(message, now, root_id, workflow)])
