"""Make a turn of what arrived for a run, and record it (design 4.1, 4.3, 4.7).

Two halves. `decide` reads and replays; it writes nothing. `record` writes what was decided, in the order that is
right without transactions: the turn, then what it sends, then the run record, then the inbox. The message that
caused it is acknowledged by the caller, after that. Whatever a crash leaves undone, the redelivered message redoes.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from everstep.core.history import (
    AttributesRequested,
    CancelRequested,
    Event,
    HookConflicted,
    HookOpened,
    Micros,
    PauseRequested,
    RunStarted,
    TerminateRequested,
    TimerFired,
    Turn,
    UnpauseRequested,
    event_key,
)
from everstep.core.messages import AdvanceRun, FireTimer, Outgoing, StartRun, outgoing
from everstep.core.recorded import last_word, outstanding
from everstep.core.replay import Replay, RunInfo
from everstep.core.run import Closed, Parked, Problem, RunRecord, RunStatus, Started, Unparked
from everstep.errors import (
    DeterminismError,
    DivergenceError,
    NotRegisteredError,
    SerializationError,
    StoreError,
    WorkflowIOError,
    WorkflowNotRegisteredError,
)
from everstep.ports import HookClaim, InboxEntry, Snapshot
from everstep.runtime.decision import Arrival, Claim, Decision, Slots
from everstep.runtime.deliver import deliver, entry_of, wake
from everstep.runtime.dispatch import (
    after_the_end,
    ask_again,
    attempt_after,
    dispatch,
    finish,
    look_after_pause,
    mark_paused,
    redo,
    repeat_effects,
    turns_of,
)
from everstep.runtime.engine import Engine, Live
from everstep.runtime.progress import RunClosed, RunParked, TimerStarted

SETTLED_AFTER: Final[Micros] = 60_000_000
"""When a turn was made that long ago and what it consumed is still in the inbox, whoever made it has died."""
DAY: Final[Micros] = 86_400_000_000
"""No store forgets a closed run sooner than that."""


def advance(engine: Engine, arrival: Arrival) -> None:
    """Decide and record until the turn is won or nothing is left to do."""
    while True:
        decision = decide(engine, arrival)
        if decision is None:
            return
        try:
            with engine.backend.unit():
                won = record(engine, decision)
        except SerializationError as error:
            abandon(decision)
            refused(engine, arrival, decision, error)
            return
        except BaseException:
            abandon(decision)
            raise
        if won:
            settle(engine, decision)
            return
        abandon(decision)


def decide(engine: Engine, arrival: Arrival, slots: Slots | None = None) -> Decision | None:
    """Replay the run with what arrived. None when there is nothing to write.

    Writes nothing but the record of a run whose start message came and which is not there.
    """
    live = engine.live.take(arrival.run_id)
    inbox: Sequence[InboxEntry] = ()
    # A warm instance may be behind the history. What it accepts, the append judges; before it refuses something, look.
    # What was asked of a run before its time is in the inbox, and its start message does not say so.
    behind = live is not None and (
        not live.replay.begun or not all(live.replay.wants(event) for event in arrival.events)
    )
    if live is None or behind or arrival.read_inbox or arrival.recover:
        first_turn = 0 if live is None else live.replay.turns
        try:
            snapshot = engine.backend.runs.load(arrival.run_id, first_turn=first_turn)
            if snapshot is None and arrival.start is not None:  # whoever started it died before the record was there
                engine.backend.runs.create(arrival.start)
                snapshot = engine.backend.runs.load(arrival.run_id, first_turn=first_turn)
        except BaseException:
            if live is not None:
                live.replay.discard()
            raise
        if snapshot is None or snapshot.run.closed or _ends(snapshot):
            if live is not None:
                live.replay.discard()
            if snapshot is not None and first_turn > 0:
                snapshot = engine.backend.runs.load(arrival.run_id)
            return None if snapshot is None else _end(engine, snapshot, arrival)
        inbox = snapshot.inbox
        problem = snapshot.run.problem
        if problem is not None and problem.build == engine.registry.build and not arrival.recover:
            if live is not None:
                live.replay.discard()
            return _wait_for_code(engine, snapshot.run, arrival)
        try:
            live = _catch_up(engine, snapshot.run, snapshot.turns, live)
        except Exception as error:
            return _park(engine, snapshot.run, error, arrival, turn=len(snapshot.turns))
    try:
        return _decide(engine, live, arrival, inbox, slots)
    except BaseException as error:
        live.replay.discard()
        if not isinstance(error, Exception):
            raise
        return _park(engine, live.record, error, arrival, turn=live.replay.turns)


def _ends(snapshot: Snapshot) -> bool:
    """Whether the run is to be terminated, or has its last turn already."""
    return _termination(snapshot) is not None or last_word(snapshot.turns) is not None


def _termination(snapshot: Snapshot) -> TerminateRequested | None:
    return next((each.event for each in snapshot.inbox if isinstance(each.event, TerminateRequested)), None)


def _end(engine: Engine, snapshot: Snapshot, arrival: Arrival) -> Decision | None:
    """What is left to do for a run that has ended, or ends without its body being asked."""
    if snapshot.run.closed:
        decision = after_the_end(snapshot, arrival.keys)
        return None if decision.empty else decision
    return finish(engine, snapshot, _termination(snapshot), arrival.keys)


def record(engine: Engine, decision: Decision) -> bool:
    """Write the decision; False when another worker's turn came first (nothing is written then)."""
    backend, run_id = engine.backend, decision.run.run_id
    if decision.turn is not None and not backend.runs.append(run_id, decision.turn):
        return False
    for child in decision.created:
        backend.runs.create(child)
    for op, token in decision.released:
        backend.hooks.release(token, run_id=run_id, op=op)
    for claim in decision.claimed.values():  # before a step is sent the token, and gives it to somebody who is quick
        _claim(engine, decision, claim)
    if decision.messages:
        backend.queue.send(decision.messages)
    for op in decision.cancelled:
        backend.steps.request_cancel(run_id, op)
    if decision.cancelled and decision.live is not None:
        _hurry(engine, decision, decision.live.replay)
    for report in decision.reports:
        root_id, workflow = decision.run.root_id, report.workflow
        deliver(engine, report.run_id, root_id, workflow, report.event, always=decision.again)
        decision.woke = True
    for entry in decision.deposits:
        backend.inbox.deposit(run_id, entry)
    if decision.deposits and decision.live is not None:  # held for a pause: it may just have ended, by another's turn
        wake(engine, run_id, decision.run.root_id, decision.run.workflow)
        decision.woke = True
    for change in decision.changes:
        backend.runs.mark(run_id, change)
    if decision.consumed:
        backend.inbox.remove(run_id, decision.consumed)
    if decision.discarded:  # last, for one of them may be the message that guards all this
        backend.queue.discard(decision.discarded)
    return True


