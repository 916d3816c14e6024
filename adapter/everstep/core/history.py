"""The record of a run: its turns, the events they consumed and the commands they issued.

A run is a fold over its turns. Events are inputs (past tense), commands are outputs (imperative). Payloads
(``bytes``) are plain JSON text here; compression and encryption belong to the codec of the stored record.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Micros: TypeAlias = int
"""A moment: whole microseconds since the Unix epoch."""


# --- events ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """The first event of every history. The input is in the run record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCompleted:
    """A step returned."""

    op: int
    attempt: int
    result: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed:
    """A step failed for good: its retries are used up, or the error was fatal."""

    op: int
    attempt: int
    error: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired:
    """A timer's time has come."""

    op: int


Event: TypeAlias = RunStarted | StepCompleted | StepFailed | TimerFired


# --- commands --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """Run the named step with this input. ``digest`` identifies the input; replay compares it."""

    op: int
    name: str
    input: bytes
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTimer:
    """Wake the run at ``due``."""

    op: int
    due: Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTimer:
    """The timer ``op`` is no longer wanted."""

    op: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteRun:
    """The workflow returned."""

    result: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FailRun:
    """The workflow raised."""

    error: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinueRun:
    """The workflow asked to go on as a new run with this input and an empty history."""

    input: bytes


ClosingCommand: TypeAlias = CompleteRun | FailRun | ContinueRun
Command: TypeAlias = RunStep | StartTimer | CancelTimer | ClosingCommand


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One atomic record of a history.

    Attributes:
        number: position in the history, dense from 0.
        at: the time the body saw during this turn; never before the previous turn's.
        build: the build of the app that made the turn.
        nonce: unique to the writer's attempt at this turn; tells a lost race from an own write that was retried.
        events: what the turn consumed, in the order of delivery.
        commands: what the body asked for in answer, in the order it asked.
    """

    number: int
    at: Micros
    build: str
    nonce: str
    events: tuple[Event, ...]
    commands: tuple[Command, ...]
