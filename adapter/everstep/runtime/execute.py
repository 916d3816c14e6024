"""Run one attempt of a step (design 4.4)."""

from __future__ import annotations

import asyncio
import inspect
import threading
import zlib
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

from everstep.codec.failures import encode_error
from everstep.core.durations import to_datetime
from everstep.core.history import Micros, StepCompleted, StepFailed
from everstep.core.limits import check_size
from everstep.core.messages import ExecuteStep, Outgoing, outgoing
from everstep.core.retry import RetryAt, after_failure
from everstep.core.streams import Source
from everstep.errors import (
    SerializationError,
    StepCancelledError,
    StepInterruptedError,
    StepNotRegisteredError,
    StepTimeoutError,
    StoreError,
)
from everstep.ports import FailedAttempt
from everstep.runtime.engine import Engine
from everstep.runtime.registry import StepProgram
from everstep.runtime.streams import CURRENT_STREAMS, AttemptStreams

DEFAULT_THREADS: Final = 16
STORING_THREADS: Final = 4
MAX_RECEIVES: Final = 10
"""How often a message may be received without an outcome, where each is handled by a process of its own."""
SUSPECT_RECEIVES: Final = 3
"""After how many receives a message is suspected to kill the workers that handle it, and handled one at a time."""
MAX_DEATHS: Final = 5
"""How often what is handled one at a time may kill its worker before it is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
    """About the running step.

    Attributes:
        run_id: the run it belongs to.
        step_id: stable over attempts and replays, unique to this call: use it as an idempotency key.
        step_name: its registered name.
        attempt: from 1.
        step_started_at: when the first attempt was asked for.
    """

    run_id: str
    step_id: str
    step_name: str
    attempt: int
    step_started_at: datetime


CANCEL_POLL_SECONDS: Final = 0.5
"""How often a cancellable step looks whether anybody still waits for it."""

CANCELLED: Final[ContextVar[threading.Event]] = ContextVar("everstep_cancelled")
"""Set when nobody waits for the running step any more. Of cancellable steps only."""

CURRENT_STEP: Final[ContextVar[tuple[StepInfo, str]]] = ContextVar("everstep_step")
"""The running step, and the name of its workflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """The attempt returned."""

    result: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The attempt raised. ``retry_at`` is None when it was the last."""

    error: bytes
    retry_at: Micros | None
    started_at: Micros
    ended_at: Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrunnable:
    """This code cannot run the step; the run is to be parked."""

    code: str
    reason: str


Outcome: TypeAlias = Succeeded | Failed | Unrunnable


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLeft:
    """How long a process that ends by itself still has for an attempt.

    Attributes:
        seconds: none are left when it is 0 or less.
        reason: what ends the process, for the error: "the function's timeout of 60 s".
    """

    seconds: float
    reason: str


def step_id(run_id: str, op: int) -> str:
    """The id of a step call."""
    return f"step_{run_id.removeprefix('wrun_')}_{op}"


def next_attempt(message: ExecuteStep, failed: Failed, root_id: str) -> tuple[FailedAttempt, Outgoing]:
    """What a failed attempt that will be retried leaves: a line in the step log, and the next attempt's message."""
    if failed.retry_at is None:
        raise ValueError("the attempt was the last")
    attempt = FailedAttempt(
        op=message.op,
        attempt=message.attempt,
        started_at=failed.started_at,
        ended_at=failed.ended_at,
        error=failed.error,
        retry_at=failed.retry_at,
    )
    again = ExecuteStep(
        run_id=message.run_id,
        workflow=message.workflow,
        op=message.op,
        name=message.name,
        attempt=message.attempt + 1,
        input=message.input,
        sole=message.sole,
        first_at=message.first_at,
    )
    return attempt, outgoing(again, failed.retry_at, root_id, message.workflow)


def still_wanted(engine: Engine, message: ExecuteStep) -> bool:
    """Whether the step's outcome is not recorded yet: the question a redelivered message asks first."""
    snapshot = engine.backend.runs.load(message.run_id)
    if snapshot is None or snapshot.run.closed:
        return False
    events = [event for turn in snapshot.turns for event in turn.events] + [entry.event for entry in snapshot.inbox]
    return not any(isinstance(event, (StepCompleted, StepFailed)) and event.op == message.op for event in events)


