"""A run as a fold over its turns: history and new events in, commands out. Nothing else decides what a run does."""

from __future__ import annotations

import asyncio
import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, assert_never

from everstep.core.attributes import changed, check_number
from everstep.core.durations import to_datetime
from everstep.core.history import (
    AttributesRequested,
    CancelChild,
    CancelRequested,
    CancelRun,
    CancelStep,
    CancelTimer,
    ChildCancelled,
    ChildCompleted,
    ChildFailed,
    CloseHook,
    ClosingCommand,
    Command,
    CompleteRun,
    ConfirmHook,
    ContinueRun,
    Event,
    FailRun,
    HookConflicted,
    HookOpened,
    HookReceived,
    Micros,
    OpenHook,
    PauseRequested,
    PublishValue,
    RunStarted,
    RunStep,
    SetAttributes,
    StartChild,
    StartTimer,
    StepCompleted,
    StepFailed,
    TerminateRequested,
    TimerFired,
    Turn,
    UnpauseRequested,
    WakeUpRequested,
    event_key,
)
from everstep.core.hooks import Hook
from everstep.core.ids import child_run_id
from everstep.core.limits import check_size
from everstep.core.loop import WorkflowLoop, WorkflowTask, WorkflowTimer
from everstep.core.operations import CallCodec, ChildCall, ContinueAsNew, Program, StepCall, StepCodec
from everstep.core.recorded import Outstanding
from everstep.errors import DivergenceError, WorkflowRunCancelledError, masked


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What a body may know about its run.

    Attributes:
        seed: what its random numbers follow from; its own id by default.
        attributes: those it was started with.
        public_url: where webhooks can be reached, if anybody said so.
    """

    run_id: str
    workflow: str
    input: bytes
    seed: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    public_url: str = ""


def _no_entropy(_size: int) -> bytes:
    raise RuntimeError("a replay of recorded turns draws nothing new")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Detached:
    """A child run that nobody waits for."""

    number: int
    codec: CallCodec
    data: bytes
    attributes: Mapping[str, str]
    start_at: Micros | None


@dataclass(frozen=True, slots=True)
class _Confirmation:
    """The body wants to know whether the hook's token is its own."""

    hook: Hook


_Asked = (
    StepCall[Any]
    | WorkflowTimer
    | Hook
    | ChildCall[Any]
    | _Detached
    | CancelStep
    | CancelTimer
    | _Confirmation
    | CloseHook
    | CancelChild
    | SetAttributes
    | PublishValue
)