def _hurry(engine: Engine, decision: Decision, replay: Replay) -> None:
    """Let cancelled steps that wait for their next attempt have it now, so that they end: it will not be begun."""
    now, run = engine.clock.now(), decision.run
    last = {failed.op: failed for failed in engine.backend.steps.failed_attempts(run.run_id)}
    for op, call in replay.outstanding()[0]:
        failed = last.get(op)
        if op in decision.cancelled and failed is not None and failed.retry_at > now:
            attempt = outgoing(attempt_after(run, op, call, failed, sole=False), now, run.root_id, run.workflow)
            engine.backend.queue.discard([attempt.message_id])
            engine.backend.queue.send([attempt])
            decision.woke = True


def _claim(engine: Engine, decision: Decision, claim: Claim) -> None:
    """Claim the token; tell the run of a conflict, or that there is none if it wants to know."""
    backend, run, op = engine.backend, decision.run, claim.hook.op
    held = backend.hooks.claim(claim.hook)
    if held is not None and not _is_open(engine, held):  # a claim that came late, or was not given free by who died
        backend.hooks.release(held.token, run_id=held.run_id, op=held.op)
        held = backend.hooks.claim(claim.hook)
    known = 0 if decision.live is None else decision.live.replay.turns
    if held is None and not _is_open(engine, claim.hook, as_of=known):  # this claim comes late: it was closed meanwhile
        backend.hooks.release(claim.hook.token, run_id=run.run_id, op=op)
        return
    if held is None and not claim.confirm:
        return
    event = HookOpened(op=op) if held is None else HookConflicted(op=op, run_id=held.run_id)
    deliver(engine, run.run_id, run.root_id, run.workflow, event)
    decision.woke = True


