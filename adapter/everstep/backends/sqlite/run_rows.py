"""Run records as rows."""

from __future__ import annotations

import json
from typing import Final

from everstep.backends.sqlite.connection import Row
from everstep.codec.envelope import seal, unseal
from everstep.core.run import Origin, Parent, Problem, RunRecord, RunStatus

COLUMNS: Final = (
    "run_id, root_id, workflow, input, created_at, start_at, attributes, status, started_at, completed_at, "
    "result, error, continued_from, continued_to, problem, problem_at, problem_build, "
    "reason, parent, paused_at, origin, attributes_turn, first_attributes"
)


def to_row(run: RunRecord) -> Row:
    """The values of `COLUMNS`."""
    return (
        run.run_id,
        run.root_id,
        run.workflow,
        seal(run.input),
        run.created_at,
        run.start_at,
        json.dumps(dict(run.attributes)) if run.attributes else "{}",
        run.status.value,
        run.started_at,
        run.completed_at,
        seal_optional(run.result),
        seal_optional(run.error),
        run.continued_from,
        run.continued_to,
        *problem_columns(run.problem),
        run.reason,
        None if run.parent is None else json.dumps([run.parent.run_id, run.parent.workflow, run.parent.op]),
        run.paused_at,
        None if run.origin is None else json.dumps([run.origin.run_id, run.origin.turns]),
        run.attributes_turn,
        None if run.first_attributes is None else json.dumps(dict(run.first_attributes)),
    )


def from_row(row: Row) -> RunRecord:
    """The record whose `COLUMNS` these are."""
    (
        run_id, root_id, workflow, input_, created_at, start_at, attributes, status, started_at, completed_at,
        result, error, continued_from, continued_to, problem, problem_at, problem_build,
        reason, parent, paused_at, origin, attributes_turn, first_attributes,
    ) = row  # fmt: skip
    return RunRecord(
        run_id=run_id,
        root_id=root_id,
        workflow=workflow,
        input=unseal(input_),
        created_at=created_at,
        start_at=start_at,
        attributes={} if attributes == "{}" else json.loads(attributes),
        status=RunStatus(status),
        started_at=started_at,
        completed_at=completed_at,
        result=None if result is None else unseal(result),
        error=None if error is None else unseal(error),
        continued_from=continued_from,
        continued_to=continued_to,
        problem=None if problem is None else _problem(problem, problem_at, problem_build),
        reason=reason,
        parent=None if parent is None else _parent(parent),
        paused_at=paused_at,
        origin=None if origin is None else _origin(origin),
        attributes_turn=attributes_turn,
        first_attributes=None if first_attributes is None else json.loads(first_attributes),
    )


def _parent(text: str) -> Parent:
    run_id, workflow, op = json.loads(text)
    return Parent(run_id=run_id, workflow=workflow, op=op)


def _origin(text: str) -> Origin:
    run_id, turns = json.loads(text)
    return Origin(run_id=run_id, turns=turns)


def problem_columns(problem: Problem | None) -> tuple[str | None, int | None, str | None]:
    """The three columns of a problem. The text is ASCII, because messages may quote file names that are not Unicode."""
    if problem is None:
        return None, None, None
    return json.dumps([problem.code, problem.message, problem.turn]), problem.at, problem.build


def _problem(problem: str, at: int, build: str) -> Problem:
    code, message, turn = json.loads(problem)
    return Problem(code=code, message=message, turn=turn, build=build, at=at)


def seal_optional(payload: bytes | None) -> bytes | None:
    return None if payload is None else seal(payload)
