"""Records of the core as what the API answers with."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Final, assert_never

from everstep.codec.failures import describe_error
from everstep.core.durations import to_datetime
from everstep.core.history import Micros
from everstep.core.run import RunRecord, RunStatus
from everstep.core.timeline import ChildView, HookView, OperationView, StepView, TimerView
from everstep.errors import SerializationError
from everstep.ports import HookClaim
from everstep.runtime.dispatch import PARENT_ATTRIBUTE
from everstep.web import models
from everstep.webhooks import WEBHOOK_PATH

LARGEST_SHOWN: Final = 256 * 1024
"""Bytes of a payload that is shown among others."""
PAGE_BYTES: Final = 1024 * 1024
"""Of payloads on one page; the next turn or operation is on the next one."""
MOST_BYTES: Final = 3 * 1024 * 1024
"""Of payloads on one page, also where a single turn has more."""


class Payloads:
    """Shows the payloads of one page, and counts their bytes."""

    def __init__(self) -> None:
        self.size = 0

    @property
    def full(self) -> bool:
        """Whether what follows belongs on the next page."""
        return self.size >= PAGE_BYTES

    def show(self, data: bytes | None) -> Any:
        """A payload in its stored form. Looking must not fail: one that cannot be read is text."""
        if data is None:
            return None
        if len(data) > LARGEST_SHOWN or self.size + len(data) > MOST_BYTES:
            return {"$omitted": len(data)}
        self.size += len(data)
        return value_of(data)


def value_of(data: bytes) -> Any:
    """A stored payload as parsed JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace")


def time_of(moment: Micros) -> datetime:
    return to_datetime(moment)


def time_or_none(moment: Micros | None) -> datetime | None:
    return None if moment is None else to_datetime(moment)


def error_of(data: bytes) -> models.Error:
    """What was raised, without the stack trace."""
    try:
        view = describe_error(data)
    except SerializationError:
        return models.Error(type="SerializationError", message="The stored error cannot be read.")
    return models.Error(type=view.type.replace(":", "."), message=view.message)


def error_or_none(data: bytes | None) -> models.Error | None:
    return None if data is None else error_of(data)


# --- runs --------------------------------------------------------------------------------------------


def run_of(run: RunRecord, *, chained: bool = False) -> models.Run:
    """A run.

    Args:
        chained: for who asks about a whole chain of continuations, which is *running* until its last run ends.
    """
    return models.Run(
        run_id=run.run_id,
        root_id=run.root_id,
        parent_run_id=run.attributes.get(PARENT_ATTRIBUTE),
        workflow=run.workflow,
        status=chained_status(run) if chained else run.shown_status,
        attributes=dict(run.attributes),
        created_at=time_of(run.created_at),
        start_at=time_of(run.start_at),
        started_at=time_or_none(run.started_at),
        completed_at=time_or_none(run.completed_at),
        paused_at=None if run.closed else time_or_none(run.paused_at),
        reason=run.reason,
        error=error_or_none(run.error),
        problem=_problem(run),
        continued_from=run.continued_from,
        continued_to=run.continued_to,
    )


def outcome_json(run: RunRecord) -> bytes:
    """A run's outcome, or how it stands, as `models.Outcome`. The result is passed on as it was stored, not parsed."""
    outcome = models.Outcome(run_id=run.run_id, status=chained_status(run))
    if run.status is RunStatus.FAILED:
        outcome.error = error_or_none(run.error)
    elif run.status is RunStatus.CANCELLED:
        outcome.reason = run.reason
    elif (problem := _problem(run)) is not None:
        outcome.problem = problem
    written = outcome.model_dump_json(exclude_unset=True).encode()
    if run.status is RunStatus.COMPLETED:
        return b'%b,"result":%b}' % (written[:-1], run.result or b"null")
    return written


def chained_status(run: RunRecord) -> RunStatus:
    """A run that goes on as another is still running, for those who ask about its end."""
    return RunStatus.RUNNING if run.status is RunStatus.CONTINUED else run.shown_status


def _problem(run: RunRecord) -> models.Parked | None:
    """Why a run is parked. The message of an internal error is a stack trace, and stays here."""
    problem = run.problem
    if run.closed or problem is None:
        return None
    internal = problem.code == "internal"
    return models.Parked(
        code=problem.code,
        message="See the log, or 'everstep inspect run'." if internal else problem.message,
        turn=problem.turn if problem.turn >= 0 else None,
        build=problem.build,
        at=time_of(problem.at),
    )


# --- operations --------------------------------------------------------------------------------------


def operation_of(view: OperationView, payloads: Payloads, public_url: str) -> models.Operation:
    """An operation of a run."""
    common: dict[str, Any] = {
        "op": view.op,
        "turn": view.turn,
        "asked_at": time_of(view.asked_at),
        "ended_at": time_or_none(view.ended_at),
        "state": view.state,
    }
    match view:
        case StepView():
            return models.StepCall(
                **common,
                name=view.name,
                attempt=view.attempt,
                failed_attempts=[
                    models.Attempt(
                        attempt=each.attempt,
                        started_at=time_of(each.started_at),
                        ended_at=time_of(each.ended_at),
                        retry_at=time_of(each.retry_at),
                        error=error_of(each.error),
                    )
                    for each in view.failures
                ],
                retry_at=time_or_none(view.retry_at),
                input=payloads.show(view.input),
                result=payloads.show(view.result),
                error=error_or_none(view.error),
            )
        case TimerView():
            return models.Timer(**common, due=time_of(view.due), sleep=view.sleep)
        case HookView():
            return models.OpenedHook(
                **common,
                kind="webhook" if view.webhook else "hook",
                token=view.token,
                url=webhook_url(public_url, view.token) if view.webhook else None,
                payload=view.kind or None,
                metadata=payloads.show(view.metadata),
                received=view.received,
                held_by=view.holder,
            )
        case ChildView():
            return models.ChildRun(
                **common,
                workflow=view.workflow,
                run_id=view.run_id,
                input=payloads.show(view.input),
                result=payloads.show(view.result),
                error=error_or_none(view.error),
            )
        case _:
            assert_never(view)


# --- hooks -------------------------------------------------------------------------------------------


def hook_of(claim: HookClaim, public_url: str, payload_schema: dict[str, Any] | None) -> models.Hook:
    """An open hook."""
    return models.Hook(
        token=claim.token,
        run_id=claim.run_id,
        workflow=claim.workflow,
        payload=claim.kind or None,
        payload_schema=payload_schema,
        webhook=claim.webhook,
        url=webhook_url(public_url, claim.token) if claim.webhook else None,
        metadata=None if claim.metadata is None else value_of(claim.metadata),
        opened_at=time_of(claim.opened_at),
    )


def webhook_url(public_url: str, token: str) -> str:
    """Where requests to a webhook are sent; without a public URL, from the root of the server."""
    return f"{public_url.rstrip('/')}{WEBHOOK_PATH}{token}"
