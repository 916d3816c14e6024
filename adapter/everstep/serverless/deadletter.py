"""The dead-letter function: what becomes of a message that was received as often as the queue allows.

=============================== ==================================================================
message                         what happens
=============================== ==================================================================
of a closed run, or of a run    acknowledged: nothing waits for it
that is not there
a step                          the step fails with `StepInterruptedError`, which the workflow can
                                catch
start, advance, timer           the run is parked; ``resume`` asks again for all it waits for
unreadable, its id names a run  the run is parked, until code is deployed that can read it
any, but the run is unreadable  the run is parked, for the same reason
unreadable, of no known run     kept in the dead-letter queue, and logged each time
=============================== ==================================================================

Every case is logged. The app is not needed for any of it, so that this works while a deployed app cannot be imported.
"""

from __future__ import annotations

from typing import Any, Final, assert_never

from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse

from everstep.codec.failures import encode_error
from everstep.core.history import StepFailed
from everstep.core.messages import AdvanceRun, ExecuteStep, FireTimer, StartRun
from everstep.core.run import Parked, Problem
from everstep.errors import SerializationError, StepInterruptedError
from everstep.ports import Delivery, Unreadable
from everstep.runtime.advance import park
from everstep.runtime.deliver import entry_of, wake
from everstep.runtime.engine import Engine
from everstep.runtime.progress import AttemptFailed, RunParked
from everstep.serverless.batch import UnreadableMessageError, answer
from everstep.serverless.context import Invocation, LambdaContext
from everstep.serverless.deliveries import Deliveries, run_of_delivery
from everstep.serverless.observe import Watch
from everstep.serverless.runner import BatchRunner

_WHY: Final = (
    "it was delivered as often as the queue allows and never handled to its end. Either its worker died each time (out "
    "of memory? stopped by the function's timeout?) or what it needs could not be reached; the worker's log has more"
)
_NO_TURNS: Final = 1 << 40


class DeadLetterHandler:
    """Answers the events of the dead-letter queue. One for each process."""

    def __init__(self, engine: Engine, deliveries: Deliveries, watch: Watch) -> None:
        self._engine = engine
        self._deliveries = deliveries
        self._watch = watch
        self._runner = BatchRunner()

    def __call__(self, event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
        """Which messages are to stay in the dead-letter queue."""
        return answer(
            event,
            context,
            deliveries=self._deliveries,
            runner=self._runner,
            watch=self._watch,
            handle=self._handle,
        )

    def close(self) -> None:
        """For tests: Lambda ends a process without asking."""
        self._runner.close()

    def _handle(self, _invocation: Invocation, delivery: Delivery, _body: str) -> None:
        message = delivery.message
        if isinstance(message, StartRun):
            self._engine.backend.runs.create(message.run)  # whoever started it may have died before
        run_id = run_of_delivery(delivery)
        try:
            snapshot = None if run_id is None else self._engine.backend.runs.load(run_id, first_turn=_NO_TURNS)
        except SerializationError as error:
            self._park_unread(str(run_id), f"its record cannot be read: {error}")
            return
        if isinstance(message, Unreadable) and snapshot is None:
            self._watch.logger.error(
                "a dead letter cannot be read, and no run can be told that it belongs to; it stays in the dead-letter "
                "queue until it expires there: %s",
                message.reason,
            )
            raise UnreadableMessageError(message.reason)
        if run_id is None or snapshot is None or snapshot.run.closed:
            state = "not there" if snapshot is None else str(snapshot.run.status)
            self._watch.logger.warning("dead letter dropped: its run is %s", state)
            return
        match message:
            case ExecuteStep():
                self._give_up(message, delivery.root_id)
            case StartRun() | AdvanceRun() | FireTimer():
                park(self._engine, run_id, "poison", f"its {type(message).__name__} message was given up: {_WHY}")
            case Unreadable(reason=reason):
                park(self._engine, run_id, "unreadable", f"a message for it cannot be read: {reason}")
            case _:
                assert_never(message)

    def _park_unread(self, run_id: str, reason: str) -> None:
        engine = self._engine
        now = engine.clock.now()
        problem = Problem(code="unreadable", message=reason, turn=-1, build=engine.registry.build, at=now)
        engine.backend.runs.mark(run_id, Parked(problem=problem))  # which leaves a closed run as it is
        engine.tell(RunParked(run_id=run_id, reason=reason))

    def _give_up(self, message: ExecuteStep, root_id: str) -> None:
        """The step's outcome is its failure, unless another outcome came first.

        The wake-up is sent in any case: the worker may have died between the outcome and its wake-up.
        """
        engine = self._engine
        error = encode_error(StepInterruptedError(f"step {message.name!r} was given up: {_WHY}"))
        event = StepFailed(op=message.op, attempt=message.attempt, error=error)
        with engine.backend.unit():
            stored = engine.backend.inbox.deposit(message.run_id, entry_of(event))
            wake(engine, message.run_id, root_id, message.workflow, always=True)
        if stored:
            engine.tell(
                AttemptFailed(
                    run_id=message.run_id,
                    op=message.op,
                    step=message.name,
                    attempt=message.attempt,
                    at=engine.clock.now(),
                    error=error,
                    retry_at=None,
                )
            )
        else:
            self._watch.logger.warning("dead letter dropped: the step has an outcome; its run was woken")
