"""Runs, operations and turns as JSON, for programs. Pure.

The names of the fields are a promise: they are documented in docs/reference/cli.md. New ones may be added.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, TypeAlias

from everstep.cli.text import iso_text
from everstep.codec.failures import ErrorView, describe_error
from everstep.core.history import Command, Event, Micros, Turn
from everstep.core.run import RunRecord
from everstep.core.timeline import ChildView, HookView, OperationView, TimerView
from everstep.errors import SerializationError

JsonObject: TypeAlias = dict[str, Any]


# --- values ----------------------------------------------------------------------------------------


def value_json(data: bytes | None) -> Any:
    """A stored value as JSON. What cannot be read is shown as text: looking must not fail."""
    if data is None:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace")


def time_json(moment: Micros | None) -> str | None:
    return None if moment is None else iso_text(moment)


def error_view(data: bytes | None) -> ErrorView | None:
    """A stored error, or one that says that it cannot be read."""
    if data is None:
        return None
    try:
        return describe_error(data)
    except SerializationError as error:
        return ErrorView(type="SerializationError", message=str(error), traceback="", cause=None, notes=())


def error_json(data: bytes | None) -> JsonObject | None:
    view = error_view(data)
    return None if view is None else _error_json(view)


def _error_json(view: ErrorView) -> JsonObject:
    return {
        "type": type_name(view),
        "message": view.message,
        "traceback": view.traceback,
        "notes": list(view.notes),
        "cause": None if view.cause is None else _error_json(view.cause),
    }


def type_name(view: ErrorView) -> str:
    """``ValueError``, ``shop.errors.CardDeclined``."""
    return view.type.replace(":", ".")


# --- records ---------------------------------------------------------------------------------------


def run_json(run: RunRecord, *, payloads: bool = True) -> JsonObject:
    """A run. Without `payloads`, as in lists, input and result are left out."""
    problem = run.problem if not run.closed else None
    found: JsonObject = {
        "run_id": run.run_id,
        "root_id": run.root_id,
        "workflow": run.workflow,
        "status": str(run.shown_status),
        "attributes": dict(run.attributes),
        "created_at": time_json(run.created_at),
        "start_at": time_json(run.start_at),
        "started_at": time_json(run.started_at),
        "completed_at": time_json(run.completed_at),
        "continued_from": run.continued_from,
        "continued_to": run.continued_to,
        "error": error_json(run.error),
        "problem": None
        if problem is None
        else {
            "code": problem.code,
            "message": problem.message,
            "turn": problem.turn if problem.turn >= 0 else None,
            "build": problem.build,
            "at": time_json(problem.at),
        },
    }
    if payloads:
        found["input"] = value_json(run.input)
        found["result"] = value_json(run.result)
    return found


def operation_json(view: OperationView) -> JsonObject:
    if isinstance(view, TimerView):
        return {
            "op": view.op,
            "kind": "timer",
            "state": str(view.state),
            "turn": view.turn,
            "asked_at": time_json(view.asked_at),
            "due": time_json(view.due),
            "sleep": view.sleep,
            "ended_at": time_json(view.ended_at),
        }
    if isinstance(view, HookView):
        return {
            "op": view.op,
            "kind": "webhook" if view.webhook else "hook",
            "state": str(view.state),
            "turn": view.turn,
            "asked_at": time_json(view.asked_at),
            "token": view.token,
            "payload": view.kind or None,
            "metadata": value_json(view.metadata),
            "received": view.received,
            "held_by": view.holder,
            "ended_at": time_json(view.ended_at),
        }
    if isinstance(view, ChildView):
        return {
            "op": view.op,
            "kind": "child",
            "workflow": view.workflow,
            "run_id": view.run_id,
            "state": str(view.state),
            "turn": view.turn,
            "asked_at": time_json(view.asked_at),
            "input": value_json(view.input),
            "result": value_json(view.result),
            "error": error_json(view.error),
            "ended_at": time_json(view.ended_at),
        }
    return {
        "op": view.op,
        "kind": "step",
        "name": view.name,
        "state": str(view.state),
        "turn": view.turn,
        "asked_at": time_json(view.asked_at),
        "ended_at": time_json(view.ended_at),
        "attempt": view.attempt,
        "failed_attempts": [
            {
                "attempt": each.attempt,
                "started_at": time_json(each.started_at),
                "ended_at": time_json(each.ended_at),
                "retry_at": time_json(each.retry_at),
                "error": error_json(each.error),
            }
            for each in view.failures
        ],
        "retry_at": time_json(view.retry_at),
        "input": value_json(view.input),
        "result": value_json(view.result),
        "error": error_json(view.error),
    }


def turn_json(turn: Turn) -> JsonObject:
    return {
        "turn": turn.number,
        "at": time_json(turn.at),
        "build": turn.build,
        "events": [_record_json(event) for event in turn.events],
        "commands": [_record_json(command) for command in turn.commands],
    }


def _record_json(record: Event | Command) -> JsonObject:
    found: JsonObject = {"type": type(record).__name__}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        match field.name:
            case "error":
                value = error_json(value)
            case "input" | "result" | "payload" | "value" | "metadata" | "answer":
                value = value_json(value)
            case "due" | "start_at":
                value = time_json(value)
        found[field.name] = value
    return found
