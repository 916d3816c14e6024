"""What became of each operation of a run, for people: a fold over its turns and its failed attempts.

Nothing here decides anything. Times are those of the turns: an operation was asked for when the turn that holds its
command was made, and has ended when the turn that holds its event was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, TypeAlias, assert_never

from everstep.core.history import (
    CancelChild,
    CancelRun,
    CancelStep,
    CancelTimer,
    ChildCancelled,
    ChildCompleted,
    ChildFailed,
    CloseHook,
    CompleteRun,
    ConfirmHook,
    ContinueRun,
    Event,
    FailRun,
    HookConflicted,
    HookReceived,
    Micros,
    OpenHook,
    PublishValue,
    RunStep,
    SetAttributes,
    StartChild,
    StartTimer,
    StepCompleted,
    StepFailed,
    TimerFired,
    Turn,
    WakeUpRequested,
)
from everstep.core.ids import child_run_id


class StepState(StrEnum):
    """Where a step call is in its life.

    ``RUNNING``: asked for, no outcome yet; it may still be waiting for a worker. ``RETRYING``: its last attempt failed
    and there will be another. ``ABANDONED``: the run was closed before the step had an outcome.
    """

    RUNNING = "running"
    RETRYING = "retrying"
    COMPLETED = "completed"
    FAILED = "failed"
    ABANDONED = "abandoned"


class TimerState(StrEnum):
    """Where a timer is in its life. One that is still set when the run is closed counts as cancelled."""

    WAITING = "waiting"
    FIRED = "fired"
    CANCELLED = "cancelled"


class HookState(StrEnum):
    """Where a hook is in its life. One that is still open when the run is closed counts as disposed."""

    OPEN = "open"
    CONFLICTED = "conflicted"
    DISPOSED = "disposed"


class ChildState(StrEnum):
    """What the run knows of a child run. ``DETACHED``: it does not wait for it. ``ABANDONED``: it waits no more."""

    RUNNING = "running"
    DETACHED = "detached"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"


class AttemptRecord(Protocol):
    """A failed attempt that was followed by another, as `everstep.ports.FailedAttempt` has it."""

    @property
    def op(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def started_at(self) -> Micros: ...
    @property
    def ended_at(self) -> Micros: ...
    @property
    def error(self) -> bytes: ...
    @property
    def retry_at(self) -> Micros: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """A step call.

    Attributes:
        turn: the turn that asked for it, at `asked_at`.
        attempt: the number of the attempt that ended it, or of the latest one: the one that runs or is to come.
        failures: the failed attempts before that one, in order.
        ended_at: the time of the turn that consumed the outcome. None before, and while the outcome is in the inbox.
        retry_at: when the next attempt may run, while it is *retrying*.
        error: the encoded error of the last attempt, when the step has failed.
    """

    op: int
    name: str
    turn: int
    asked_at: Micros
    input: bytes
    state: StepState
    attempt: int = 1
    failures: tuple[AttemptRecord, ...] = ()
    ended_at: Micros | None = None
    retry_at: Micros | None = None
    result: bytes | None = None
    error: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerView:
    """A timer, set by `turn` at `asked_at` for `due`. A sleep can be ended early, a deadline cannot."""

    op: int
    turn: int
    asked_at: Micros
    due: Micros
    state: TimerState
    ended_at: Micros | None = None
    sleep: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HookView:
    """A hook, opened by `turn` at `asked_at`.

    Attributes:
        kind: the name of the payload's class; empty for any.
        received: how many payloads have come.
        holder: the run that has the token, where it is *conflicted*.
    """

    op: int
    turn: int
    asked_at: Micros
    token: str
    kind: str
    webhook: bool
    state: HookState
    metadata: bytes | None = None
    received: int = 0
    holder: str | None = None
    ended_at: Micros | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildView:
    """A child run, started by `turn` at `asked_at`."""

    op: int
    turn: int
    asked_at: Micros
    workflow: str
    run_id: str
    input: bytes
    state: ChildState
    result: bytes | None = None
    error: bytes | None = None
    ended_at: Micros | None = None


OperationView: TypeAlias = StepView | TimerView | HookView | ChildView


def timeline(
    turns: Iterable[Turn],
    failed: Iterable[AttemptRecord] = (),
    arrived: Sequence[Event] = (),
    *,
    run_id: str,
    now: Micros,
    closed_at: Micros | None = None,
) -> tuple[OperationView, ...]:
    """The operations of a run in the order the body asked for them.

    Args:
        turns: its history.
        failed: its failed attempts, in any order.
        arrived: events that are in its inbox and not yet in a turn.
        run_id: the run's id, from which those of its children follow.
        now: tells a step that waits for its next attempt from one whose next attempt may be running.
        closed_at: when the run was closed; what has no outcome then will have none.
    """
    views: dict[int, OperationView] = {}
    for turn in turns:
        for event in turn.events:
            _consume(views, event, turn.at)
        for command in turn.commands:
            match command:
                case RunStep(op=op, name=name, input=data):
                    views[op] = StepView(
                        op=op, name=name, turn=turn.number, asked_at=turn.at, input=data, state=StepState.RUNNING
                    )
                case StartTimer(op=op, due=due, sleep=sleep):
                    views[op] = TimerView(
                        op=op, turn=turn.number, asked_at=turn.at, due=due, state=TimerState.WAITING, sleep=sleep
                    )
                case CancelTimer(op=op):
                    timer = views.get(op)
                    woken = isinstance(timer, TimerView) and timer.sleep
                    woken = woken and any(isinstance(event, WakeUpRequested) for event in turn.events)
                    _end_timer(views, op, TimerState.FIRED if woken else TimerState.CANCELLED, turn.at)
                case OpenHook(op=op):
                    views[op] = HookView(
                        op=op,
                        turn=turn.number,
                        asked_at=turn.at,
                        token=command.token,
                        kind=command.kind,
                        webhook=command.webhook,
                        state=HookState.OPEN,
                        metadata=command.metadata,
                    )
                case CloseHook(op=op):
                    _end_hook(views, op, turn.at)
                case StartChild(op=op):
                    views[op] = ChildView(
                        op=op,
                        turn=turn.number,
                        asked_at=turn.at,
                        workflow=command.workflow,
                        run_id=child_run_id(run_id, command.number),
                        input=command.input,
                        state=ChildState.RUNNING if command.awaited else ChildState.DETACHED,
                    )
                case CancelChild(op=op):
                    _end_child(views, op, ChildState.ABANDONED, turn.at)
                case CompleteRun() | FailRun() | ContinueRun() | CancelRun():
                    closed_at = turn.at if closed_at is None else closed_at
                case CancelStep() | ConfirmHook() | SetAttributes() | PublishValue():
                    pass
                case _:
                    assert_never(command)
    for event in arrived:
        _consume(views, event, None)
    failures: dict[int, list[AttemptRecord]] = {}
    for attempt in failed:
        failures.setdefault(attempt.op, []).append(attempt)
    return tuple(
        _finish(views[op], tuple(sorted(failures.get(op, ()), key=lambda each: each.attempt)), now, closed_at)
        for op in sorted(views)
    )


def _consume(views: dict[int, OperationView], event: Event, at: Micros | None) -> None:
    match event:
        case StepCompleted(op=op, attempt=attempt, result=result):
            step = views.get(op)
            if isinstance(step, StepView) and step.state is StepState.RUNNING:
                views[op] = replace(step, state=StepState.COMPLETED, attempt=attempt, result=result, ended_at=at)
        case StepFailed(op=op, attempt=attempt, error=error):
            step = views.get(op)
            if isinstance(step, StepView) and step.state is StepState.RUNNING:
                views[op] = replace(step, state=StepState.FAILED, attempt=attempt, error=error, ended_at=at)
        case TimerFired(op=op):
            _end_timer(views, op, TimerState.FIRED, at)
        case HookReceived(op=op):
            hook = views.get(op)
            if isinstance(hook, HookView):
                views[op] = replace(hook, received=hook.received + 1)
        case HookConflicted(op=op, run_id=holder):
            hook = views.get(op)
            if isinstance(hook, HookView):
                views[op] = replace(hook, state=HookState.CONFLICTED, holder=holder, ended_at=at)
        case ChildCompleted(op=op, result=result):
            _end_child(views, op, ChildState.COMPLETED, at, result=result)
        case ChildFailed(op=op, error=error):
            _end_child(views, op, ChildState.FAILED, at, error=error)
        case ChildCancelled(op=op):
            _end_child(views, op, ChildState.CANCELLED, at)
        case _:  # it concerns no operation
            pass


def _end_timer(views: dict[int, OperationView], op: int, state: TimerState, at: Micros | None) -> None:
    timer = views.get(op)
    if isinstance(timer, TimerView) and timer.state is TimerState.WAITING:
        views[op] = replace(timer, state=state, ended_at=at)


def _end_hook(views: dict[int, OperationView], op: int, at: Micros | None) -> None:
    hook = views.get(op)
    if isinstance(hook, HookView) and hook.state is HookState.OPEN:
        views[op] = replace(hook, state=HookState.DISPOSED, ended_at=at)


def _end_child(
    views: dict[int, OperationView],
    op: int,
    state: ChildState,
    at: Micros | None,
    *,
    result: bytes | None = None,
    error: bytes | None = None,
) -> None:
    child = views.get(op)
    if isinstance(child, ChildView) and child.state is ChildState.RUNNING:
        views[op] = replace(child, state=state, result=result, error=error, ended_at=at)


def _finish(
    view: OperationView, failures: tuple[AttemptRecord, ...], now: Micros, closed_at: Micros | None
) -> OperationView:
    if isinstance(view, TimerView):
        if view.state is TimerState.WAITING and closed_at is not None:
            return replace(view, state=TimerState.CANCELLED, ended_at=closed_at)
        return view
    if isinstance(view, HookView):
        if view.state is HookState.OPEN and closed_at is not None:
            return replace(view, state=HookState.DISPOSED, ended_at=closed_at)
        return view
    if isinstance(view, ChildView):
        if view.state is ChildState.RUNNING and closed_at is not None:
            return replace(view, state=ChildState.ABANDONED, ended_at=closed_at)
        return view
    if view.state is not StepState.RUNNING:
        return replace(view, failures=tuple(each for each in failures if each.attempt < view.attempt))
    if closed_at is not None:
        return replace(
            view, state=StepState.ABANDONED, attempt=len(failures) or 1, failures=failures, ended_at=closed_at
        )
    if not failures:
        return view
    last = failures[-1]
    waiting = last.retry_at > now
    return replace(
        view,
        state=StepState.RETRYING if waiting else StepState.RUNNING,
        attempt=last.attempt + 1,
        failures=failures,
        retry_at=last.retry_at if waiting else None,
    )
