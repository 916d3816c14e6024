"""What a history says by itself, without a replay: so that it can be acted upon where the body cannot be replayed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from everstep.core.attributes import changed
from everstep.core.history import (
    AttributesRequested,
    CancelChild,
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
    ContinueRun,
    FailRun,
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
    event_key,
)


@dataclass(slots=True, kw_only=True)
class Outstanding:
    """Operations without an end, by number: names of steps, timers, tokens of hooks, awaited children."""

    steps: dict[int, str] = field(default_factory=dict)
    timers: set[int] = field(default_factory=set)
    hooks: dict[int, str] = field(default_factory=dict)
    children: dict[int, StartChild] = field(default_factory=dict)

    def add(self, turn: Turn) -> None:
        """What is outstanding after this turn, too."""
        for event in turn.events:
            match event:
                case StepCompleted(op=op) | StepFailed(op=op):
                    self.steps.pop(op, None)
                case TimerFired(op=op):
                    self.timers.discard(op)
                case ChildCompleted(op=op) | ChildFailed(op=op) | ChildCancelled(op=op):
                    self.children.pop(op, None)
                case _:
                    pass
        for command in turn.commands:
            match command:
                case RunStep(op=op, name=name):
                    self.steps[op] = name
                case StartTimer(op=op):
                    self.timers.add(op)
                case CancelTimer(op=op):
                    self.timers.discard(op)
                case OpenHook(op=op, token=token):
                    self.hooks[op] = token
                case CloseHook(op=op):
                    self.hooks.pop(op, None)
                case StartChild(op=op, awaited=True):
                    self.children[op] = command
                case CancelChild(op=op):
                    self.children.pop(op, None)
                case _:
                    pass


def outstanding(turns: Iterable[Turn], *, hooks: Mapping[int, str] | None = None) -> Outstanding:
    """The operations that these turns began, or that were open before (`hooks`), and that they did not end."""
    found = Outstanding(hooks=dict(hooks or {}))
    for turn in turns:
        found.add(turn)
    return found


def last_word(turns: Sequence[Turn]) -> ClosingCommand | None:
    """The command that ends the run, if the last of these turns has one."""
    last = turns[-1].commands[-1:] if turns else ()
    for command in last:
        if isinstance(command, (CompleteRun, FailRun, ContinueRun, CancelRun)):
            return command
    return None


def consumed(turns: Iterable[Turn]) -> dict[str, int]:
    """Which turn consumed what, by `event_key`."""
    return {event_key(event): turn.number for turn in turns for event in turn.events}


def effects(turn: Turn) -> list[Command]:
    """The turn's commands that have an effect, but no outcome that the run waits for."""
    return [
        command
        for command in turn.commands
        if isinstance(command, (CancelStep, CloseHook, CancelChild, PublishValue))
        or (isinstance(command, StartChild) and not command.awaited)
    ]


def attributes_after(started_with: Mapping[str, str], turns: Iterable[Turn]) -> tuple[dict[str, str], int]:
    """The attributes of a run after these turns, its first ones, and the last turn that changed them; -1 for none."""
    attributes, last = dict(started_with), -1
    for turn in turns:
        for each in (*turn.events, *turn.commands):
            if isinstance(each, (AttributesRequested, SetAttributes)):
                attributes, last = changed(attributes, each.changes), turn.number
    return attributes, last