def _is_open(engine: Engine, hook: HookClaim, *, as_of: int = 0) -> bool:
    """Whether the hook is open, by the history of its run.

    Args:
        as_of: it was open after so many turns.
    """
    snapshot = engine.backend.runs.load(hook.run_id, first_turn=as_of)
    if snapshot is None or snapshot.run.closed or last_word(snapshot.turns) is not None:
        return False
    known = {hook.op: hook.token} if as_of else {}
    return hook.op in outstanding(snapshot.turns, hooks=known).hooks


def settle(engine: Engine, decision: Decision) -> None:
    """After the decision is durable: keep the live instance warm and tell who watches."""
    if decision.live is not None:
        if decision.live.replay.closing is None:
            if decision.changes:  # started, unparked: what a warm instance's record must not forget
                run, replay = decision.run, decision.live.replay
                decision.live.record = replace(
                    run,
                    problem=None,
                    status=RunStatus.RUNNING,
                    started_at=run.started_at or replay.time_of(0),
                    paused_at=(run.paused_at or replay.loop.now) if replay.paused else None,
                    attributes=replay.attributes,
                    first_attributes=run.started_with,
                )
            engine.live.keep(decision.live)
        else:
            decision.live.replay.discard()
    if engine.observe is None:
        return
    run_id = decision.run.run_id
    for message in decision.messages:
        if isinstance(message.message, FireTimer):
            engine.observe(TimerStarted(run_id=run_id, op=message.message.op, due=message.message.due))
    for change in decision.changes:
        if isinstance(change, Closed):
            engine.observe(RunClosed(run_id=run_id, status=change.status, continued_to=change.continued_to))
        elif isinstance(change, Parked):
            engine.observe(RunParked(run_id=run_id, reason=change.problem.message))


def abandon(decision: Decision) -> None:
    """The decision is not, or may not be, recorded: its live instance is ahead of the history."""
    if decision.live is not None:
        decision.live.replay.discard()


def refused(engine: Engine, arrival: Arrival, decision: Decision, error: SerializationError) -> None:
    """The store cannot hold what was decided (it is too large): park the run, whose outcomes wait in its inbox."""
    turn = -1 if decision.turn is None else decision.turn.number
    parking = _park(engine, decision.run, error, arrival, turn=turn)
    with engine.backend.unit():
        record(engine, parking)
    settle(engine, parking)


def park(engine: Engine, run_id: str, code: str, message: str) -> None:
    """Park a run for a reason found outside its body."""
    snapshot = engine.backend.runs.load(run_id, first_turn=1 << 40)
    if snapshot is None or snapshot.run.closed:
        return
    problem = Problem(code=code, message=message, turn=-1, build=engine.registry.build, at=engine.clock.now())
    engine.backend.runs.mark(run_id, Parked(problem=problem))
    engine.tell(RunParked(run_id=run_id, reason=message))


# --- deciding ----------------------------------------------------------------------------------------


def _catch_up(engine: Engine, run: RunRecord, turns: Iterable[Turn], live: Live | None) -> Live:
    if live is None:
        replay = _begin(engine, run)
        live = Live(record=run, replay=replay)
    else:
        live.record = run
    try:
        live.replay.apply(*turns)
    except BaseException:
        live.replay.discard()
        raise
    return live


def missing(workflow: str) -> str:
    """What to say of a workflow that the app does not have."""
    return (
        f"workflow {workflow!r} is not registered with this app: import the module that defines it, or restore the "
        f"workflow"
    )


def _begin(engine: Engine, run: RunRecord) -> Replay:
    program = engine.registry.workflows.get(run.workflow)
    if program is None:
        raise WorkflowNotRegisteredError(missing(run.workflow))
    info = RunInfo(
        run_id=run.run_id,
        workflow=run.workflow,
        input=run.input,
        seed=None if run.origin is None else run.origin.run_id,
        attributes=run.started_with,
        public_url=engine.public_url,
    )
    return Replay(program, info, entropy=engine.entropy)


