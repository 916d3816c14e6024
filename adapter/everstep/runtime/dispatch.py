"""What follows from a turn: messages, tokens, other runs, the record (design 4.3, 4.6, 4.7).

Nothing is written here; it is added to a `Decision`. Everything may be added again: ids make repeating harmless.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import assert_never

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
    FailRun,
    Micros,
    OpenHook,
    PublishValue,
    RunStep,
    SetAttributes,
    StartChild,
    StartTimer,
    TerminateRequested,
    Turn,
)
from everstep.core.hooks import Hook
from everstep.core.ids import child_run_id, derived_run_id
from everstep.core.messages import ExecuteStep, FireTimer, Message, Outgoing, StartRun, outgoing, timer_id
from everstep.core.outstanding import outstanding
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

PARENT_ATTRIBUTE = "$parentRunId"
ROOT_ATTRIBUTE = "$rootRunId"


def dispatch(decision: Decision, replay: Replay, turn: Turn, slots: Slots | None) -> None:
    """All that follows from a new turn."""
    run = decision.run
    if turn.number == 0:
        decision.changes.append(Started(at=turn.at))
    was_paused = run.paused_at is not None
    if replay.paused and not was_paused:
        decision.changes.append(Paused(at=turn.at))
    elif was_paused and not replay.paused:
        decision.changes.append(Unpaused())
    for command in turn.commands:
        _follow(decision, replay, command, turn.at, slots)
    if replay.attributes_turn == turn.number:
        _set_attributes(decision, replay)
    if replay.closing is not None:
        close(decision, replay, replay.closing, at=turn.at)


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
        case OpenHook(op=op):
            pass  # its claim is below, with those that are claimed again
        case ConfirmHook():
            pass
        case StartChild():
            decision.messages.append(_child_message(run, command, at))
        case CancelStep() | CloseHook() | CancelChild():
            _repeat(decision, command)
        case PublishValue(name=name, value=value):
            decision.changes.append(Published(turn=replay.turns - 1, name=name, value=value))
        case SetAttributes() | CompleteRun() | FailRun() | ContinueRun() | CancelRun():
            pass  # the replay knows the state that follows
        case _:
            assert_never(command)
    if isinstance(command, (OpenHook, ConfirmHook)):
        hook = dict(replay.open_hooks()).get(command.op)
        if hook is not None:
            _claim(decision, replay, command.op, hook, at)


def _claim(decision: Decision, replay: Replay, op: int, hook: Hook, at: Micros) -> None:
    if hook.holder is not None or any(claim.hook.op == op for claim in decision.claimed):
        return
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
    decision.claimed.append(Claim(hook=claim, confirm=replay.unconfirmed(op)))


def _repeat(decision: Decision, command: Command) -> None:
    """The effect of a command that has no outcome."""
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
            decision.messages.append(_child_message(run, command, decision.run.created_at))
        case _:
            raise AssertionError(command)


def _set_attributes(decision: Decision, replay: Replay) -> None:
    changed = AttributesSet(turn=replay.attributes_turn, attributes=dict(replay.attributes))
    decision.changes.append(changed)


def _to(run: RunRecord, message: Message, due: Micros) -> Outgoing:
    return outgoing(message, due, run.root_id, run.workflow)


def _child_message(run: RunRecord, command: StartChild, at: Micros) -> Outgoing:
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
    return outgoing(StartRun(run=child), child.start_at, child.root_id, child.workflow)


# --- closing -----------------------------------------------------------------------------------------


def close(decision: Decision, replay: Replay, command: ClosingCommand, *, at: Micros) -> None:
    """What follows from a run's last turn."""
    run = decision.run
    decision.discarded.extend(timer_id(run.run_id, op) for op, _ in replay.outstanding()[1])
    decision.released.extend((op, hook.token) for op, hook in replay.open_hooks())
    for _, call in replay.children():
        child = child_run_id(run.run_id, call.number)
        wish = TerminateRequested(reason=f"run {run.run_id} has ended")
        decision.reports.append(Report(run_id=child, workflow=call.codec.name, event=wish))
    attributes = run.attributes if replay.attributes_turn < 0 else replay.attributes
    _mark_closed(decision, command, at, attributes)


