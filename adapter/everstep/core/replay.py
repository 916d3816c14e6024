"""A run as a fold over its turns: history and new events in, commands out. Nothing else decides what a run does."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass
from random import Random
from typing import Any, assert_never

from everstep.core.durations import to_datetime
from everstep.core.history import (
    CancelTimer,
    ClosingCommand,
    Command,
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
    TimerFired,
    Turn,
)
from everstep.core.limits import check_size
from everstep.core.loop import WorkflowLoop, WorkflowTask, WorkflowTimer
from everstep.core.operations import ContinueAsNew, Program, StepCall, StepCodec
from everstep.errors import DivergenceError


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What a body may know about its run."""

    run_id: str
    workflow: str
    input: bytes


class Replay:
    """The live instance of a run: its suspended body and what it waits for.

    Made from the run's input, brought up to date with `apply` (recorded turns), moved on with `advance` (a new turn).
    It is a cache: the history is the truth. After any exception, and when the turn that `advance` made is not
    recorded, it must be discarded.
    """

    def __init__(self, program: Program, info: RunInfo) -> None:
        self.program = program
        self.info = info
        self.loop = WorkflowLoop(self)
        self.random = Random(info.run_id)
        self.turns = 0
        self.started_at: Micros = 0
        self.closing: ClosingCommand | None = None
        self._main: WorkflowTask | None = None
        self._ending = False
        self._next_op = 0
        self._steps: dict[int, StepCall[Any]] = {}
        self._timers: dict[int, WorkflowTimer] = {}
        self._due: list[tuple[Micros, int]] = []
        self._asked_in: dict[int, int] = {}
        self._consumed_in: dict[int, int] = {}
        self._leading: set[int] = set()
        self._times: list[Micros] = []
        self._asked: list[StepCall[Any] | WorkflowTimer | CancelTimer] = []

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
        with self.loop.entered():
            delivered, commands = self._run(at, events)
        self.turns += 1
        return delivered, commands

    def discard(self) -> None:
        """Throw the body away. Its ``finally`` blocks run, but nothing they ask for has an effect."""
        self.loop.discard()
        self._steps.clear()
        self._timers.clear()
        self._asked.clear()

    # --- what the run waits for ------------------------------------------------------------------

    def wants(self, event: Event) -> bool:
        """Whether the event is for an operation that is still outstanding."""
        match event:
            case RunStarted():
                return self.turns == 0
            case StepCompleted(op=op) | StepFailed(op=op):
                return op in self._steps
            case TimerFired(op=op):
                return op in self._timers
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

    def asked_in(self, op: int) -> int | None:
        """The turn that asked for an outstanding operation."""
        return self._asked_in.get(op)

    def consumed_in(self, op: int) -> int | None:
        """The turn that consumed an operation's outcome; None while it is outstanding."""
        return self._consumed_in.get(op)

    def time_of(self, turn: int) -> Micros:
        """When a turn was made."""
        return self._times[turn]

    def leads(self, op: int) -> bool:
        """Whether this timer was the first to fire in its turn, so that its message stands for the others'."""
        return op in self._leading

    @property
    def waiting_for(self) -> int:
        """How many operations are outstanding."""
        return len(self._steps) + len(self._timers)

    # --- what the body asks ----------------------------------------------------------------------

    def call(self, codec: StepCodec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StepCall[Any]:
        """A step call; the arguments are bound and encoded now."""
        with self.loop.trusting:
            data = check_size(codec.encode_call(args, kwargs), f"the input of step {codec.name!r}")
        return StepCall(self, codec, data)

    def in_own_task(self) -> bool:
        """Whether the workflow's own task is running, and not one that it made."""
        return asyncio.current_task(self.loop) is self._main

    def ask_step(self, call: StepCall[Any]) -> None:
        self._asked.append(call)

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
            if not isinstance(event, RunStarted):
                self._consumed_in[event.op] = self.turns
                self._asked_in.pop(event.op, None)
                if isinstance(event, TimerFired) and not fired:
                    fired = True
                    self._leading.add(event.op)
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
            case _:
                assert_never(event)

    def _unknown(self, event: TimerFired | StepCompleted | StepFailed) -> DivergenceError:
        return DivergenceError(
            f"turn {self.turns} delivers the outcome of operation {event.op} ({type(event).__name__}), which the "
            f"workflow {self.program.name!r} is not waiting for when it is replayed with the present code"
        )

    def _commands(self) -> tuple[Command, ...]:
        commands: list[Command] = []
        for asked in self._asked:
            if isinstance(asked, StepCall):
                if asked.withdrawn:
                    continue
                op = asked.op = self._next_op
                self._next_op += 1
                self._steps[op] = asked
                self._asked_in[op] = self.turns
                data = asked.data
                commands.append(RunStep(op=op, name=asked.codec.name, input=data, digest=self.program.digest(data)))
            elif isinstance(asked, CancelTimer):
                commands.append(asked)
            elif not asked.cancelled():
                op = asked.op = self._next_op
                self._next_op += 1
                self._timers[op] = asked
                self._asked_in[op] = self.turns
                heapq.heappush(self._due, (asked.due, op))
                commands.append(StartTimer(op=op, due=asked.due))
        self._asked.clear()
        main = self._main
        if self._ending and main is not None and not self.loop.live_tasks():
            self.closing = self._closing(main)
            commands.append(self.closing)
        return tuple(commands)

    def _closing(self, main: WorkflowTask) -> ClosingCommand:
        if main.cancelled():
            return FailRun(
                error=self.program.encode_error(asyncio.CancelledError("the workflow was cancelled from within"))
            )
        error = main.exception()
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1 and _continues(error):
            error = error.exceptions[0]  # called within a TaskGroup
        try:
            if isinstance(error, ContinueAsNew):
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
        case CancelTimer(op=op):
            return f"the end of timer {op}"
        case CompleteRun(result=data):
            return f"the workflow's return of {_shortened(data)}"
        case FailRun():
            return "the workflow's failure"
        case ContinueRun():
            return "continue-as-new"
        case _:
            assert_never(command)
