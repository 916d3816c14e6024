"""What a run waits for, read off its history alone: for a run that is ended without asking its body."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from everstep.core.history import (
    CancelChild,
    CancelTimer,
    ChildCancelled,
    ChildCompleted,
    ChildFailed,
    CloseHook,
    OpenHook,
    RunStep,
    StartChild,
    StartTimer,
    StepCompleted,
    StepFailed,
    TimerFired,
    Turn,
)


@dataclass(slots=True, kw_only=True)
class Outstanding:
    """Operations without an end, by number: names of steps, timers, tokens of hooks, awaited children."""

    steps: dict[int, str] = field(default_factory=dict)
    timers: set[int] = field(default_factory=set)
    hooks: dict[int, str] = field(default_factory=dict)
    children: dict[int, StartChild] = field(default_factory=dict)


def outstanding(turns: Iterable[Turn]) -> Outstanding:
    """The operations that the history began and did not end."""
    found = Outstanding()
    for turn in turns:
        for event in turn.events:
            match event:
                case StepCompleted(op=op) | StepFailed(op=op):
                    found.steps.pop(op, None)
                case TimerFired(op=op):
                    found.timers.discard(op)
                case ChildCompleted(op=op) | ChildFailed(op=op) | ChildCancelled(op=op):
                    found.children.pop(op, None)
                case _:
                    pass
        for command in turn.commands:
            match command:
                case RunStep(op=op, name=name):
                    found.steps[op] = name
                case StartTimer(op=op):
                    found.timers.add(op)
                case CancelTimer(op=op):
                    found.timers.discard(op)
                case OpenHook(op=op, token=token):
                    found.hooks[op] = token
                case CloseHook(op=op):
                    found.hooks.pop(op, None)
                case StartChild(op=op, awaited=True):
                    found.children[op] = command
                case CancelChild(op=op):
                    found.children.pop(op, None)
                case _:
                    pass
    return found
