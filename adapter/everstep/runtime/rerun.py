"""Run again what ran before: from the beginning, or from a step on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from everstep.core.history import RunStep, Turn
from everstep.core.ids import ENTROPY_BYTES, new_run_id
from everstep.core.messages import StartRun, outgoing
from everstep.core.run import Origin, RunRecord, RunStatus
from everstep.errors import ConfigurationError, WorkflowRunNotFoundError
from everstep.ports import Backend, Clock

RERUN_ATTRIBUTE = "$rerunOf"
"""The attribute of a new run that names the run it repeats."""


def rerun(
    backend: Backend,
    clock: Clock,
    entropy: Callable[[int], bytes],
    run_id: str,
    *,
    from_step: int | str | None = None,
) -> RunRecord:
    """Start a new run with the input of another one.

    Args:
        from_step: keep what happened before this step: its operation's number, or its name (the first call of it).
            The new run's history begins with the old one's turns up to the one that asked for the step, which then runs
            again, and so does whatever else was under way at that time.

    Raises:
        WorkflowRunNotFoundError: there is no such run.
        ConfigurationError: with `from_step`: the run is not closed, or has no such step.
    """
    snapshot = backend.runs.load(run_id)
    if snapshot is None:
        raise WorkflowRunNotFoundError(run_id)
    old, now = snapshot.run, clock.now()
    kept = () if from_step is None else _kept(old, snapshot.turns, from_step)
    new_id = new_run_id(now, entropy(ENTROPY_BYTES))
    new = RunRecord(
        run_id=new_id,
        root_id=new_id,
        workflow=old.workflow,
        input=old.input,
        created_at=now,
        start_at=now,
        attributes={**_own(old.started_with), RERUN_ATTRIBUTE: old.run_id},
        origin=_origin(old, len(kept)) if kept else None,
    )
    # The turns come first: a run that is seen has all of its history. Without its record nobody looks at them.
    for turn in kept:
        backend.runs.append(new_id, replace(turn, nonce=f"rerun.{new_id}.{turn.number}"))
    # Then the message, which makes the record if need be, then the record: as for any start.
    with backend.unit():
        backend.queue.send([outgoing(StartRun(run=new), now, new.root_id, new.workflow)])
        backend.runs.create(new)
    return new


def _own(attributes: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in attributes.items() if not key.startswith("$")}


def _origin(old: RunRecord, turns: int) -> Origin:
    return Origin(run_id=old.run_id if old.origin is None else old.origin.run_id, turns=turns)


def _kept(run: RunRecord, turns: Iterable[Turn], from_step: int | str) -> tuple[Turn, ...]:
    if not run.closed or run.status is RunStatus.CONTINUED:
        raise ConfigurationError(
            f"run {run.run_id} is {run.shown_status}: only a run that has ended can be run again from a step"
        )
    kept: list[Turn] = []
    for turn in turns:
        kept.append(turn)
        for command in turn.commands:
            if isinstance(command, RunStep) and from_step in (command.op, command.name):
                return tuple(kept)
    raise ConfigurationError(
        f"run {run.run_id} has no step {from_step!r}: 'everstep inspect steps {run.run_id}' lists its steps"
    )
