"""A run record as an item, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from everstep.backends.aws.blobs import S3Blobs
from everstep.backends.aws.items import PARTITION, RECORD, Item, Value, key, list_keys, n, number_in, s, text_in, valid
from everstep.backends.aws.items import parked_keys as index_keys
from everstep.codec.envelope import seal, unseal
from everstep.core.history import Micros
from everstep.core.run import Origin, Parent, Problem, RunRecord, RunStatus
from everstep.errors import SerializationError

INLINE: Final = 80_000
"""Bytes of one payload (input, result, error) that stay in the item. Three of them, 64 attributes and a problem are
below the 400 KB of an item. A change of the record is billed by the size of all of it, so a large one in S3 is cheaper
too: from 8 KB on."""
LONGEST_PROBLEM: Final = 10_000  # characters

_VERSION: Final = 1


def to_item(run: RunRecord, blobs: S3Blobs) -> Item:
    """The item. What has its usual value is left out: each KB costs."""
    item = key(run.run_id, RECORD) | list_keys(run.run_id, run.created_at)
    item["v"] = n(_VERSION)
    item["workflow"] = s(valid(run.workflow))
    item["input"] = payload(run.run_id, "input", run.input, blobs)
    item["created"] = n(run.created_at)
    if run.root_id != run.run_id:
        item["root"] = s(valid(run.root_id))
    if run.start_at != run.created_at:
        item["start"] = n(run.start_at)
    if run.attributes:
        item["attributes"] = attributes_value(run.attributes)
    if run.status is not RunStatus.PENDING:
        item["status"] = s(run.status.value)
    if run.started_at is not None:
        item["started"] = n(run.started_at)
    if run.completed_at is not None:
        item["completed"] = n(run.completed_at)
    item |= outcome(run.run_id, run.result, run.error, run.continued_to, blobs)
    if run.continued_from is not None:
        item["from"] = s(run.continued_from)
    if run.reason is not None:
        item["reason"] = s(valid(run.reason))
    if run.parent is not None:
        item["parent"] = s(_json([run.parent.run_id, valid(run.parent.workflow), run.parent.op]))
    if run.paused_at is not None:
        item["paused"] = n(run.paused_at)
    if run.origin is not None:
        item["origin"] = s(_json([run.origin.run_id, run.origin.turns]))
    if run.attributes_turn >= 0:
        item["attributes_turn"] = n(run.attributes_turn)
    if run.first_attributes is not None:
        item["first_attributes"] = attributes_value(run.first_attributes)
    if run.problem is not None:
        item["problem"] = problem_value(run.problem)
        if not run.closed:
            item |= index_keys(run.run_id, run.problem.at, run.problem.build)
    return item


def from_item(item: Mapping[str, Any], blobs: S3Blobs, started_at: Micros | None) -> RunRecord:
    """The record of an item.

    Args:
        started_at: the time of turn 0, if the run has one. Nothing is written when a run starts: that it is running,
            and since when, follows from turn 0.
    """
    item = dict(item)
    if (version := number_in(item, "v")) != _VERSION:
        raise SerializationError(
            f"stored run record has format {version}, which this version of Everstep does not know: it was written by "
            f"a newer version. Upgrade everstep in this process"
        )
    run_id = str(item["pk"]["S"]).removeprefix(PARTITION)
    created_at = int(item["created"]["N"])
    status = RunStatus(text_in(item, "status") or RunStatus.PENDING)
    started_at = number_in(item, "started") or started_at
    if status is RunStatus.PENDING and started_at is not None:
        status = RunStatus.RUNNING
    return RunRecord(
        run_id=run_id,
        root_id=text_in(item, "root") or run_id,
        workflow=str(item["workflow"]["S"]),
        input=_opened(item["input"], blobs),
        created_at=created_at,
        start_at=number_in(item, "start") or created_at,
        attributes=json.loads(text_in(item, "attributes") or "{}"),
        status=status,
        started_at=started_at,
        completed_at=number_in(item, "completed"),
        result=_opened_optional(item.get("result"), blobs),
        error=_opened_optional(item.get("error"), blobs),
        continued_from=text_in(item, "from"),
        continued_to=text_in(item, "to"),
        problem=_problem(text_in(item, "problem")),
        reason=text_in(item, "reason"),
        parent=_parent(text_in(item, "parent")),
        paused_at=number_in(item, "paused"),
        origin=_origin(text_in(item, "origin")),
        attributes_turn=int(item["attributes_turn"]["N"]) if "attributes_turn" in item else -1,
        first_attributes=json.loads(item["first_attributes"]["S"]) if "first_attributes" in item else None,
    )


def outcome(
    run_id: str, result: bytes | None, error: bytes | None, continued_to: str | None, blobs: S3Blobs
) -> dict[str, Value]:
    """The attributes that closing a run sets."""
    values: dict[str, Value] = {}
    if result is not None:
        values["result"] = payload(run_id, "result", result, blobs)
    if error is not None:
        values["error"] = payload(run_id, "error", error, blobs)
    if continued_to is not None:
        values["to"] = s(continued_to)
    return values


def payload(run_id: str, what: str, plain: bytes, blobs: S3Blobs) -> Value:
    return blobs.hold(run_id, what, seal(plain), inline=INLINE)


def attributes_value(attributes: Mapping[str, str]) -> Value:
    return s(_json({valid(name): valid(value) for name, value in attributes.items()}))


def _parent(text: str | None) -> Parent | None:
    if text is None:
        return None
    run_id, workflow, op = json.loads(text)
    return Parent(run_id=run_id, workflow=workflow, op=op)


def _origin(text: str | None) -> Origin | None:
    if text is None:
        return None
    run_id, turns = json.loads(text)
    return Origin(run_id=run_id, turns=turns)


def problem_value(problem: Problem) -> Value:
    message = problem.message
    if len(message) > LONGEST_PROBLEM:
        message = message[:LONGEST_PROBLEM] + " …"
    return s(_json([problem.code, valid(message), problem.turn, valid(problem.build), problem.at]))


def _problem(text: str | None) -> Problem | None:
    if text is None:
        return None
    code, message, turn, build, at = json.loads(text)
    return Problem(code=code, message=message, turn=turn, build=build, at=at)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _opened(value: Value, blobs: S3Blobs) -> bytes:
    return unseal(blobs.held(value))


def _opened_optional(value: Value | None, blobs: S3Blobs) -> bytes | None:
    return None if value is None else _opened(value, blobs)
