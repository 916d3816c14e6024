"""What arrived for one run between two rounds of a worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

from everstep.core.messages import AdvanceRun, ExecuteStep, FireTimer, StartRun
from everstep.ports import Delivery
from everstep.runtime.decision import Arrival
from everstep.runtime.engine import Engine
from everstep.runtime.execute import Failed, Outcome
from everstep.runtime.progress import AttemptFailed, AttemptSucceeded


@dataclass(slots=True, kw_only=True)
class Arrived:
    """What arrived for one run, and the messages to acknowledge once it is recorded."""

    arrival: Arrival
    messages: list[str] = field(default_factory=list)
    told: list[AttemptSucceeded | AttemptFailed] = field(default_factory=list)

    def take(self, delivery: Delivery, message: StartRun | AdvanceRun | FireTimer) -> None:
        """Add what a message says."""
        self.messages.append(delivery.message_id)
        arrival = self.arrival
        arrival.read_inbox = arrival.read_inbox or delivery.receives > 1 or isinstance(message, AdvanceRun)
        match message:
            case StartRun(run=run):
                arrival.start = run
                arrival.not_before = max(arrival.not_before, run.start_at)
            case AdvanceRun(recover=recover, due=due):
                arrival.not_before = max(arrival.not_before, due)
                arrival.recover = arrival.recover or recover
            case FireTimer(op=op, due=due):
                arrival.timers.append(op)
                arrival.not_before = max(arrival.not_before, due)
                arrival.read_inbox = True  # what is in there came before the timer
            case _:
                assert_never(message)

    def joined(self, other: Arrived | None) -> Arrived:
        """This and what arrived for the same run besides."""
        if other is None:
            return self
        mine, its = self.arrival, other.arrival
        mine.events += its.events
        mine.timers += its.timers
        mine.again += its.again
        mine.start = mine.start or its.start
        mine.read_inbox = mine.read_inbox or its.read_inbox
        mine.recover = mine.recover or its.recover
        mine.not_before = max(mine.not_before, its.not_before)
        self.messages += other.messages
        self.told += other.told
        return self


def ended(engine: Engine, message: ExecuteStep, outcome: Outcome) -> AttemptSucceeded | AttemptFailed:
    """The progress to tell of an attempt that has ended."""
    if isinstance(outcome, Failed):
        return AttemptFailed(
            run_id=message.run_id,
            op=message.op,
            step=message.name,
            attempt=message.attempt,
            at=outcome.ended_at,
            error=outcome.error,
            retry_at=outcome.retry_at,
        )
    return AttemptSucceeded(
        run_id=message.run_id,
        op=message.op,
        step=message.name,
        attempt=message.attempt,
        at=engine.clock.now(),
    )