class Threads:
    """Where ``def`` steps run, so many at once. The time of a step begins when it has a thread.

    Attributes:
        storing: where what steps write to streams is stored.
    """

    def __init__(self, limit: int) -> None:
        self._executor = ThreadPoolExecutor(limit, thread_name_prefix="everstep-step")
        self.storing = ThreadPoolExecutor(STORING_THREADS, thread_name_prefix="everstep-stream")
        self._free = asyncio.Semaphore(limit)
        self._running: set[Future[Any]] = set()

    @property
    def running(self) -> int:
        """How many functions run, those included whose attempts have been given up. Thread-safe."""
        return len(self._running)

    async def reserve(self) -> None:
        """Wait for a thread to be free; it is taken by the next `run`."""
        await self._free.acquire()

    def unreserve(self) -> None:
        """Give back a thread that was reserved and is not used."""
        self._free.release()

    async def run(self, func: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Call the function in the thread that was reserved; it is free again when the function has ended."""
        loop = asyncio.get_running_loop()
        running = self._executor.submit(copy_context().run, _in_thread, func, args, kwargs)
        self._running.add(running)
        running.add_done_callback(lambda _: self._release(loop))
        running.add_done_callback(self._running.discard)
        value, raised = await asyncio.wrap_future(running)
        if raised is not None:
            raise raised
        return value

    def _release(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.call_soon_threadsafe(self._free.release)
        except RuntimeError:  # the loop is closed: nobody waits for a thread any more
            return

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
        self.storing.shutdown(wait=False, cancel_futures=True)


async def run_attempt(
    engine: Engine,
    message: ExecuteStep,
    receives: int,
    threads: Threads,
    time_left: Callable[[], TimeLeft] | None = None,
) -> Outcome:
    """Run the attempt and say what came of it. Never raises but for cancellation by the caller.

    Args:
        receives: how often the message was received; more than once means that a worker died or was too slow.
        threads: where ``def`` steps run.
        time_left: asked when the attempt is about to begin, where the process ends by itself. An attempt that would
            outlive it fails as one that took too long; one for which there is no time is not begun, and fails too.
    """
    started_at = engine.clock.now()
    step = engine.registry.steps.get(message.name)
    if step is None:
        return Unrunnable(code="step-missing", reason=str(StepNotRegisteredError(message.name)))
    if receives > MAX_RECEIVES:
        return _interrupted(engine, step.name, started_at, f"workers died {receives - 1} times while they ran it")
    if step.cancellable and await asyncio.to_thread(_nobody_waits, engine, message):
        unwanted = StepCancelledError(f"step {step.name!r} was not begun: nobody waits for it any more")
        return _failed(engine, step, message, unwanted, started_at)
    if step.at_most_once and not engine.backend.steps.claim(message.run_id, message.op, message.attempt):
        return _interrupted(engine, step.name, started_at, "its worker died while it ran")
    streams = _streams(engine, message, threads)
    CURRENT_STREAMS.set(streams)  # before the arguments are decoded: handles among them are bound to this attempt
    try:
        args, kwargs = step.decode_call(message.input)
    except SerializationError as unfit:
        return Unrunnable(
            code="unreadable", reason=f"the recorded input of operation {message.op} does not fit: {unfit}"
        )
    info = StepInfo(
        run_id=message.run_id,
        step_id=step_id(message.run_id, message.op),
        step_name=message.name,
        attempt=message.attempt,
        step_started_at=to_datetime(message.first_at),
    )
    CURRENT_STEP.set((info, message.workflow))
    if not step.asynchronous:
        await threads.reserve()
    left = None if time_left is None else time_left()
    raised: BaseException
    try:
        attempt = (
            _call(step, args, kwargs, threads)
            if step.timeout is None and left is None
            else _timed(step, args, kwargs, threads, left)
        )
        value = await (_told(engine, step, message, attempt) if step.cancellable else attempt)
        await streams.finish()
    except asyncio.CancelledError as cancelled:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            streams.abandon()
            raise
        raised = cancelled
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # also what is no Exception, as panics of extension modules: the worker goes on
        raised = error
    else:
        try:
            return Succeeded(result=check_size(step.encode_result(value), f"the result of step {step.name!r}"))
        except Exception as refused:  # the same value would not fit the next time either
            return _failed(engine, step, message, refused, started_at, fatal=True)
    await streams.salvage(raised)
    return _failed(engine, step, message, raised, started_at)


def _streams(engine: Engine, message: ExecuteStep, threads: Threads) -> AttemptStreams:
    source = Source(step=step_id(message.run_id, message.op), attempt=message.attempt, execution=engine.nonce())
    return AttemptStreams(
        engine.backend.streams, source, threads.storing, is_late=lambda: not still_wanted(engine, message)
    )


async def _call(step: StepProgram, args: list[Any], kwargs: dict[str, Any], threads: Threads) -> Any:
    if step.asynchronous:
        return await step.func(*args, **kwargs)
    value = await threads.run(step.func, args, kwargs)
    return await value if inspect.iscoroutine(value) else value  # as a decorator makes a 'def' of an 'async def'


async def _told(engine: Engine, step: StepProgram, message: ExecuteStep, attempt: Coroutine[Any, Any, Any]) -> Any:
    """Run the attempt, and tell it when nobody waits for the step any more."""
    cancelled = threading.Event()
    CANCELLED.set(cancelled)

    running = asyncio.ensure_future(attempt)
    running.add_done_callback(lambda task: task.cancelled() or task.exception())  # seen, also if nobody is left to ask
    try:
        while not (await asyncio.wait({running}, timeout=CANCEL_POLL_SECONDS))[0]:
            if not cancelled.is_set() and await asyncio.to_thread(_nobody_waits, engine, message):
                cancelled.set()
                if step.asynchronous:
                    running.cancel()
    finally:
        if not running.done():  # the worker stops
            running.cancel()
            await asyncio.wait({running})
    try:
        return running.result()
    except BaseException as error:
        if cancelled.is_set() or await asyncio.to_thread(_nobody_waits, engine, message):
            raise StepCancelledError(f"step {step.name!r} was cancelled: nobody waits for it any more") from error
        raise


def _nobody_waits(engine: Engine, message: ExecuteStep) -> bool:
    try:
        return engine.backend.steps.cancel_requested(message.run_id, message.op)
    except StoreError:  # asked again soon, and not the step's mistake
        return False


def _in_thread(func: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, BaseException | None]:
    try:
        return func(*args, **kwargs), None
    except BaseException as error:  # StopIteration and SystemExit do not pass through an executor's future
        return None, error


async def _timed(
    step: StepProgram, args: list[Any], kwargs: dict[str, Any], threads: Threads, left: TimeLeft | None
) -> Any:
    limit, cut_off = step.timeout, ""
    if left is not None and (limit is None or left.seconds < limit):
        limit = round(left.seconds, 1)
        cut_off = (
            f", all that was left of {left.reason}: it would have outlived its process. Give that more time, "
            f"or the step less to do"
        )
        if limit <= 0:
            if not step.asynchronous:
                threads.unreserve()
            raise StepTimeoutError(f"step {step.name!r} was not begun: nothing was left of {left.reason}")
    if limit is None:
        return await _call(step, args, kwargs, threads)
    timeout = asyncio.timeout(limit)
    try:
        async with timeout:
            return await _call(step, args, kwargs, threads)
    except TimeoutError as error:
        if timeout.expired():
            ending = (
                "" if step.asynchronous else "; it is a 'def' step, so its thread runs on and its result is dropped"
            )
            raise StepTimeoutError(f"step {step.name!r} ran longer than {limit:g} s{cut_off}{ending}") from error
        raise


def _failed(
    engine: Engine,
    step: StepProgram,
    message: ExecuteStep,
    error: BaseException,
    started_at: Micros,
    *,
    fatal: bool = False,
) -> Failed:
    ended_at = engine.clock.now()
    after = after_failure(
        error,
        policy=step.retry,
        max_retries=0 if fatal else step.max_retries,
        attempt=message.attempt,
        now=ended_at,
        chance=engine.chance(),
    )
    retry_at = after.at if isinstance(after, RetryAt) else None
    if retry_at is None and message.attempt > 1:
        error.add_note(f"step {step.name!r} was tried {message.attempt} times")
    _trim(error)
    return Failed(error=encode_error(error), retry_at=retry_at, started_at=started_at, ended_at=ended_at)


def _trim(error: BaseException) -> None:
    """Take our own frames off the top of the traceback, so that it begins in the step."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") == __name__:
        trace = trace.tb_next
    if trace is not None:
        error.__traceback__ = trace


def deaths(engine: Engine, run_id: str, message_id: str) -> int:
    """How often this suspect has been begun before; counts one more beginning, durably.

    The counts are claims on operations and attempts below 0, which no step has.
    """
    op = -1 - zlib.crc32(message_id.encode())
    return next(
        count
        for count in range(MAX_DEATHS + 1)
        if count == MAX_DEATHS or engine.backend.steps.claim(run_id, op, -1 - count)
    )


def _interrupted(engine: Engine, name: str, now: Micros, why: str) -> Failed:
    error = StepInterruptedError(f"step {name!r} was given up: {why}")
    return Failed(error=encode_error(error), retry_at=None, started_at=now, ended_at=engine.clock.now())
