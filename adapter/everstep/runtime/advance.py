"""Make a turn of what arrived for a run, and record it (design 4.1, 4.3, 4.7).

Two halves. `decide` reads and replays; it writes nothing. `record` writes what was decided, in the order that is
right without transactions: the turn, then what it sends, then the run record, then the inbox. The message that
caused it is acknowledged by the caller, after that. Whatever a crash leaves undone, the redelivered message redoes.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, assert_never

from everstep.core.history import (
    CancelTimer,
    ClosingCommand,
    CompleteRun,
    ContinueRun,
    Event,
    FailRun,
    Micros,
    RunStarted,
    RunStep,
    StartTimer,
    StepCompleted,
    StepFailed,
    Turn,
)
from everstep.core.ids import derived_run_id
from everstep.core.messages import AdvanceRun, ExecuteStep, FireTimer, Message, Outgoing, StartRun, outgoing, timer_id
from everstep.core.replay import Replay, RunInfo
from everstep.core.run import Closed, Parked, Problem, RunChange, RunRecord, RunStatus, Started, Unparked
from everstep.errors import (
    DeterminismError,
    DivergenceError,
    NotRegisteredError,
    SerializationError,
    StoreError,
    WorkflowIOError,
    WorkflowNotRegisteredError,
)
from everstep.ports import FailedAttempt, InboxEntry
from everstep.runtime.engine import Engine, Live
from everstep.runtime.progress import RunClosed, RunParked, TimerStarted

SETTLED_AFTER: Final[Micros] = 60_000_000
"""When a turn was made that long ago and what it consumed is still in the inbox, whoever made it has died."""


@dataclass(slots=True, kw_only=True)
class Arrival:
    """What arrived for a run since its last turn.

    Attributes:
        events: outcomes, in order of arrival.
        timers: timers whose messages came.
        again: operations whose messages came again although their outcomes are recorded.
        start: the run that a start message asks for; it is created if it is not there.
        read_inbox: there may be more in the inbox.
        recover: ask again for all that is outstanding.
        not_before: it is at least this late, whatever the clock says: a timer's message was due then.
    """

    run_id: str
    events: list[Event] = field(default_factory=list)
    timers: list[int] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    start: RunRecord | None = None
    read_inbox: bool = False
    recover: bool = False
    not_before: Micros = 0


@dataclass(slots=True, kw_only=True)
class Slots:
    """How many steps the deciding worker could begin at once: their messages are leased to it when they are sent."""

    worker: str
    free: int


@dataclass(slots=True, kw_only=True)
class Decision:
    """What is to be written for a run, and what was replayed to find out."""

    run: RunRecord
    live: Live | None = None
    turn: Turn | None = None
    messages: list[Outgoing] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)
    changes: list[RunChange] = field(default_factory=list)
    deposits: list[InboxEntry] = field(default_factory=list)
    consumed: list[str] = field(default_factory=list)


def step_entry(event: StepCompleted | StepFailed) -> InboxEntry:
    """A step's outcome as an inbox entry: one per operation, whichever attempt comes first."""
    return InboxEntry(key=f"step/{event.op}", event=event)


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
    behind = live is not None and not all(live.replay.wants(event) for event in arrival.events)
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
        if snapshot is None or snapshot.run.closed:
            if live is not None:
                live.replay.discard()
            if snapshot is None or not snapshot.inbox:
                return None
            return Decision(run=snapshot.run, consumed=[entry.key for entry in snapshot.inbox])
        inbox = snapshot.inbox
        problem = snapshot.run.problem
        if problem is not None and problem.build == engine.registry.build and not arrival.recover:
            if live is not None:
                live.replay.discard()
            return Decision(run=snapshot.run, deposits=_entries(arrival))
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


def record(engine: Engine, decision: Decision) -> bool:
    """Write the decision; False when another worker's turn came first (nothing is written then)."""
    backend, run_id = engine.backend, decision.run.run_id
    if decision.turn is not None and not backend.runs.append(run_id, decision.turn):
        return False
    if decision.messages:
        backend.queue.send(decision.messages)
    if decision.discarded:
        backend.queue.discard(decision.discarded)
    for entry in decision.deposits:
        backend.inbox.deposit(run_id, entry)
    for change in decision.changes:
        backend.runs.mark(run_id, change)
    if decision.consumed:
        backend.inbox.remove(run_id, decision.consumed)
    return True