def _mark_closed(decision: Decision, command: ClosingCommand, at: Micros, attributes: Mapping[str, str]) -> None:
    run = decision.run
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
                attributes=dict(attributes),
                continued_from=run.run_id,
                parent=run.parent,
            )
            decision.messages.append(_to(run, StartRun(run=successor), at))
            decision.changes.append(Closed(at=at, status=RunStatus.CONTINUED, continued_to=successor.run_id))
        case _:
            assert_never(command)
    if run.parent is not None and outcome is not None:
        decision.reports.append(Report(run_id=run.parent.run_id, workflow=run.parent.workflow, event=outcome))


def terminated(engine: Engine, snapshot: Snapshot, wish: TerminateRequested) -> Decision:
    """End a run without asking its body, so that it also ends where the body cannot be replayed.

    Args:
        snapshot: with all turns. Its last one may be the one that ended the run, when what follows is to be repeated.
    """
    run, turns = snapshot.run, snapshot.turns
    decision = Decision(run=run, consumed=[entry.key for entry in snapshot.inbox])
    last = turns[-1] if turns else None
    stop = CancelRun(reason=wish.reason)
    if last is not None and any(isinstance(event, TerminateRequested) for event in last.events):
        at = last.at
    else:
        at = max(engine.clock.now(), 0 if last is None else last.at)
        decision.turn = Turn(
            number=len(turns),
            at=at,
            build=engine.registry.build,
            nonce=engine.nonce(),
            events=(wish,),
            commands=(stop,),
        )
        if last is None:
            decision.changes.append(Started(at=at))
    left = outstanding(turns)
    decision.discarded.extend(timer_id(run.run_id, op) for op in sorted(left.timers))
    decision.released.extend(sorted(left.hooks.items()))
    for op, name in sorted(left.steps.items()):
        step = engine.registry.steps.get(name)
        if step is not None and step.cancellable:
            decision.cancelled.append(op)
    for _, child in sorted(left.children.items()):
        child_id = child_run_id(run.run_id, child.number)
        decision.reports.append(Report(run_id=child_id, workflow=child.workflow, event=wish))
    _mark_closed(decision, stop, at, run.attributes)
    return decision


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
        step = ExecuteStep(
            run_id=run.run_id,
            workflow=run.workflow,
            op=op,
            name=call.codec.name,
            attempt=1 if last is None else last.attempt + 1,
            input=call.data,
            sole=replay.one_step,
            first_at=now if last is None else last.started_at,
        )
        decision.messages.append(_to(run, step, now if last is None else last.retry_at))
    for op, due in replay.outstanding()[1]:
        if replay.asked_in(op) in turns:
            decision.messages.append(_to(run, FireTimer(run_id=run.run_id, op=op, due=due), due))
    for op, hook in replay.open_hooks():
        if replay.asked_in(op) in turns:
            _claim(decision, replay, op, hook, now)
    for op, child in replay.children():
        asked_in = replay.asked_in(op)
        if asked_in in turns and asked_in is not None:
            command = StartChild(
                op=op,
                number=child.number,
                workflow=child.codec.name,
                input=child.data,
                digest="",
                awaited=True,
                attributes=child.attributes,
                start_at=child.start_at,
            )
            decision.messages.append(_child_message(run, command, replay.time_of(asked_in)))


def repeat_effects(decision: Decision, replay: Replay, turns: Collection[int]) -> None:
    """Add again what these turns had an effect on beside the operations the run waits for."""
    for turn in sorted(turns):
        for effect in replay.effects_of(turn):
            _repeat(decision, effect)
    for name, (turn, value) in replay.published.items():
        if turn in turns:
            decision.changes.append(Published(turn=turn, name=name, value=value))
    if replay.attributes_turn in turns:
        _set_attributes(decision, replay)
