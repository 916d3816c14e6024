"""Handle one message to its end: what a short-lived invocation does (design 4.3, 4.4).

The caller acknowledges the message when `handle` has returned, and lets it be delivered again when it raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, Protocol, assert_never

from everstep.core.history import Event, StepCompleted, StepFailed
from everstep.core.messages import AdvanceRun, ExecuteStep, FireTimer, Message, StartRun, run_of
from everstep.runtime.advance import advance, park
from everstep.runtime.decision import Arrival
from everstep.runtime.deliver import deliver
from everstep.runtime.engine import Engine
from everstep.runtime.execute import (
    DEFAULT_THREADS,
    Failed,
    Succeeded,
    Threads,
    TimeLeft,
    Unrunnable,
    next_attempt,
    run_attempt,
    still_wanted,
)
from everstep.runtime.progress import AttemptFailed, AttemptStarted, AttemptSucceeded


class Runner(Protocol):
    """Where steps run."""

    @property
    def threads(self) -> Threads:
        """For ``def`` steps."""
        ...

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run the coroutine to its end, with the context variables of the caller, and return what it returned."""
        ...


class StepRunner:
    """Runs coroutines of steps to their end, one after the other, on an event loop it keeps between them."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self.threads = Threads(DEFAULT_THREADS)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(coroutine, context=copy_context())

    def close(self) -> None:
        self._runner.close()
        self.threads.close()


def handle(
    engine: Engine,
    message: Message,
    runner: Runner,
    *,
    root_id: str,
    receives: int = 1,
    time_left: Callable[[], TimeLeft] | None = None,
) -> None:
    """Handle a message.

    Args:
        receives: how often it has been received; from the second time on nothing is taken for granted.
        time_left: what this process still has for a step, where it ends by itself.
    """
    again = receives > 1
    if again or isinstance(message, AdvanceRun):  # an advance lowers the flag before it reads
        engine.backend.inbox.lower_flag(run_of(message))
    match message:
        case StartRun(run=run):
            advance(engine, Arrival(run_id=run.run_id, start=run, not_before=run.start_at, read_inbox=again))
        case AdvanceRun(run_id=run_id, recover=recover, due=due):
            advance(engine, Arrival(run_id=run_id, not_before=due, read_inbox=True, recover=recover))
        case FireTimer(run_id=run_id, op=op, due=due):
            # What is in the inbox came before the timer: an outcome counts although its deadline has passed meanwhile.
            advance(engine, Arrival(run_id=run_id, timers=[op], not_before=due, read_inbox=True))
        case ExecuteStep():
            _execute(engine, message, runner, root_id=root_id, receives=receives, time_left=time_left)
        case _:
            assert_never(message)


def _execute(
    engine: Engine,
    message: ExecuteStep,
    runner: Runner,
    *,
    root_id: str,
    receives: int,
    time_left: Callable[[], TimeLeft] | None,
) -> None:
    run_id, again = message.run_id, receives > 1
    if (again or message.attempt > 1) and not still_wanted(engine, message):  # its run may have ended meanwhile
        advance(engine, Arrival(run_id=run_id, again=[message.op], read_inbox=True))  # redo what a crash left undone
        return
    named = {"run_id": run_id, "op": message.op, "step": message.name, "attempt": message.attempt}
    engine.tell(AttemptStarted(**named, at=engine.clock.now()))  # type: ignore[arg-type]
    outcome = runner.run(run_attempt(engine, message, receives, runner.threads, time_left))
    event: Event
    match outcome:
        case Unrunnable(code=code, reason=reason):
            park(engine, run_id, code, reason)
            return
        case Succeeded(result=result):
            event = StepCompleted(op=message.op, attempt=message.attempt, result=result)
        case Failed(error=error, retry_at=None):
            event = StepFailed(op=message.op, attempt=message.attempt, error=error)
        case Failed():
            attempt, following = next_attempt(message, outcome, root_id)
            with engine.backend.unit():
                engine.backend.queue.send([following])
                engine.backend.steps.record(run_id, attempt)
            engine.tell(
                AttemptFailed(**named, at=outcome.ended_at, error=outcome.error, retry_at=outcome.retry_at)  # type: ignore[arg-type]
            )
            return
        case _:
            raise AssertionError(outcome)
    if message.sole and not again:
        advance(engine, Arrival(run_id=run_id, events=[event]))
    else:
        with engine.backend.unit():
            deliver(engine, run_id, root_id, message.workflow, event, always=again)
    if isinstance(outcome, Failed):
        engine.tell(AttemptFailed(**named, at=outcome.ended_at, error=outcome.error, retry_at=None))  # type: ignore[arg-type]
    else:
        engine.tell(AttemptSucceeded(**named, at=engine.clock.now()))  # type: ignore[arg-type]
