"""What the API answers with. The names of the fields are a promise; new ones may be added."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

from everstep.codec.failures import describe_error
from everstep.core.durations import to_datetime
from everstep.core.history import Micros
from everstep.core.run import RunRecord, RunStatus
from everstep.errors import SerializationError

JsonObject: TypeAlias = dict[str, Any]


def run_shape(run: RunRecord) -> JsonObject:
    """A run, without its payloads."""
    return {
        "run_id": run.run_id,
        "workflow": run.workflow,
        "status": shown_status(run),
        "attributes": dict(run.attributes),
        "created_at": _time(run.created_at),
        "start_at": _time(run.start_at),
        "started_at": _time(run.started_at),
        "completed_at": _time(run.completed_at),
        "problem": _problem(run),
    }


def outcome_json(run: RunRecord) -> bytes:
    """A run's outcome, or how it stands. The result is passed on as it was stored, and not parsed."""
    shape: JsonObject = {"run_id": run.run_id, "status": shown_status(run)}
    if run.status is RunStatus.FAILED:
        shape["error"] = _error(run.error)
    elif not run.closed:
        shape["problem"] = _problem(run)
    written = json.dumps(shape).encode()
    if run.status is RunStatus.COMPLETED:
        return b'%b, "result": %b}' % (written[:-1], run.result or b"null")
    return written


def shown_status(run: RunRecord) -> str:
    """A run that goes on as another is still running, for those who ask."""
    return str(RunStatus.RUNNING if run.status is RunStatus.CONTINUED else run.shown_status)


def _problem(run: RunRecord) -> JsonObject | None:
    """Why a run is parked. The message of an internal error is a stack trace, and stays here."""
    if run.closed or run.problem is None:
        return None
    internal = run.problem.code == "internal"
    return {
        "code": run.problem.code,
        "message": "See the log, or 'everstep inspect run'." if internal else run.problem.message,
        "at": _time(run.problem.at),
    }


def _error(data: bytes | None) -> JsonObject | None:
    """What a workflow raised, without the stack trace."""
    if data is None:
        return None
    try:
        view = describe_error(data)
    except SerializationError:
        return {"type": "SerializationError", "message": "The stored error cannot be read."}
    return {"type": view.type, "message": view.message}


def _time(moment: Micros | None) -> str | None:
    return None if moment is None else to_datetime(moment).isoformat().replace("+00:00", "Z")
