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
    CancelChild,
    CancelRun,
    ChildCancelled,
    ChildCompleted,
    ChildFailed,
    ChildOutcome,
    CompleteRun,
    ContinueRun,
    FailRun,
    HookConflicted,
    HookOpened,
    HookReceived,
    Micros,
    OpenHook,
    PublishValue,
    RunStep,
    StartChild,
    StartTimer,
    StepCompleted,
    StepFailed,
    TimerFired,
    event_key,
)
from everstep.core.ids import child_run_id
from everstep.core.recorded import Outstanding, attributes_after, outstanding
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
    attributes, last = attributes_after(run.started_with, turns)
    if (run.attributes, run.attributes_turn) != (attributes, last):
        wrong.append(f"the record says {run.attributes}, by the turns it is {attributes}")
    taken: dict[str, int] = {}
    timers: dict[int, Micros] = {}
    waiting = Outstanding()
    for turn in turns:
        for event in turn.events:
            key = event_key(event)
            if key in taken:
                wrong.append(f"turns {taken[key]} and {turn.number} both consume {key}")
            taken[key] = turn.number
            match event:
                case StepCompleted(op=op) | StepFailed(op=op):
                    expected = op in waiting.steps
                case HookReceived(op=op) | HookOpened(op=op) | HookConflicted(op=op):
                    expected = op in waiting.hooks
                case ChildCompleted(op=op) | ChildFailed(op=op) | ChildCancelled(op=op):
                    expected = op in waiting.children
                case TimerFired(op=op):
                    expected = op in waiting.timers
                    if expected and turn.at < timers[op]:
                        wrong.append(f"timer {op} fires {timers[op] - turn.at} µs early")
                case _:
                    expected = True
            if not expected:
                wrong.append(f"turn {turn.number} consumes {key}, which is not outstanding")
        waiting.add(turn)
        for position, command in enumerate(turn.commands):
            match command:
                case StartTimer(op=op, due=due):
                    timers[op] = due
                case CompleteRun() | FailRun() | ContinueRun() | CancelRun():
                    if turn is not turns[-1] or position != len(turn.commands) - 1:
                        wrong.append(f"turn {turn.number} closes the run, but it goes on")
    if not turns or not turns[-1].commands or not isinstance(turns[-1].commands[-1], _CLOSING[run.status]):
        wrong.append(f"it is {run.status}, but the last turn does not say so")
    return wrong


_CLOSING: Final[Mapping[RunStatus, type]] = MappingProxyType(
    {
        RunStatus.COMPLETED: CompleteRun,
        RunStatus.FAILED: FailRun,
        RunStatus.CONTINUED: ContinueRun,
        RunStatus.CANCELLED: CancelRun,
    }
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
    app: Workflows,
    backend: Backend,
    run_id: str,
    bodies: Bodies,
    *,
    disturbed: bool,
    late: bool = False,
    tokens: bool = True,
    messages: bool = True,
) -> list[str]:
    """All that is wrong after a run, in the store too, and with its children.

    Args:
        bodies: how often each step's body began.
        disturbed: whether a worker died or a message came twice, so that a body may have run again.
        late: whether an event that is of no interest any more may be left in the inbox of a closed run. A worker leaves
            it that comes after the end and dies before it wakes the run, when somebody else does what it had to do.
        tokens: whether none may be held. One is, where a worker claims it late and dies before it looks whether that
            was in time, when somebody else has acknowledged its message.
        messages: whether none may be left.
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
        if history.run.closed:
            wrong += _published(backend, history)
            wrong += _held_tokens(backend, history) if tokens else []
            wrong += _children(app, backend, history, bodies, disturbed=disturbed, late=late, tokens=tokens)
    if not messages:
        return wrong
    if backend.source.next_due() is not None or backend.source.recover(now=FOREVER):
        wrong.append("messages are left")
    return wrong


def _published(backend: Backend, history: History) -> list[str]:
    """Anybody who asks for a published value gets the last."""
    commands = [command for turn in history.turns for command in turn.commands]
    last = {command.name: command.value for command in commands if isinstance(command, PublishValue)}
    known = backend.inspector.published(history.run.run_id)
    return [] if known == last else [f"published is {dict(known)}, and should be {last}"]


def _held_tokens(backend: Backend, history: History) -> list[str]:
    """A run that has ended holds no token."""
    commands = [command for turn in history.turns for command in turn.commands]
    tokens = {command.token for command in commands if isinstance(command, OpenHook)}
    claims = [claim for token in tokens if (claim := backend.hooks.find(token)) is not None]
    return [f"it still holds token {each.token!r}" for each in claims if each.run_id == history.run.run_id]


def _children(
    app: Workflows, backend: Backend, history: History, bodies: Bodies, *, disturbed: bool, late: bool, tokens: bool
) -> list[str]:
    """All that is wrong with the run's children: they exist, have ended well, and told their parent how, once."""
    wrong: list[str] = []
    commands = [command for turn in history.turns for command in turn.commands]
    abandoned = {command.op for command in commands if isinstance(command, CancelChild)}
    abandoned |= set(outstanding(history.turns).children)
    outcomes = {
        event.op: event
        for turn in history.turns
        for event in turn.events
        if isinstance(event, (ChildCompleted, ChildFailed, ChildCancelled))
    }
    for command in commands:
        if not isinstance(command, StartChild):
            continue
        child = child_run_id(history.run.run_id, command.number)
        if backend.runs.load(child) is None:
            if command.op not in abandoned:
                wrong.append(f"child {command.number} was never started")
            continue
        found = examine(app, backend, child, bodies, disturbed=disturbed, late=late, tokens=tokens, messages=False)
        ended = chain_of(backend, child)[-1].run
        told = outcomes.get(command.op)
        if command.awaited and command.op not in abandoned and told != _outcome_of(ended, command.op):
            found.append(f"its parent was told {told}, and it ended as {outcome(ended)}")
        wrong += [f"child {command.number} ({ended.workflow} {child}): {each}" for each in found]
    return wrong


def _outcome_of(run: RunRecord, op: int) -> ChildOutcome | None:
    match run.status:
        case RunStatus.COMPLETED if run.result is not None:
            return ChildCompleted(op=op, result=run.result)
        case RunStatus.FAILED if run.error is not None:
            return ChildFailed(op=op, error=run.error)
        case RunStatus.CANCELLED:
            return ChildCancelled(op=op, run_id=run.run_id, reason=run.reason)
        case _:
            return None


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