def settle(engine: Engine, decision: Decision) -> None:
    """After the decision is durable: keep the live instance warm and tell who watches."""
    if decision.live is not None:
        if decision.live.replay.closing is None:
            if decision.changes:  # started, unparked: what a warm instance's record must not forget
                run = decision.run
                decision.live.record = replace(
                    run,
                    problem=None,
                    status=RunStatus.RUNNING,
                    started_at=run.started_at or decision.live.replay.started_at,
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
    return Replay(program, RunInfo(run_id=run.run_id, workflow=run.workflow, input=run.input))


def _decide(
    engine: Engine, live: Live, arrival: Arrival, inbox: Sequence[InboxEntry], slots: Slots | None
) -> Decision | None:
    replay, run = live.replay, live.record
    decision = Decision(run=run, live=live, consumed=[entry.key for entry in inbox])
    if run.started_at is None and replay.turns > 0:  # a crash came between the first turn and the record
        decision.changes.append(Started(at=replay.started_at))
    if replay.closing is not None:  # the last turn is there, what follows it may not be
        _close(decision, replay, replay.closing, at=replay.loop.now)
        return decision
    now = max(engine.clock.now(), arrival.not_before, replay.loop.now)
    events: list[Event] = []
    if replay.turns == 0:
        if now < run.start_at:
            engine.live.keep(live)
            return None
        events.append(RunStarted())
    wanted: set[int] = set()
    for event in (*arrival.events, *(entry.event for entry in inbox)):
        if isinstance(event, (StepCompleted, StepFailed)) and event.op not in wanted and replay.wants(event):
            wanted.add(event.op)
            events.append(event)
    events.extend(replay.due_timers(now))
    if run.problem is not None:
        decision.changes.append(Unparked())
    if not events:
        _ask_again(engine, decision, replay, _unsure(replay, decision, arrival, inbox, now))
        if not decision.consumed and not decision.messages and not decision.changes:
            engine.live.keep(live)
            return None
        return decision
    unsure = _unsure(replay, decision, arrival, inbox, now)
    delivered, commands = replay.advance(now, events)
    turn = Turn(
        number=replay.turns - 1,
        at=replay.loop.now,
        build=engine.registry.build,
        nonce=engine.nonce(),
        events=delivered,
        commands=commands,
    )
    if engine.verify:
        _verify(engine, run, turn)
    decision.turn = turn
    _dispatch(decision, replay, turn, slots)
    if unsure and replay.closing is None:
        _ask_again(engine, decision, replay, unsure)
    return decision


def _unsure(
    replay: Replay, decision: Decision, arrival: Arrival, inbox: Sequence[InboxEntry], now: Micros
) -> range | set[int]:
    """The recorded turns whose commands may never have been sent.

    What arrives and is consumed already was consumed by somebody who may have died between the append and the sends.
    A message that comes again was to guard them. An inbox entry is removed after them; but one that is still there may
    also belong to somebody who is just about to remove it, so it is left there and looked at again in a minute.
    """
    if arrival.recover or decision.run.problem is not None:
        return range(replay.turns)
    turns: set[int | None] = {replay.consumed_in(op) for op in arrival.again}
    turns.update(replay.consumed_in(event.op) for event in arrival.events if not isinstance(event, RunStarted))
    turns.update(replay.consumed_in(op) for op in arrival.timers if replay.leads(op))
    if arrival.start is not None and replay.turns > 0:
        turns.add(0)
    for entry in inbox:
        turn = None if isinstance(entry.event, RunStarted) else replay.consumed_in(entry.event.op)
        if turn is None:
            continue
        settled_at = replay.time_of(turn) + SETTLED_AFTER
        if settled_at <= now:
            turns.add(turn)
        else:
            decision.consumed.remove(entry.key)
            look = AdvanceRun(run_id=decision.run.run_id, cause=f"turn.{turn}", due=settled_at)
            decision.messages.append(_to(decision.run, look, settled_at))
    return {turn for turn in turns if turn is not None}


def _dispatch(decision: Decision, replay: Replay, turn: Turn, slots: Slots | None) -> None:
    run = decision.run
    run_id = run.run_id
    sole = replay.waiting_for == 1
    at = turn.at
    for command in turn.commands:
        match command:
            case RunStep(op=op, name=name, input=data):
                lease_to = None
                if slots is not None and slots.free > 0:
                    slots.free -= 1
                    lease_to = slots.worker
                step = ExecuteStep(
                    run_id=run_id,
                    workflow=run.workflow,
                    op=op,
                    name=name,
                    attempt=1,
                    input=data,
                    sole=sole,
                    first_at=at,
                )
                decision.messages.append(outgoing(step, at, run.root_id, run.workflow, lease_to))
            case StartTimer(op=op, due=due):
                decision.messages.append(_to(run, FireTimer(run_id=run_id, op=op, due=due), due))
            case CancelTimer(op=op):
                decision.discarded.append(timer_id(run_id, op))
            case CompleteRun() | FailRun() | ContinueRun():
                _close(decision, replay, command, at=at)
            case _:
                assert_never(command)
    if turn.number == 0:
        decision.changes.insert(0, Started(at=at))


def _to(run: RunRecord, message: Message, due: Micros) -> Outgoing:
    return outgoing(message, due, run.root_id, run.workflow)


def _close(decision: Decision, replay: Replay, command: ClosingCommand, *, at: Micros) -> None:
    run = decision.run
    decision.discarded.extend(timer_id(run.run_id, op) for op, _ in replay.outstanding()[1])
    match command:
        case CompleteRun(result=result):
            decision.changes.append(Closed(at=at, status=RunStatus.COMPLETED, result=result))
        case FailRun(error=error):
            decision.changes.append(Closed(at=at, status=RunStatus.FAILED, error=error))
        case ContinueRun(input=data):
            successor = RunRecord(
                run_id=derived_run_id("continue", run.run_id),
                root_id=run.root_id,
                workflow=run.workflow,
                input=data,
                created_at=at,
                start_at=at,
                attributes=run.attributes,
                continued_from=run.run_id,
            )
            decision.messages.append(_to(run, StartRun(run=successor), at))
            decision.changes.append(Closed(at=at, status=RunStatus.CONTINUED, continued_to=successor.run_id))
        case _:
            assert_never(command)


def _ask_again(engine: Engine, decision: Decision, replay: Replay, turns: range | set[int]) -> None:
    """Send again what these turns asked for and the run still waits for.

    Message ids make it harmless where the first message is still under way.
    """
    run = decision.run
    failed: dict[int, FailedAttempt] = {}
    steps = [(op, call) for op, call in replay.outstanding()[0] if replay.asked_in(op) in turns] if turns else []
    timers = [(op, due) for op, due in replay.outstanding()[1] if replay.asked_in(op) in turns] if turns else []
    if steps:
        for attempt in engine.backend.steps.failed_attempts(run.run_id):
            if attempt.op not in failed or failed[attempt.op].attempt < attempt.attempt:
                failed[attempt.op] = attempt
    sole = replay.waiting_for == 1
    for op, call in steps:
        last = failed.get(op)
        step = ExecuteStep(
            run_id=run.run_id,
            workflow=run.workflow,
            op=op,
            name=call.codec.name,
            attempt=1 if last is None else last.attempt + 1,
            input=call.data,
            sole=sole,
            first_at=replay.loop.now if last is None else last.started_at,
        )
        decision.messages.append(_to(run, step, replay.loop.now if last is None else last.retry_at))
    for op, due in timers:
        decision.messages.append(_to(run, FireTimer(run_id=run.run_id, op=op, due=due), due))


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


def _entries(arrival: Arrival) -> list[InboxEntry]:
    return [step_entry(event) for event in arrival.events if isinstance(event, (StepCompleted, StepFailed))]


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
    return Decision(run=run, deposits=_entries(arrival), changes=[Parked(problem=problem)])
