"""Records to store in contract tests, and threads to store them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import pytest

from everstep.core import messages
from everstep.core.history import (
    CancelTimer,
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
from everstep.core.messages import AdvanceRun, Outgoing
from everstep.core.run import Problem, RunRecord
from everstep.ports import Backend, InboxEntry

T = TypeVar("T")

NOW: Final[Micros] = 1_750_000_000_000_000
SECOND: Final[Micros] = 1_000_000
MINUTE: Final[Micros] = 60 * SECOND


class Contract:
    """Base of the contract classes."""

    @pytest.fixture
    def backend(self) -> Backend:
        """A new, empty backend. Override it."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `backend` that opens a new, empty backend")


def run_id(number: int = 0) -> str:
    return f"wrun_{number:026d}"


def run_record(number: int = 0, **changes: Any) -> RunRecord:
    """A run as it is when it is created."""
    values: dict[str, Any] = {
        "run_id": run_id(number),
        "root_id": run_id(number),
        "workflow": "orders",
        "input": b'{"order":17}',
        "created_at": NOW + number,
        "start_at": NOW + number,
    }
    return RunRecord(**(values | changes))


def turn(number: int = 0, *, nonce: str = "mine", events: tuple[Event, ...] = (), **changes: Any) -> Turn:
    values: dict[str, Any] = {
        "number": number,
        "at": NOW + number,
        "build": "build-1",
        "nonce": nonce,
        "events": events or (RunStarted(),),
        "commands": (RunStep(op=number, name="charge", input=b'[17,"EUR"]', digest="0f" * 16),),
    }
    return Turn(**(values | changes))


EVERYTHING: Final = turn(
    events=(
        RunStarted(),
        StepCompleted(op=0, attempt=1, result="Ünïcødé 🎈".encode()),
        StepFailed(op=1, attempt=3, error=b'{"type":"ValueError"}'),
        TimerFired(op=2),
    ),
    commands=(
        RunStep(op=3, name="a step", input=bytes(range(256)), digest="ff" * 16),
        StartTimer(op=4, due=NOW + MINUTE),
        CancelTimer(op=4),
        CompleteRun(result=b"null"),
        FailRun(error=b"{}"),
        ContinueRun(input=b""),
    ),
)
"""A turn with every kind of event and command."""


def entry(number: int = 0, *, key: str | None = None) -> InboxEntry:
    event = StepCompleted(op=number, attempt=1, result=b'"done"')
    return InboxEntry(key=key or f"step/{number}", event=event)


def problem(build: str = "build-1", *, at: Micros = NOW) -> Problem:
    return Problem(code="divergence", message="turn 3 asks for another step – why?", turn=3, build=build, at=at)


def outgoing(
    number: int = 0,
    *,
    due: Micros = NOW,
    root_id: str = "root",
    workflow: str = "order",
    lease_to: str | None = None,
) -> Outgoing:
    message = AdvanceRun(run_id=run_id(number), cause="test")
    return messages.outgoing(message, due, root_id, workflow, lease_to)


def sent_id(number: int = 0) -> str:
    """The id of the message that `outgoing` makes."""
    return outgoing(number).message_id


def in_other_thread(call: Callable[[], T]) -> T:
    """What the call returns or raises when another thread makes it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(timeout=30)


def race(contestants: int, call: Callable[[int], T]) -> list[T]:
    """What the calls return when so many threads make them at the same moment, each with its number."""
    barrier = threading.Barrier(contestants)

    def compete(number: int) -> T:
        barrier.wait(timeout=30)
        return call(number)

    with ThreadPoolExecutor(contestants) as pool:
        return list(pool.map(compete, range(contestants), timeout=60))
