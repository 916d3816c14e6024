"""What a workflow body uses besides steps: durable time, replayable chance, and facts about itself."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from datetime import datetime
from functools import lru_cache
from random import Random
from typing import Any, Final, NoReturn, TypeVar

from everstep.codec.typed import ValueCodec
from everstep.core.attributes import check_changes
from everstep.core.durations import When, moment_after, to_datetime
from everstep.core.loop import WAKE_SLEEPER
from everstep.core.operations import ContinueAsNew
from everstep.core.replay import Replay
from everstep.errors import ConfigurationError, ContextError, SerializationError
from everstep.runtime.execute import CANCELLED, CURRENT_STEP, StepInfo

T = TypeVar("T")

MAX_PUBLISHED: Final = 64
"""Names of published values in a run."""
MAX_PUBLISHED_NAME: Final = 128
MAX_PUBLISHED_BYTES: Final = 64 * 1024

_PUBLISHED: Final = "a published value"


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
    timer = loop.call_at_micros(due, WAKE_SLEEPER, waiter, None)
    try:
        await waiter
    finally:
        timer.cancel()


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


def set_attributes(changes: Mapping[str, str | None] | None = None, /, **attributes: str | None) -> None:
    """Set attributes of the run, by which people find it; None removes one.

    Args:
        changes: for keys that are no Python names. Both forms may be given.

    Raises:
        AttributeValidationError: a limit is broken, or a key is reserved. Nothing is set.
        ContextError: outside a workflow body; there `Run.set_attributes` does it, in a step too.
    """
    _run("set_attributes()").set_attributes(check_changes({**(changes or {}), **attributes}))


def remove_attributes(*keys: str) -> None:
    """Remove attributes of the run. Those it does not have are no error."""
    _run("remove_attributes()").set_attributes(check_changes(dict.fromkeys(keys)))


def publish(name: str, value: object, *, type: Any = Any) -> None:
    """Let anybody read a value by its name at once (`Run.query`), without waking the run. It replaces an earlier one.

    Args:
        name: 1 to 128 printable characters; a run has at most 64 names.
        value: anything that can be stored, up to 64 KiB as JSON. What is larger belongs into a stream.
        type: the annotation that says how it is stored, such as ``list[Progress]``. An object of a dataclass or a
            pydantic model needs none.
    """
    run = _run("publish()")
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_PUBLISHED_NAME or not name.isprintable():
        raise ConfigurationError(
            f"the name of a published value has 1 to 128 printable characters; {name!r:.80} has not"
        )
    if name not in run.published and len(run.published) >= MAX_PUBLISHED:
        raise ConfigurationError(f"a run publishes at most {MAX_PUBLISHED} names, and {name!r} would be one more")
    with run.loop.trusting:
        data = _codec_for(value, type).encode(value)
    if len(data) > MAX_PUBLISHED_BYTES:
        raise SerializationError(
            f"the value published as {name!r} is {len(data):,} bytes as JSON, more than {MAX_PUBLISHED_BYTES:,}: "
            f"publish a summary, and write the rest to a stream"
        )
    run.publish(name, data)


def _codec_for(value: object, annotation: Any) -> ValueCodec:
    if annotation is Any and (is_dataclass(value) or hasattr(value, "__pydantic_serializer__")):
        annotation = value.__class__
    try:
        return _codec_of(annotation)
    except TypeError:  # an annotation that has no hash
        return ValueCodec(annotation, _PUBLISHED)


@lru_cache(maxsize=256)
def _codec_of(annotation: Any) -> ValueCodec:
    return ValueCodec(annotation, _PUBLISHED)


def cancellation_requested() -> bool:
    """In a cancellable step: whether nobody waits for it any more, so that it should end.

    An ``async def`` step need not ask, it sees `asyncio.CancelledError`. False in a step that is not cancellable.
    """
    if CURRENT_STEP.get(None) is None:
        raise ContextError("cancellation_requested() belongs in a step that a workflow runs")
    cancelled = CANCELLED.get(None)
    return cancelled is not None and cancelled.is_set()


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
