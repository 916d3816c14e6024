"""What follows from a turn: messages, tokens, other runs, the record (design 4.3, 4.6, 4.7).

Nothing is written here; it is added to a `Decision`. Everything may be added again: ids make repeating harmless.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, assert_never, get_args

from everstep.core.history import (
    CancelChild,
    CancelRequested,
    CancelRun,
    CancelStep,
    CancelTimer,
    ChildCancelled,
    ChildCompleted,
    ChildFailed,
    ChildOutcome,
    CloseHook,
    ClosingCommand,
    Command,
    CompleteRun,
    ConfirmHook,
    ContinueRun,
    Event,
    FailRun,
    HookReceived,
    Micros,
    OpenHook,
    PauseRequested,
    PublishValue,
    Request,
    RunStep,
    SetAttributes,
    StartChild,
    StartTimer,
    TerminateRequested,
    Turn,
)
from everstep.core.hooks import Hook
from everstep.core.ids import child_run_id, derived_run_id
from everstep.core.messages import (
    ExecuteStep,
    FireTimer,
    Message,
    Outgoing,
    StartRun,
    message_id,
    outgoing,
    timer_id,
)
from everstep.core.operations import StepCall
from everstep.core.recorded import Outstanding, attributes_after, consumed, effects, last_word, outstanding
from everstep.core.replay import Replay
from everstep.core.run import (
    AttributesSet,
    Closed,
    Parent,
    Paused,
    Published,
    RunRecord,
    RunStatus,
    Started,
    Unpaused,
)
from everstep.ports import FailedAttempt, HookClaim, Snapshot
from everstep.runtime.decision import Claim, Decision, Report, Slots
from everstep.runtime.engine import Engine

SKEW: Final[Micros] = 15 * 60_000_000
"""More than the clocks of two workers ever differ."""
A_LITTLE: Final[Micros] = 5_000_000
PARENT_ATTRIBUTE = "$parentRunId"
ROOT_ATTRIBUTE = "$rootRunId"


def dispatch(decision: Decision, replay: Replay, turn: Turn, slots: Slots | None) -> None:
    """All that follows from a new turn."""
    if turn.number == 0:
        decision.changes.append(Started(at=turn.at))
    for command in turn.commands:
        _follow(decision, replay, command, turn.at, slots)
    if replay.attributes_turn == turn.number:
        _set_attributes(decision, replay.attributes, turn.number)
    if replay.closing is not None:
        close(decision, replay.left(), replay.closing, attributes=replay.attributes, at=turn.at)
        if replay.paused and isinstance(replay.closing, ContinueRun):
            _tell_successor(decision, PauseRequested(key=f"of.{decision.run.run_id}"))


def mark_paused(decision: Decision, *, paused: bool, at: Micros) -> None:
    """Let the record say whether the run is paused, where it does not: whoever was to write that may have died."""
    known = decision.run.paused_at is not None
    if paused and not known:
        decision.changes.append(Paused(at=at))
    elif known and not paused:
        decision.changes.append(Unpaused())


def _follow(decision: Decision, replay: Replay, command: Command, at: Micros, slots: Slots | None) -> None:
    run = decision.run
    match command:
        case RunStep(op=op, name=name, input=data):
            lease_to = None
            if slots is not None and slots.free > 0:
                slots.free -= 1
                lease_to = slots.worker
            step = ExecuteStep(
                run_id=run.run_id,
                workflow=run.workflow,
                op=op,
                name=name,
                attempt=1,
                input=data,
                sole=replay.one_step,
                first_at=at,
            )
            decision.messages.append(outgoing(step, at, run.root_id, run.workflow, lease_to))
        case StartTimer(op=op, due=due):
            decision.messages.append(_to(run, FireTimer(run_id=run.run_id, op=op, due=due), due))
        case CancelTimer(op=op):
            decision.discarded.append(timer_id(run.run_id, op))
        case OpenHook(op=op) | ConfirmHook(op=op):
            hook = replay.open_hook_of(op)
            if hook is not None:
                _claim(decision, replay, op, hook, at)
        case StartChild():
            _start_child(decision, command, at)
        case CancelStep() | CloseHook() | CancelChild() | PublishValue():
            _have_effect(decision, command, turn=replay.turns - 1, at=at)
        case SetAttributes() | CompleteRun() | FailRun() | ContinueRun() | CancelRun():
            pass  # the replay knows the state that follows
        case _:
            assert_never(command)


def _claim(decision: Decision, replay: Replay, op: int, hook: Hook, at: Micros) -> None:
    run = decision.run
    claim = HookClaim(
        token=hook.token,
        run_id=run.run_id,
        op=op,
        root_id=run.root_id,
        workflow=run.workflow,
        opened_at=at,
        kind=hook.kind,
        webhook=hook.webhook,
        metadata=hook.metadata,
        answer=hook.answer,
    )
    decision.claimed[op] = Claim(hook=claim, confirm=replay.unconfirmed(op))


def _have_effect(decision: Decision, command: Command, *, turn: int, at: Micros) -> None:
    """The effect of a command of a turn that was made at that time; once more, perhaps."""
    run = decision.run
    match command:
        case CancelStep(op=op):
            decision.cancelled.append(op)
        case CloseHook(op=op, token=token):
            decision.released.append((op, token))
        case CancelChild(number=number, workflow=workflow):
            child = child_run_id(run.run_id, number)
            wish = CancelRequested(reason=f"run {run.run_id} waits for it no more")
            decision.reports.append(Report(run_id=child, workflow=workflow, event=wish))
        case StartChild():
            _start_child(decision, command, at)
        case PublishValue(name=name, value=value):
            decision.changes.append(Published(turn=turn, name=name, value=value))
        case _:
            raise AssertionError(command)


def _set_attributes(decision: Decision, attributes: Mapping[str, str], turn: int) -> None:
    change = AttributesSet(turn=turn, attributes=dict(attributes), first=decision.run.started_with)
    decision.changes.append(change)


def _to(run: RunRecord, message: Message, due: Micros) -> Outgoing:
    return outgoing(message, due, run.root_id, run.workflow)


def _start_child(decision: Decision, command: StartChild, at: Micros) -> None:
    run = decision.run
    child = RunRecord(
        run_id=child_run_id(run.run_id, command.number),
        root_id=run.root_id,
        workflow=command.workflow,
        input=command.input,
        created_at=at,
        start_at=at if command.start_at is None else max(at, command.start_at),
        attributes={**command.attributes, PARENT_ATTRIBUTE: run.run_id, ROOT_ATTRIBUTE: run.root_id},
        parent=Parent(run_id=run.run_id, workflow=run.workflow, op=command.op) if command.awaited else None,
    )
    if child.start_at > at:
        decision.created.append(child)
    decision.messages.append(outgoing(StartRun(run=child), child.start_at, child.root_id, child.workflow))


# --- closing -----------------------------------------------------------------------------------------


def close(
    decision: Decision, left: Outstanding, command: ClosingCommand, *, attributes: Mapping[str, str], at: Micros
) -> None:
    """What follows from a run's last turn.

    Args:
        left: what the run still waited for.
        attributes: its last ones.
        at: when that turn was made.
    """
    run = decision.run
    decision.claimed.clear()
    decision.discarded.extend(timer_id(run.run_id, op) for op in sorted(left.timers))
    decision.released.extend(sorted(left.hooks.items()))
    for _, child in sorted(left.children.items()):
        wish = TerminateRequested(reason=f"run {run.run_id} has ended")
        report = Report(run_id=child_run_id(run.run_id, child.number), workflow=child.workflow, event=wish)
        decision.reports.append(report)
    if run.started_at is None and at < run.start_at:  # it was cancelled before it began
        decision.discarded.append(message_id(StartRun(run=run)))
    outcome: ChildOutcome | None = None
    op = -1 if run.parent is None else run.parent.op
    match command:
        case CompleteRun(result=result):
            decision.changes.append(Closed(at=at, status=RunStatus.COMPLETED, result=result))
            outcome = ChildCompleted(op=op, result=result)
        case FailRun(error=error):
            decision.changes.append(Closed(at=at, status=RunStatus.FAILED, error=error))
            outcome = ChildFailed(op=op, error=error)
        case CancelRun(reason=reason):
            decision.changes.append(Closed(at=at, status=RunStatus.CANCELLED, reason=reason))
            outcome = ChildCancelled(op=op, run_id=run.run_id, reason=reason)
        case ContinueRun(input=data):
            successor = RunRecord(
                run_id=derived_run_id("continue", run.run_id),
                root_id=run.root_id,
                workflow=run.workflow,
                input=data,
                created_at=at,
                start_at=at,
                attributes=attributes,
                continued_from=run.run_id,
                parent=run.parent,
            )
            decision.messages.append(_to(run, StartRun(run=successor), at))
            decision.changes.append(Closed(at=at, status=RunStatus.CONTINUED, continued_to=successor.run_id))
        case _:
            assert_never(command)
    if run.parent is not None and outcome is not None:
        decision.reports.append(Report(run_id=run.parent.run_id, workflow=run.parent.workflow, event=outcome))


def finish(
    engine: Engine, snapshot: Snapshot, wish: TerminateRequested | None, keys: Collection[str]
) -> Decision | None:
    """End a run by what its history says, without a replay: one that is to be terminated, or whose last turn is there.

    Args:
        snapshot: with all turns.
        wish: that the run be terminated.
        keys: of events whose messages have come again.
    """
    run, turns = snapshot.run, snapshot.turns
    decision = Decision(run=run, consumed=_inbox(snapshot), again=True)
    last = turns[-1] if turns else None
    command = last_word(turns)
    if command is None:
        if wish is None:
            return None
        command = CancelRun(reason=wish.reason)
        last = Turn(
            number=len(turns),
            at=max(engine.clock.now(), 0 if last is None else last.at),
            build=engine.registry.build,
            nonce=engine.nonce(),
            events=(wish,),
            commands=(command,),
        )
        decision.turn = last
    if last is None:
        raise AssertionError("a command without a turn")
    left = outstanding(turns)
    for op, name in sorted(left.steps.items()):
        step = engine.registry.steps.get(name)
        if step is not None and step.cancellable:
            decision.cancelled.append(op)
    # Whoever made an earlier turn may have died before it was put into effect, and its message will find a closed run.
    redo(decision, turns, {*turns_of(turns, _inbox(snapshot)), *turns_of(turns, keys), last.number})
    if run.started_at is None:
        decision.changes.append(Started(at=turns[0].at if turns else last.at))
    attributes, _ = attributes_after(run.started_with, turns)
    close(decision, left, command, attributes=attributes, at=last.at)
    if isinstance(command, ContinueRun):
        _pass_on(decision, snapshot)
    return decision


def turns_of(turns: Iterable[Turn], keys: Iterable[str]) -> set[int]:
    """The turns that consumed these events."""
    known = consumed(turns)
    return {known[key] for key in keys if key in known}


def _inbox(snapshot: Snapshot) -> list[str]:
    return [entry.key for entry in snapshot.inbox]


def after_the_end(snapshot: Snapshot, keys: Collection[str]) -> Decision:
    """What is left to do for a run that is closed.

    Args:
        snapshot: with all turns.
        keys: of events whose messages have come again.
    """
    run, turns = snapshot.run, snapshot.turns
    decision = Decision(run=run, consumed=_inbox(snapshot), again=True)
    redo(decision, turns, turns_of(turns, [*keys, *decision.consumed]))
    known = consumed(turns)
    tokens = {each.op: each.token for turn in turns for each in turn.commands if isinstance(each, OpenHook)}
    for entry in snapshot.inbox:
        event = entry.event
        if isinstance(event, HookReceived) and event.op in tokens and entry.key not in known:
            decision.released.append((event.op, tokens[event.op]))  # somebody slow has claimed it again
    if run.continued_to is not None:
        _pass_on(decision, snapshot)
    return decision


def _pass_on(decision: Decision, snapshot: Snapshot) -> None:
    """What was asked of a run that has gone on as another, and came too late for it, is asked of that one."""
    known = consumed(snapshot.turns)
    for entry in snapshot.inbox:
        if entry.key not in known and isinstance(entry.event, get_args(Request)):
            _tell_successor(decision, entry.event)


def _tell_successor(decision: Decision, event: Event) -> None:
    run = decision.run
    successor = derived_run_id("continue", run.run_id)
    decision.reports.append(Report(run_id=successor, workflow=run.workflow, event=event))


# --- again -------------------------------------------------------------------------------------------


def ask_again(engine: Engine, decision: Decision, replay: Replay, turns: Collection[int]) -> None:
    """Add again what these turns asked for and the run still waits for.

    Message ids make it harmless where the first message is still under way.
    """
    if not turns:
        return
    run = decision.run
    now = replay.loop.now
    failed: dict[int, FailedAttempt] = {}
    steps = [(op, call) for op, call in replay.outstanding()[0] if replay.asked_in(op) in turns]
    if steps:
        for attempt in engine.backend.steps.failed_attempts(run.run_id):
            if attempt.op not in failed or failed[attempt.op].attempt < attempt.attempt:
                failed[attempt.op] = attempt
    for op, call in steps:
        last = failed.get(op)
        step = attempt_after(run, op, call, last, sole=replay.one_step, now=now)
        decision.messages.append(_to(run, step, now if last is None else last.retry_at))
    for op, due in replay.outstanding()[1]:
        if replay.asked_in(op) in turns:
            decision.messages.append(_to(run, FireTimer(run_id=run.run_id, op=op, due=due), due))
    for op, hook in replay.open_hooks():
        if replay.asked_in(op) in turns and op not in decision.claimed:
            _claim(decision, replay, op, hook, now)
    for op, child in sorted(replay.left().children.items()):
        asked_in = replay.asked_in(op)
        if asked_in in turns and asked_in is not None:
            _start_child(decision, child, replay.time_of(asked_in))


def attempt_after(
    run: RunRecord, op: int, call: StepCall[Any], failed: FailedAttempt | None, *, sole: bool, now: Micros = 0
) -> ExecuteStep:
    """The attempt at a step that follows this one, or the first, asked for `now`."""
    return ExecuteStep(
        run_id=run.run_id,
        workflow=run.workflow,
        op=op,
        name=call.codec.name,
        attempt=1 if failed is None else failed.attempt + 1,
        input=call.data,
        sole=sole,
        first_at=now if failed is None else failed.started_at,
    )


def look_after_pause(decision: Decision, replay: Replay, turn: int, at: Micros) -> None:
    """Send once more what fires the next timers, or starts the run, after this turn ended a pause at that time.

    It may have come during the pause, when nobody minded it, by a clock that was ahead. Mostly it has not, so this is
    for a little later, and under an id of its own.
    """
    run = decision.run
    again: list[tuple[Micros, Message]] = [
        (due, FireTimer(run_id=run.run_id, op=op, due=due))
        for op, due in replay.outstanding()[1]
        if replay.asked_in(op) != turn
    ]
    if not replay.begun:
        again.append((run.start_at, StartRun(run=run)))
    for due, message in again:
        if due <= at + SKEW:
            sent = _to(run, message, due + A_LITTLE)
            decision.messages.append(replace(sent, message_id=f"{sent.message_id}/unpaused.{turn}"))


def repeat_effects(decision: Decision, replay: Replay, turns: Collection[int]) -> None:
    """Add again what these turns had an effect on beside the operations the run waits for."""
    own = [turn for turn in sorted(turns) if turn >= _borrowed(decision.run)]
    for turn in own:
        for effect in replay.effects_of(turn):
            _have_effect(decision, effect, turn=turn, at=replay.time_of(turn))
    for turn, command in replay.published.values():
        if turn in own:
            _have_effect(decision, command, turn=turn, at=replay.time_of(turn))
    if replay.attributes_turn in own:
        _set_attributes(decision, replay.attributes, replay.attributes_turn)


def redo(decision: Decision, turns: Sequence[Turn], numbers: Collection[int]) -> None:
    """As `repeat_effects`, by the history alone.

    Args:
        turns: all there are.
        numbers: of those whose effects to add again.
    """
    open_hooks = {} if decision.run.closed else outstanding(turns).hooks
    for turn in turns:
        if turn.number in numbers and turn.number >= _borrowed(decision.run):
            for effect in effects(turn):
                _have_effect(decision, effect, turn=turn.number, at=turn.at)
            for command in turn.commands:  # whoever has died may have claimed its token late
                if isinstance(command, OpenHook) and command.op not in open_hooks:
                    decision.released.append((command.op, command.token))
    attributes, last = attributes_after(decision.run.started_with, turns)
    if last in numbers and last >= _borrowed(decision.run):
        _set_attributes(decision, attributes, last)


def _borrowed(run: RunRecord) -> int:
    """How many of its first turns are another run's, so that their effects were that one's."""
    return 0 if run.origin is None else run.origin.turns