def _decide(
    engine: Engine, live: Live, arrival: Arrival, inbox: Sequence[InboxEntry], slots: Slots | None
) -> Decision | None:
    replay, run = live.replay, live.record
    now = max(engine.clock.now(), arrival.not_before, replay.loop.now)
    events, held = _to_deliver(replay, arrival, inbox)
    begins = not replay.begun and not any(isinstance(event, CancelRequested) for event in events)
    early = begins and now < run.start_at
    if early and replay.turns == 0 and not held.rests:  # what waits is read when it begins
        replay.discard()
        return Decision(run=run, messages=[_start_of(run)]) if arrival.recover else None
    if not held.rests:
        if begins and not early:
            events.append(RunStarted())  # after what was asked of it before
        events.extend(replay.due_timers(now))
    decision = Decision(run=run, live=live)
    decision.consumed = [entry.key for entry in inbox if entry.key not in held.keys]
    decision.deposits = _entries(event for event in arrival.events if event_key(event) in held.keys)
    if run.started_at is None and replay.turns > 0:  # a crash came between the first turn and the record
        decision.changes.append(Started(at=replay.time_of(0)))
    if run.problem is not None:
        decision.changes.append(Unparked())
    unsure = _unsure(replay, decision, arrival, inbox, now)
    perhaps = unsure | _recent(replay, arrival, run, now)
    decision.again = bool(perhaps)
    repeat_effects(decision, replay, perhaps)
    if events:
        _make_turn(engine, decision, replay, events, now, slots)
    if replay.closing is None:
        mark_paused(decision, paused=replay.paused, at=replay.loop.now)
        for turn in unsure if decision.turn is None else {*unsure, decision.turn.number}:
            if turn in replay.unpaused:
                look_after_pause(decision, replay, turn, replay.time_of(turn))
        if early and arrival.recover:
            decision.messages.append(_start_of(run))
        everything = arrival.recover or run.problem is not None
        ask_again(engine, decision, replay, range(replay.turns) if everything else unsure)
    if decision.empty:
        engine.live.keep(live)
        return None
    return decision


def _make_turn(
    engine: Engine, decision: Decision, replay: Replay, events: Sequence[Event], now: Micros, slots: Slots | None
) -> None:
    delivered, commands = replay.advance(now, events)
    turn = Turn(
        number=replay.turns - 1,
        at=replay.loop.now,
        build=engine.registry.build,
        nonce=engine.nonce(),
        events=delivered,
        commands=commands,
        drawn=replay.drawn,
    )
    if engine.verify:
        _verify(engine, decision.run, turn)
    decision.turn = turn
    dispatch(decision, replay, turn, slots)


def _start_of(run: RunRecord) -> Outgoing:
    return outgoing(StartRun(run=run), run.start_at, run.root_id, run.workflow)


@dataclass(frozen=True, slots=True)
class _Held:
    """What is not delivered because the run is paused, by key."""

    rests: bool
    keys: frozenset[str] = frozenset()


def _to_deliver(replay: Replay, arrival: Arrival, inbox: Sequence[InboxEntry]) -> tuple[list[Event], _Held]:
    """What arrived and is wanted, each once, in the order of arrival. While the run is paused, what needs no body."""
    events: dict[str, Event] = {}
    for event in (*arrival.events, *(entry.event for entry in inbox)):
        if replay.wants(event):
            events.setdefault(event_key(event), event)
    arrived = list(events.values())
    pauses = replay.paused or any(isinstance(event, PauseRequested) for event in arrived)
    if not pauses or any(isinstance(event, (UnpauseRequested, CancelRequested)) for event in arrived):
        return arrived, _Held(rests=False)
    passing: list[Event] = [event for event in arrived if isinstance(event, (PauseRequested, AttributesRequested))]
    return passing, _Held(rests=True, keys=frozenset(events) - {event_key(event) for event in passing})


