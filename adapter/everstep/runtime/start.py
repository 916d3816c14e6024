"""Start a run, and wake a parked one (design 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from everstep.codec.problems import same_json
from everstep.core.durations import When, moment_after
from everstep.core.ids import ENTROPY_BYTES, derived_run_id, new_run_id
from everstep.core.limits import check_size
from everstep.core.messages import AdvanceRun, StartRun, outgoing
from everstep.core.run import RunRecord, Unparked
from everstep.errors import IdempotencyConflictError, WorkflowRunNotFoundError
from everstep.ports import Backend, Clock


def start_run(
    backend: Backend,
    clock: Clock,
    entropy: Callable[[int], bytes],
    *,
    workflow: str,
    data: bytes,
    attributes: Mapping[str, str],
    idempotency_key: str | None = None,
    start_at: When | None = None,
) -> RunRecord:
    """Create a run and send what starts it: the message first, then the record; either alone is enough.

    With an idempotency key that is in use, the run that has it is returned, or `IdempotencyConflictError` raised.
    """
    check_size(data, f"the input of workflow {workflow!r}")
    now = clock.now()
    if idempotency_key is None:
        run_id = new_run_id(now, entropy(ENTROPY_BYTES))
    else:
        run_id = derived_run_id("key", idempotency_key)
        existing = backend.inspector.get_run(run_id)
        if existing is not None:
            return _same(existing, idempotency_key, workflow, data)
    run = RunRecord(
        run_id=run_id,
        root_id=run_id,
        workflow=workflow,
        input=data,
        created_at=now,
        start_at=now if start_at is None else max(now, moment_after(start_at, now)),
        attributes=attributes,
    )
    message = StartRun(run=run)
    with backend.unit():
        backend.queue.send([outgoing(message, run.start_at, run.root_id, workflow)])
        created = backend.runs.create(run)
    if not created and idempotency_key is not None:  # another start with the same key came between
        snapshot = backend.runs.load(run_id, first_turn=1 << 40)
        if snapshot is not None:
            return _same(snapshot.run, idempotency_key, workflow, data)
    return run


def _same(existing: RunRecord, key: str, workflow: str, data: bytes) -> RunRecord:
    if existing.workflow != workflow:
        raise IdempotencyConflictError(key, existing.run_id, "workflow")
    if not same_json(existing.input, data):
        raise IdempotencyConflictError(key, existing.run_id, "input")
    return existing


def resume_run(backend: Backend, clock: Clock, run_id: str, cause: str) -> RunRecord:
    """Try a run again with the present code, and ask again for all it waits for."""
    run = backend.inspector.get_run(run_id)
    if run is None:
        raise WorkflowRunNotFoundError(run_id)
    if not run.closed:
        now = clock.now()
        message = AdvanceRun(run_id=run_id, cause=cause, recover=True)
        with backend.unit():
            backend.queue.send([outgoing(message, now, run.root_id, run.workflow)])
            backend.runs.mark(run_id, Unparked())
    return run