class Replay:
    """The live instance of a run: its suspended body and what it waits for.

    Made from the run's input, brought up to date with `apply` (recorded turns), moved on with `advance` (a new turn).
    It is a cache: the history is the truth. After any exception, and when the turn that `advance` made is not
    recorded, it must be discarded.
    """

    def __init__(self, program: Program, info: RunInfo, *, entropy: Callable[[int], bytes] = _no_entropy) -> None:
        self.program = program
        self.info = info
        self.loop = WorkflowLoop(self)
        self.random = Random(info.seed or info.run_id)
        self.turns = 0
        self.started_at: Micros = 0
        self.closing: ClosingCommand | None = None
        self.paused = False
        self.unpaused: set[int] = set()
        self.attributes: dict[str, str] = dict(info.attributes)
        self.attributes_turn = -1
        self.published: dict[str, tuple[int, PublishValue]] = {}
        self._entropy = entropy
        self._main: WorkflowTask | None = None
        self._ending = False
        self._stopped: CancelRun | None = None
        self._cancelled: CancelRequested | None = None
        self._cancelled_late = False
        self._next_op = 0
        self._next_child = 0
        self._steps: dict[int, StepCall[Any]] = {}
        self._timers: dict[int, WorkflowTimer] = {}
        self._hooks: dict[int, Hook] = {}
        self._unconfirmed: set[int] = set()
        self._children: dict[int, ChildCall[Any]] = {}
        self._child_codecs: dict[int, CallCodec] = {}
        self._due: list[tuple[Micros, int]] = []
        self._asked_in: dict[int, int] = {}
        self._consumed_in: dict[int, int] = {}
        self._consumed_keys: dict[str, int] = {}
        self._nonces: dict[str, str] = {}
        self._leading: set[int] = set()
        self._fired_in: defaultdict[int, set[int]] = defaultdict(set)
        self._effects: dict[int, list[Command]] = {}
        self._times: list[Micros] = []
        self._asked: list[_Asked] = []
        self._drawn: list[str] = []
        self._to_draw: Iterator[str] = iter(())

    @staticmethod
    def current() -> Replay | None:
        """The run whose body is running in this thread; None anywhere else."""
        loop = asyncio._get_running_loop()
        return loop.host if type(loop) is WorkflowLoop else None  # type: ignore[return-value]

    # --- moving ----------------------------------------------------------------------------------

    def apply(self, *turns: Turn) -> None:
        """Replay recorded turns. `DivergenceError` when the body asks for something else than it did then."""
        loop = self.loop
        loop.replaying = True
        try:
            with loop.entered():
                for turn in turns:
                    if turn.number != self.turns:
                        raise DivergenceError(f"turn {turn.number} was given to a replay that is at turn {self.turns}")
                    self._to_draw = iter(turn.drawn)
                    _, commands = self._run(turn.at, turn.events)
                    if commands != turn.commands:
                        self._compare(turn, commands)
                    self.turns += 1
        finally:
            loop.replaying = False

    def advance(self, at: Micros, events: Sequence[Event]) -> tuple[tuple[Event, ...], tuple[Command, ...]]:
        """Deliver events at a moment; return those that were delivered and what the body asks for in answer.

        An event is passed over when an earlier one made the body lose interest, as a step's outcome does that ends the
        timeout around it.
        """
        self._drawn.clear()
        with self.loop.entered():
            delivered, commands = self._run(at, events)
        self.turns += 1
        return delivered, commands

    @property
    def drawn(self) -> tuple[str, ...]:
        """What the body drew in the turn that `advance` made: to be recorded with it."""
        return tuple(self._drawn)

    def discard(self) -> None:
        """Throw the body away. Its ``finally`` blocks run, but nothing they ask for has an effect."""
        self.loop.discard()
        self._steps.clear()
        self._timers.clear()
        self._hooks.clear()
        self._children.clear()
        self._asked.clear()

    # --- what the run waits for ------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """Whether the body has been entered, or never will be."""
        return self._main is not None or self.closing is not None

    def wants(self, event: Event) -> bool:
        """Whether the event is for something that is still outstanding. What it does not want it never will."""
        match event:
            case StepCompleted(op=op) | StepFailed(op=op):
                return op in self._steps
            case TimerFired(op=op):
                return op in self._timers
            case RunStarted():
                return not self.begun
            case HookOpened(op=op) | HookConflicted(op=op):
                return op in self._hooks and not self._hooks[op].confirmed and self._hooks[op].holder is None
            case HookReceived(op=op):
                return op in self._hooks and event_key(event) not in self._consumed_keys
            case ChildCompleted(op=op) | ChildFailed(op=op) | ChildCancelled(op=op):
                return op in self._children
            case CancelRequested() | TerminateRequested():
                return event_key(event) not in self._consumed_keys
            case WakeUpRequested() | PauseRequested() | UnpauseRequested() | AttributesRequested():
                return event_key(event) not in self._consumed_keys
            case _:
                assert_never(event)

    def due_timers(self, now: Micros) -> list[TimerFired]:
        """The timers whose time has come, in the order asyncio would fire them."""
        fired: list[TimerFired] = []
        due = self._due
        while due and due[0][0] <= now:
            _, op = heapq.heappop(due)
            if op in self._timers:
                fired.append(TimerFired(op=op))
        for event in fired:  # kept until they are delivered, so that asking twice is harmless
            heapq.heappush(due, (self._timers[event.op].due, event.op))
        return fired

    def outstanding(self) -> tuple[list[tuple[int, StepCall[Any]]], list[tuple[int, Micros]]]:
        """The steps (with their calls) and timers (with their due times) the run waits for, by operation."""
        return sorted(self._steps.items()), [(op, timer.due) for op, timer in sorted(self._timers.items())]

    def open_hooks(self) -> list[tuple[int, Hook]]:
        """The hooks that take payloads, by operation."""
        return sorted(self._hooks.items())

    def left(self) -> Outstanding:
        """What the run waits for, as `outstanding` reads it off a history."""
        return Outstanding(
            steps={op: call.codec.name for op, call in self._steps.items()},
            timers=set(self._timers),
            hooks={op: hook.token for op, hook in self._hooks.items()},
            children={op: self._start_child(op, call, awaited=True) for op, call in self._children.items()},
        )

    def open_hook_of(self, op: int) -> Hook | None:
        """The hook of this operation, if it takes payloads."""
        return self._hooks.get(op)

    def unconfirmed(self, op: int) -> bool:
        """Whether the body waits to be told whether the hook's token is its own."""
        return op in self._unconfirmed

    def effects_of(self, turn: int) -> Sequence[Command]:
        """Commands of a turn that have an effect, but no outcome that the run waits for."""
        return self._effects.get(turn, ())

    def asked_in(self, op: int) -> int | None:
        """The turn that asked for an outstanding operation."""
        return self._asked_in.get(op)

    def consumed_in(self, op: int) -> int | None:
        """The turn that consumed a step's or a timer's outcome; None while it is outstanding."""
        return self._consumed_in.get(op)

    def turn_of(self, event: Event) -> int | None:
        """The turn that consumed this event, or another of its kind; None while it is wanted."""
        match event:
            case StepCompleted(op=op) | StepFailed(op=op) | TimerFired(op=op):
                return self._consumed_in.get(op)
            case _:
                return self._consumed_keys.get(event_key(event))

    def sent_again(self, event: Event) -> bool:
        """Whether the event was consumed before, and this is not that one but another with its key, sent later."""
        nonce = getattr(event, "nonce", "")
        return bool(nonce) and self._nonces.get(event_key(event), nonce) != nonce

    def time_of(self, turn: int) -> Micros:
        """When a turn was made."""
        return self._times[turn]

    def leads(self, op: int) -> bool:
        """Whether this timer was the first to fire in its turn, so that its message stands for the others'."""
        return op in self._leading

    def led_to(self, turns: set[int]) -> set[int]:
        """These turns, those in which timers fired that they had asked for, and so on.

        If the messages of these turns were never sent, no message of their own stands for the others.
        """
        found: set[int] = set()
        while turns:
            found |= turns
            turns = {later for turn in turns for later in self._fired_in.get(turn, ())} - found
        return found

    @property
    def one_step(self) -> bool:
        """Whether a single step is under way, so that its outcome will hardly meet another."""
        return len(self._steps) == 1 and not self._children

    # --- what the body asks ----------------------------------------------------------------------

    def call(self, codec: StepCodec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StepCall[Any]:
        """A step call; the arguments are bound and encoded now."""
        with self.loop.trusting:
            data = check_size(codec.encode_call(args, kwargs), f"the input of step {codec.name!r}")
        return StepCall(self, codec, data)

    def in_own_task(self) -> bool:
        """Whether the workflow's own task is running, and not one that it made."""
        return asyncio.current_task(self.loop) is self._main

    def call_child(
        self,
        codec: CallCodec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        attributes: Mapping[str, str],
        start_at: Micros | None,
    ) -> ChildCall[Any]:
        """A call of a workflow; the arguments are bound and encoded now."""
        return ChildCall(self, codec, self._child_input(codec, args, kwargs), attributes, start_at)

    def start_child(
        self,
        codec: CallCodec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        attributes: Mapping[str, str],
        start_at: Micros | None,
    ) -> str:
        """Start a run that the body does not wait for; its id."""
        data = self._child_input(codec, args, kwargs)
        number = self._number_child()
        self._asked.append(_Detached(number=number, codec=codec, data=data, attributes=attributes, start_at=start_at))
        return child_run_id(self.info.run_id, number)

    def _child_input(self, codec: CallCodec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        with self.loop.trusting:
            return check_size(codec.encode_call(args, kwargs), f"the input of workflow {codec.name!r}")

    def _number_child(self) -> int:
        number = self._next_child
        self._next_child += 1
        return number

    def ask(self, call: StepCall[Any] | ChildCall[Any]) -> None:
        if isinstance(call, ChildCall):
            call.number = self._number_child()
        self._asked.append(call)

    def cancel_step(self, call: StepCall[Any]) -> bool:
        """Nobody waits for this step any more: it is told. False when it was never asked for, or has ended."""
        if self._steps.get(call.op) is not call:
            return False
        self._asked.append(CancelStep(op=call.op))
        return True

    def cancel_child(self, call: ChildCall[Any]) -> None:
        """Nobody waits for this child run any more: it is cancelled."""
        if self._children.get(call.op) is call:
            del self._children[call.op]
            self._asked_in.pop(call.op, None)
            self._asked.append(CancelChild(op=call.op, number=call.number, workflow=call.codec.name))

    def open_hook(self, hook: Hook) -> None:
        self._asked.append(hook)

    def confirm_hook(self, hook: Hook) -> None:
        self._asked.append(_Confirmation(hook))

    def close_hook(self, hook: Hook) -> None:
        if self._hooks.pop(hook.op, None) is not None:
            command = CloseHook(op=hook.op, token=hook.token)
            for turn in {hook.opened_in, self._asked_in.pop(hook.op)}:  # whoever claims for these is late from now on
                self._effects.setdefault(turn, []).append(command)
            self._unconfirmed.discard(hook.op)
            self._asked.append(command)

    def set_attributes(self, changes: Mapping[str, str | None]) -> None:
        """Change the attributes; `AttributeValidationError` when there would be too many."""
        check_number(changed(self.attributes, changes))
        self._change_attributes(changes)
        self._asked.append(SetAttributes(changes=dict(changes)))

    def publish(self, name: str, value: bytes) -> None:
        """Publish the value; of several in one turn only the last is recorded."""
        command = PublishValue(name=name, value=value)
        self.published[name] = (self.turns, command)
        self._asked.append(command)

    def draw(self, source: Callable[[], str]) -> str:
        """What cannot be computed again: taken from the source once, and from the history ever after."""
        if not self.loop.replaying:
            value = source()
            self._drawn.append(value)
            return value
        recorded = next(self._to_draw, None)
        if recorded is None:
            raise DivergenceError(
                f"replaying turn {self.turns}, the workflow {self.program.name!r} draws a token that is not in the "
                f"history: it opens a hook it did not open then"
            )
        return recorded

    def entropy(self, size: int) -> bytes:
        """Real chance, for a `draw`."""
        return self._entropy(size)

    def timer_asked(self, timer: WorkflowTimer) -> None:
        self._asked.append(timer)

    def timer_cancelled(self, timer: WorkflowTimer) -> None:
        if self._timers.pop(timer.op, None) is not None:
            self._asked.append(CancelTimer(op=timer.op))

    # --- the fold --------------------------------------------------------------------------------

    def _run(self, at: Micros, events: Iterable[Event]) -> tuple[tuple[Event, ...], tuple[Command, ...]]:
        loop = self.loop
        loop.now = max(loop.now, at)
        self._times.append(loop.now)
        delivered: list[Event] = []
        fired = False
        for event in events:
            if not loop.replaying and not self.wants(event):
                continue
            delivered.append(event)
            self._deliver(event)
            if isinstance(event, (StepCompleted, StepFailed, TimerFired)):
                self._consumed_in[event.op] = self.turns
                asked_in = self._asked_in.pop(event.op, None)
                if isinstance(event, TimerFired) and asked_in is not None:
                    self._fired_in[asked_in].add(self.turns)
                    if not fired:
                        fired = True
                        self._leading.add(event.op)
            else:
                key = event_key(event)
                self._consumed_keys[key] = self.turns
                if isinstance(event, (HookReceived, CancelRequested)):
                    self._nonces[key] = event.nonce
            loop.drain()
        main = self._main
        if main is not None and main.done() and not self._ending:
            self._ending = True
            for task in loop.live_tasks():  # as asyncio.run does when its coroutine has ended
                task.cancel()
            loop.drain()
        with loop.trusting:
            return tuple(delivered), self._commands()

    def _deliver(self, event: Event) -> None:
        match event:
            case StepCompleted(op=op, result=result):
                call = self._steps.pop(op, None)
                if call is None:
                    raise self._unknown(event)
                with self.loop.trusting:
                    call.resolve(result)
            case StepFailed(op=op, error=error):
                call = self._steps.pop(op, None)
                if call is None:
                    raise self._unknown(event)
                with self.loop.trusting:
                    call.reject(self.program.decode_error(error))
            case TimerFired(op=op):
                timer = self._timers.pop(op, None)
                if timer is None:
                    raise self._unknown(event)
                timer.fire()
            case RunStarted():
                self.started_at = self.loop.now
                with self.loop.trusting:
                    body = self.program.begin(self.info.input)
                self._main = self.loop.create_task(body, name=self.program.name, context=Context())
            case HookReceived(op=op, payload=payload):
                self._hook(event).receive(payload)
            case HookOpened(op=op):
                self._hook(event).confirm(None)
                self._unconfirmed.discard(op)
            case HookConflicted(op=op, run_id=holder):
                self._hook(event).confirm(holder)
                self._unconfirmed.discard(op)
            case ChildCompleted(result=result):
                with self.loop.trusting:
                    self._child(event).resolve(result)
            case ChildFailed(error=error):
                with self.loop.trusting:
                    self._child(event).reject(self.program.decode_error(error))
            case ChildCancelled(run_id=run_id, reason=reason):
                self._child(event).reject(WorkflowRunCancelledError(run_id, reason))
            case CancelRequested(reason=reason):
                self._unpause()
                self._cancelled = event
                if self._main is None:  # it is cancelled before it began
                    self._stopped = CancelRun(reason=reason)
                else:
                    self._cancelled_late = not self._main.cancel(reason)
            case TerminateRequested(reason=reason):
                self._stopped = CancelRun(reason=reason)
            case WakeUpRequested():
                for _, op in sorted((timer.due, op) for op, timer in self._timers.items() if timer.sleep):
                    timer = self._timers.pop(op, None)
                    if timer is not None:  # what woke before may have cancelled it
                        self._asked_in.pop(op, None)
                        self._asked.append(CancelTimer(op=op))
                        timer.fire()
                        self.loop.drain()
            case PauseRequested():
                self.paused = True
            case UnpauseRequested():
                self._unpause()
            case AttributesRequested(changes=changes):
                self._change_attributes(changes)
            case _:
                assert_never(event)

    def _unpause(self) -> None:
        if self.paused:
            self.unpaused.add(self.turns)
        self.paused = False

    def _hook(self, event: HookReceived | HookOpened | HookConflicted) -> Hook:
        hook = self._hooks.get(event.op)
        if hook is None:
            raise self._unknown(event)
        return hook

    def _child(self, event: ChildCompleted | ChildFailed | ChildCancelled) -> ChildCall[Any]:
        call = self._children.pop(event.op, None)
        if call is None:
            raise self._unknown(event)
        self._asked_in.pop(event.op, None)
        return call

    def _change_attributes(self, changes: Mapping[str, str | None]) -> None:
        self.attributes_turn = self.turns
        self.attributes = changed(self.attributes, changes)

    def _unknown(self, event: Event) -> DivergenceError:
        return DivergenceError(
            f"turn {self.turns} delivers the outcome of operation {getattr(event, 'op', '?')} "
            f"({type(event).__name__}), which the "
            f"workflow {self.program.name!r} is not waiting for when it is replayed with the present code"
        )

    def _commands(self) -> tuple[Command, ...]:
        commands: list[Command] = []
        self._child_codecs.clear()
        for asked in self._asked:
            command = self._command(asked)
            if command is not None:
                commands.append(command)
        self._asked.clear()
        main = self._main
        if self._stopped is not None:
            self.closing = self._stopped
            commands.append(self.closing)
        elif self._ending and main is not None and not self.loop.live_tasks():
            self.closing = self._closing(main)
            commands.append(self.closing)
        return tuple(commands)

    def _command(self, asked: _Asked) -> Command | None:
        """The command for what the body asked; None when it lost interest within the turn."""
        match asked:
            case StepCall():
                if asked.withdrawn:
                    return None
                op = asked.op = self._operation()
                self._steps[op] = asked
                data = asked.data
                return RunStep(op=op, name=asked.codec.name, input=data, digest=self.program.digest(data))
            case WorkflowTimer():
                if asked.cancelled():
                    return None
                op = asked.op = self._operation()
                self._timers[op] = asked
                heapq.heappush(self._due, (asked.due, op))
                return StartTimer(op=op, due=asked.due, sleep=asked.sleep)
            case Hook():
                if asked.closed:
                    return None
                op = asked.op = self._operation()
                asked.opened_in = self.turns
                self._hooks[op] = asked
                return OpenHook(
                    op=op,
                    token=asked.token,
                    kind=asked.kind,
                    webhook=asked.webhook,
                    metadata=asked.metadata,
                    answer=asked.answer,
                )
            case ChildCall():
                if asked.withdrawn:
                    return None
                op = asked.op = self._operation()
                self._children[op] = asked
                self._child_codecs[op] = asked.codec
                return self._start_child(op, asked, awaited=True)
            case _Detached():
                op = self._operation()
                self._child_codecs[op] = asked.codec
                return self._effect(self._start_child(op, asked, awaited=False))
            case _Confirmation(hook=hook):
                op = hook.op
                if op not in self._hooks:
                    return None
                self._unconfirmed.add(op)
                self._asked_in[op] = self.turns
                return ConfirmHook(op=op)
            case PublishValue(name=name):
                return asked if self.published[name][1] is asked else None
            case CancelStep() | CloseHook() | CancelChild():
                return self._effect(asked)
            case CancelTimer() | SetAttributes():
                return asked
            case _:
                assert_never(asked)

    def _operation(self) -> int:
        op = self._next_op
        self._next_op += 1
        self._asked_in[op] = self.turns
        return op

    def _start_child(self, op: int, asked: ChildCall[Any] | _Detached, *, awaited: bool) -> StartChild:
        return StartChild(
            op=op,
            number=asked.number,
            workflow=asked.codec.name,
            input=asked.data,
            digest=self.program.digest(asked.data),
            awaited=awaited,
            attributes=asked.attributes,
            start_at=asked.start_at,
        )

    def _effect(self, command: Command) -> Command:
        self._effects.setdefault(self.turns, []).append(command)
        return command

    def _closing(self, main: WorkflowTask) -> ClosingCommand:
        if main.cancelled():
            if self._cancelled is not None:
                return CancelRun(reason=self._cancelled.reason)
            return FailRun(
                error=self.program.encode_error(asyncio.CancelledError("the workflow was cancelled from within"))
            )
        error = main.exception()
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1 and _continues(error):
            error = error.exceptions[0]  # called within a TaskGroup
        try:
            if isinstance(error, ContinueAsNew):
                if self._cancelled_late and self._cancelled is not None:
                    return CancelRun(reason=self._cancelled.reason)
                data = self.program.encode_call(*error.call)
                return ContinueRun(input=check_size(data, f"the input of workflow {self.program.name!r}"))
            if error is None:
                result = self.program.encode_result(main.result())
                return CompleteRun(result=check_size(result, f"the result of workflow {self.program.name!r}"))
        except Exception as unfit:  # the value does not fit its annotation, or cannot be stored
            error = unfit
        return FailRun(error=self.program.encode_error(error))

    # --- divergence ------------------------------------------------------------------------------

    def _compare(self, turn: Turn, commands: tuple[Command, ...]) -> None:
        difference = self._difference(turn.commands, commands)
        if difference is not None:
            raise DivergenceError(
                f"replaying turn {turn.number} (recorded by build {turn.build}), the workflow "
                f"{self.program.name!r} {difference}. Restore what the body did, or deploy code that does the "
                f"same for this run; the run is kept until then"
            )

    def _difference(self, recorded: tuple[Command, ...], asked: tuple[Command, ...]) -> str | None:
        for index in range(max(len(recorded), len(asked))):
            if index >= len(asked):
                return f"stopped short: the history goes on with {describe(recorded[index])}, the body does not"
            if index >= len(recorded):
                return f"asked for {describe(asked[index])}, which is not in the history"
            if not self._same(recorded[index], asked[index]):
                return f"asked for {describe(asked[index])}, where the history has {describe(recorded[index])}"
        return None

    def _same(self, recorded: Command, asked: Command) -> bool:
        match recorded, asked:
            case RunStep(), RunStep():
                if (recorded.op, recorded.name) != (asked.op, asked.name):
                    return False
                return recorded.digest == asked.digest or self._steps[asked.op].codec.same_call(
                    recorded.input, asked.input
                )
            case StartTimer(), StartTimer():
                return (recorded.op, recorded.due) == (asked.op, asked.due)
            case StartChild(), StartChild():
                return recorded == replace(asked, input=recorded.input, digest=recorded.digest) and (
                    recorded.digest == asked.digest
                    or self._child_codecs[asked.op].same_call(recorded.input, asked.input)
                )
            case FailRun(), FailRun():
                return True  # tracebacks name lines, which move
            case _:
                return recorded == asked


def _continues(group: BaseExceptionGroup[Any]) -> bool:
    return group.subgroup(ContinueAsNew) is not None


def _shortened(data: bytes) -> str:
    return data[:200].decode("utf-8", "replace") + ("…" if len(data) > 200 else "")


def describe(command: Command) -> str:
    """A command in words, for errors and reports."""
    match command:
        case RunStep(op=op, name=name, input=data):
            return f"step {name!r} (operation {op}, input {_shortened(data)})"
        case StartTimer(op=op, due=due):
            return f"a timer until {to_datetime(due).isoformat()} (operation {op})"
        case CancelStep(op=op):
            return f"the end of step {op}"
        case CancelTimer(op=op):
            return f"the end of timer {op}"
        case OpenHook(op=op, token=token):
            return f"a hook with the token {masked(token)!r} (operation {op})"
        case ConfirmHook(op=op):
            return f"whether the token of hook {op} is its own"
        case CloseHook(op=op):
            return f"the end of hook {op}"
        case StartChild(op=op, workflow=workflow, input=data):
            return f"a child run of workflow {workflow!r} (operation {op}, input {_shortened(data)})"
        case CancelChild(op=op):
            return f"the end of child run {op}"
        case SetAttributes(changes=changes):
            return f"a change of the attributes {', '.join(changes)}"
        case PublishValue(name=name):
            return f"the publication of {name!r}"
        case CancelRun():
            return "the run's cancellation"
        case CompleteRun(result=data):
            return f"the workflow's return of {_shortened(data)}"
        case FailRun():
            return "the workflow's failure"
        case ContinueRun():
            return "continue-as-new"
        case _:
            assert_never(command)