def _unsure(replay: Replay, decision: Decision, arrival: Arrival, inbox: Sequence[InboxEntry], now: Micros) -> set[int]:
    """The recorded turns whose commands may never have been sent.

    What arrives and is consumed already was consumed by somebody who may have died between the append and the sends.
    A message that comes again was to guard them. An inbox entry is removed after them; but one that is still there may
    also belong to somebody who is just about to remove it, so it is left there and looked at again in a minute.
    """
    run = decision.run
    everything = arrival.recover or run.problem is not None
    turns: set[int | None] = {replay.consumed_in(op) for op in arrival.again}
    turns.update(replay.turn_of(event) for event in arrival.events)
    turns.update(replay.consumed_in(op) for op in arrival.timers if replay.leads(op))
    if arrival.start is not None and replay.turns > 0:
        turns.update((0, replay.turn_of(RunStarted())))
        turns.update(range(0 if run.origin is None else run.origin.turns))
    for entry in inbox:
        turn = replay.turn_of(entry.event)
        if turn is None or replay.sent_again(entry.event):
            continue
        settled_at = replay.time_of(turn) + SETTLED_AFTER
        if everything or settled_at <= now:
            turns.add(turn)
        elif entry.key in decision.consumed:
            decision.consumed.remove(entry.key)
            look = AdvanceRun(run_id=run.run_id, cause=f"turn.{turn}", due=settled_at)
            decision.messages.append(outgoing(look, settled_at, run.root_id, run.workflow))
    return replay.led_to({turn for turn in turns if turn is not None})


def _recent(replay: Replay, arrival: Arrival, run: RunRecord, now: Micros) -> set[int]:
    """When all is asked again, the turns whose effects are too: not older ones, whose children may be forgotten."""
    if not arrival.recover and run.problem is None:
        return set()
    return {turn for turn in range(replay.turns) if replay.time_of(turn) > now - DAY}


def _verify(engine: Engine, run: RunRecord, turn: Turn) -> None:
    """Replay the whole history and the new turn in a fresh instance."""
    snapshot = engine.backend.runs.load(run.run_id)
    replay = _begin(engine, run)
    try:
        earlier = snapshot.turns if snapshot is not None else ()
        replay.apply(*(each for each in earlier if each.number < turn.number), turn)
    except DivergenceError as error:
        raise DivergenceError(f"verify: {error}") from error
    finally:
        replay.discard()


# --- parking -----------------------------------------------------------------------------------------


def _entries(events: Iterable[Event]) -> list[InboxEntry]:
    """What arrived with a message and must not be lost with it. A timer's message says what the history says too."""
    return [entry_of(event) for event in events if not isinstance(event, (RunStarted, TimerFired))]


def _wait_for_code(engine: Engine, run: RunRecord, arrival: Arrival) -> Decision:
    """What is done for a run that is parked: outcomes that arrived wait in its inbox.

    A message that comes again was to guard a turn that may not have taken effect. It will be gone, so see to it now.
    """
    decision = Decision(run=run, deposits=_entries(arrival.events), again=True)
    if arrival.keys:
        snapshot = engine.backend.runs.load(run.run_id)
        if snapshot is not None:
            redo(decision, snapshot.turns, turns_of(snapshot.turns, arrival.keys))
    return decision


def _park(engine: Engine, run: RunRecord, error: Exception, arrival: Arrival, *, turn: int) -> Decision:
    """Keep the run, with the reason. Outcomes that arrived wait in its inbox."""
    if isinstance(error, StoreError):
        raise error
    match error:
        case DivergenceError():
            code, message = "divergence", str(error)
        case WorkflowIOError():
            code, message = "io", str(error)
        case DeterminismError():
            code, message = "determinism", str(error)
        case NotRegisteredError():
            code, message = "workflow-missing", str(error)
        case SerializationError():
            code, message = "unreadable", str(error)
        case _:
            code = "internal"
            message = "".join(traceback.format_exception(error))[-4000:]
    problem = Problem(code=code, message=message, turn=turn, build=engine.registry.build, at=engine.clock.now())
    decision = _wait_for_code(engine, run, arrival)
    decision.changes.append(Parked(problem=problem))
    return decision
