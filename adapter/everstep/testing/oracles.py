"""What must be true of every run, whatever went wrong (design, section 8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from everstep.app import Workflows
from everstep.codec.failures import decode_error
from everstep.codec.typed import ValueCodec
from everstep.core.history import (
    CancelTimer,
    CompleteRun,
    ContinueRun,
    FailRun,
    Micros,
    RunStarted,
    RunStep,
    StartTimer,
    StepCompleted,
    StepFailed,
    TimerFired,
)
from everstep.core.run import RunRecord, RunStatus
from everstep.ports import Backend
from everstep.runtime.execute import StepInfo
from everstep.testing.history import History, replay
from everstep.workflow import get_step_metadata

FOREVER: Final[Micros] = 1 << 62

Bodies: TypeAlias = Mapping[tuple[str, int, int], int]
"""How often the body of a step began: by run, operation and attempt."""


class CountedSteps:
    """A registry: an app whose step bodies are counted as they begin, by run, operation and attempt."""

    def __init__(self, app: Workflows, bodies: Counter[tuple[str, int, int]] | None = None) -> None:
        self.bodies = Counter() if bodies is None else bodies
        self.workflows: Mapping[str, Any] = app.workflows
        self.steps: Mapping[str, Any] = {name: _CountedStep(step, self.begun) for name, step in app.steps.items()}
        self.build = app.build

    def begun(self, step: StepInfo) -> None:
        self.bodies[step.run_id, int(step.step_id.rpartition("_")[2]), step.attempt] += 1


class _CountedStep:
    def __init__(self, step: Any, begun: Callable[[StepInfo], None]) -> None:
        self._step = step
        self._begun = begun

    def func(self, *args: Any, **options: Any) -> Any:
        self._begun(get_step_metadata())
        return self._step.func(*args, **options)  # a coroutine, where the step is asynchronous

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)


# --- what must hold ----------------------------------------------------------------------------------


def outcome(run: RunRecord) -> tuple[str, Any]:
    """How a run ended: ``("completed", result as plain data)`` or ``("failed", "ValueError: message")``."""
    if run.status is RunStatus.FAILED and run.error is not None:
        error = decode_error(run.error)
        return ("failed", f"{type(error).__name__}: {error}")
    if run.problem is not None and not run.closed:
        return ("parked", run.problem.message)
    return (run.status.value, None if run.result is None else ValueCodec(Any, "a result").decode(run.result))


def violations(history: History) -> list[str]:
    """What is wrong with the record of a closed run; empty when all is well."""
    run, turns = history.run, history.turns
    wrong: list[str] = []
    if not run.closed:
        return [f"it is {run.shown_status}, not closed: {run.problem.message if run.problem else 'nothing moves it'}"]
    if [turn.number for turn in turns] != list(range(len(turns))):
        wrong.append(f"turns are not dense: {[turn.number for turn in turns]}")
    if len({turn.nonce for turn in turns}) < len(turns):
        wrong.append("two turns carry one nonce")
    if any(later.at < earlier.at for earlier, later in pairwise(turns)):
        wrong.append(f"time goes back: {[turn.at for turn in turns]}")
    if not turns or (run.started_at, run.completed_at) != (turns[0].at, turns[-1].at):
        wrong.append(f"the record says {run.started_at} to {run.completed_at}, the turns say otherwise")
    steps: set[int] = set()
    timers: dict[int, Micros] = {}
    for turn in turns:
        for event in turn.events:
            match event:
                case RunStarted():
                    if turn.number:
                        wrong.append(f"turn {turn.number} starts the run again")
                case StepCompleted(op=op) | StepFailed(op=op):
                    if op not in steps:
                        wrong.append(f"turn {turn.number} consumes step {op}, which is not outstanding")
                    steps.discard(op)
                case TimerFired(op=op):
                    due = timers.pop(op, None)
                    if due is None:
                        wrong.append(f"turn {turn.number} fires timer {op}, which is not outstanding")
                    elif turn.at < due:
                        wrong.append(f"timer {op} fires {due - turn.at} µs early")
        for position, command in enumerate(turn.commands):
            match command:
                case RunStep(op=op):
                    steps.add(op)
                case StartTimer(op=op, due=due):
                    timers[op] = due
                case CancelTimer(op=op):
                    timers.pop(op, None)
                case CompleteRun() | FailRun() | ContinueRun():
                    if turn is not turns[-1] or position != len(turn.commands) - 1:
                        wrong.append(f"turn {turn.number} closes the run, but it goes on")
    if not turns or not turns[-1].commands or not isinstance(turns[-1].commands[-1], _CLOSING[run.status]):
        wrong.append(f"it is {run.status}, but the last turn does not say so")
    return wrong


_CLOSING: Final[Mapping[RunStatus, type]] = MappingProxyType(
    {RunStatus.COMPLETED: CompleteRun, RunStatus.FAILED: FailRun, RunStatus.CONTINUED: ContinueRun}
)


def replays(app: Workflows, history: History) -> list[str]:
    """Whether the history replays from scratch with the same commands; says what went wrong."""
    ended = outcome(history.run)
    try:
        replay(app, history)
    except Exception as error:
        return [] if ended == ("failed", f"{type(error).__name__}: {error}") else [f"it does not replay: {error!r}"]
    return []


def chain_of(backend: Backend, run_id: str) -> list[History]:
    """The run, and the runs it went on as."""
    chain = [History.read(backend, run_id)]
    while (following := chain[-1].run.continued_to) is not None and backend.runs.load(following) is not None:
        chain.append(History.read(backend, following))
    return chain


def examine(
    app: Workflows, backend: Backend, run_id: str, bodies: Bodies, *, disturbed: bool, late: bool = False
) -> list[str]:
    """All that is wrong after a run, in the store too.

    Args: bodies: how often each step's body began. disturbed: whether a worker died or a message came twice, so that
    a body may have run again. late: whether an outcome may be left in the inbox of a closed run. A duplicate that
    comes after the end leaves it, if its worker dies before it wakes the run, and somebody else has acknowledged the
    message.
    """
    wrong: list[str] = []
    for history in chain_of(backend, run_id):
        found = violations(history)
        if history.run.closed and not found:
            found = replays(app, history) + _repeated(app, history, bodies, disturbed=disturbed)
        wrong += found
        snapshot = backend.runs.load(history.run.run_id)
        if snapshot is not None and snapshot.inbox and not (late and snapshot.run.closed):
            wrong.append(f"left in the inbox: {[entry.key for entry in snapshot.inbox]}")
    if backend.source.next_due() is not None or backend.source.recover(now=FOREVER):
        wrong.append("messages are left")
    return wrong


def _repeated(app: Workflows, history: History, bodies: Bodies, *, disturbed: bool) -> list[str]:
    """Each consumed outcome stands for a body that ran; twice only where something went wrong."""
    wrong: list[str] = []
    run_id = history.run.run_id
    commands = [command for turn in history.turns for command in turn.commands]
    names = {command.op: command.name for command in commands if isinstance(command, RunStep)}
    for turn in history.turns:
        for event in turn.events:
            if isinstance(event, StepCompleted) and not bodies.get((run_id, event.op, event.attempt)):
                wrong.append(f"step {event.op} completed on attempt {event.attempt} and never ran")
    for (of, op, attempt), times in bodies.items():
        if of == run_id and op not in names:
            wrong.append(f"step {op} ran, and the history does not ask for it")
        elif of == run_id and times > 1:
            if app.steps[names[op]].at_most_once:
                wrong.append(f"at_most_once step {op} ran {times} times")
            elif not disturbed:
                wrong.append(f"attempt {attempt} at step {op} ran {times} times, and nothing went wrong")
    return wrong


# --- the simulation ----------------------------------------------------------------------------------
