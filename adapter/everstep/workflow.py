"""What a workflow body uses besides steps: durable time, replayable chance, and facts about itself."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any, NoReturn, TypeVar

from everstep.core.durations import When, moment_after, to_datetime
from everstep.core.operations import ContinueAsNew
from everstep.core.replay import Replay
from everstep.errors import ContextError
from everstep.runtime.execute import CURRENT_STEP, StepInfo

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowInfo:
    """About the current run. ``started_at`` is None within a step."""

    run_id: str
    workflow_name: str
    started_at: datetime | None


def _run(call: str) -> Replay:
    run = Replay.current()
    if run is None:
        raise ContextError(f"{call} belongs in a workflow body; it was called outside of one")
    return run


async def sleep(duration: When) -> None:
    """Wait, durably: nothing runs meanwhile, and a restart or a deploy does not matter.

    Args:
        duration: seconds, a `timedelta`, text such as ``"1h 30m"``, or a `datetime` with a time zone.
            What is already past does not wait.

    Raises:
        ContextError: outside a workflow body; use `asyncio.sleep` there.
    """
    run = Replay.current()
    if run is None:
        raise ContextError("everstep.sleep belongs in a workflow body; in a step or elsewhere use asyncio.sleep")
    loop = run.loop
    due = moment_after(duration, loop.now)
    if due <= loop.now:
        await asyncio.sleep(0)
        return
    waiter = loop.create_future()
    timer = loop.call_at_micros(due, _wake, waiter)
    try:
        await waiter
    finally:
        timer.cancel()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def now() -> datetime:
    """The time of the present turn, in UTC: the same on every replay."""
    return to_datetime(_run("now()").loop.now)


def time_ns() -> int:
    """The time of the present turn in nanoseconds since the epoch: the same on every replay. Whole microseconds."""
    return _run("time_ns()").loop.now * 1000


def random() -> Random:
    """The run's random numbers, the same on every replay. Not for secrets: they follow from the run's id."""
    return _run("random()").random


def uuid4() -> uuid.UUID:
    """A random UUID, the same on every replay. Not for secrets."""
    return uuid.UUID(int=_run("uuid4()").random.getrandbits(128), version=4)


def continue_as_new(*args: Any, **kwargs: Any) -> NoReturn:
    """End this run and go on as a new one of the same workflow with these arguments and an empty history.

    For loops without an end. Call it in the workflow's own body (not in a task of it); handles of the run follow
    the chain: `Run.return_value` waits for the last of it.
    """
    if not _run("continue_as_new()").in_own_task():
        raise ContextError(
            "continue_as_new() belongs in the workflow's own body, and was called in a task that it made"
        )
    raise ContinueAsNew(args, kwargs)


def as_completed(aws: Iterable[Awaitable[T]], *, timeout: float | None = None) -> Iterator[Awaitable[T]]:
    """As `asyncio.as_completed`, but begins its tasks in the order given.

    The standard one puts bare coroutines into a set, whose order depends on memory addresses and does not replay.
    """
    futures = [asyncio.ensure_future(awaitable) for awaitable in aws]
    return asyncio.as_completed(futures, timeout=timeout)


def get_workflow_metadata() -> WorkflowInfo:
    """About the current run, in a workflow body or in a step."""
    run = Replay.current()
    if run is not None:
        return WorkflowInfo(
            run_id=run.info.run_id, workflow_name=run.info.workflow, started_at=to_datetime(run.started_at)
        )
    step = CURRENT_STEP.get(None)
    if step is None:
        raise ContextError("get_workflow_metadata() belongs in a workflow body or in a step")
    info, workflow_name = step
    return WorkflowInfo(run_id=info.run_id, workflow_name=workflow_name, started_at=None)


def get_step_metadata() -> StepInfo:
    """About the running step: its id (an idempotency key), its attempt, its run."""
    if Replay.current() is not None:
        raise ContextError("get_step_metadata() belongs in a step; a workflow body has get_workflow_metadata()")
    step = CURRENT_STEP.get(None)
    if step is None:
        raise ContextError("get_step_metadata() belongs in a step that a workflow runs; it was called outside of one")
    return step[0]
