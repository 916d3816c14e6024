"""The worker function: handle the messages that SQS delivers, each to its end."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse

from everstep.core.history import Micros
from everstep.core.messages import ExecuteStep, Message, run_of
from everstep.ports import Delivery, Unreadable
from everstep.runtime.engine import Engine
from everstep.runtime.execute import Threads
from everstep.runtime.handle import Runner, handle
from everstep.serverless.batch import UnreadableMessageError, answer
from everstep.serverless.context import Invocation, LambdaContext
from everstep.serverless.deliveries import Deliveries
from everstep.serverless.observe import Watch
from everstep.serverless.runner import BatchRunner

WORTH_WAITING: Final[Micros] = 200_000
"""Waiting this long for a message to be due costs less than sending it once more."""


class MessageHandler:
    """Answers the events of the queue. One for each process."""

    def __init__(self, engine: Engine, deliveries: Deliveries, watch: Watch, runner: BatchRunner | None = None) -> None:
        self._engine = engine
        self._deliveries = deliveries
        self._watch = watch
        self._runner = runner or BatchRunner()

    def __call__(self, event: dict[str, Any], context: LambdaContext) -> PartialItemFailureResponse:
        """Which messages are to be delivered again."""
        batch = _Batch(self._engine, self._deliveries, self._watch, self._runner)
        try:
            return answer(
                event,
                context,
                deliveries=self._deliveries,
                runner=self._runner,
                watch=self._watch,
                handle=batch.handle,
            )
        finally:
            left_behind = self._runner.renew()
            if left_behind:
                self._watch.logger.warning(
                    "%d 'def' steps still run although their time was up; Python cannot stop a thread. Lambda freezes "
                    "them now, and they run on in the next invocation. Give their clients shorter timeouts",
                    left_behind,
                )

    def close(self) -> None:
        """For tests: Lambda ends a process without asking."""
        self._runner.close()


class _Batch:
    """The messages of one invocation, which know of each other."""

    def __init__(self, engine: Engine, deliveries: Deliveries, watch: Watch, runner: BatchRunner) -> None:
        self._engine = engine
        self._deliveries = deliveries
        self._watch = watch
        self._runner = runner
        self._lock = threading.Lock()
        self._begun: dict[str, Future[None]] = {}
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def handle(self, invocation: Invocation, delivery: Delivery, body: str) -> None:
        """Handle a message. A duplicate of one in the same batch is not handled again: it fares as that one does."""
        mine: Future[None] = Future()
        with self._lock:
            first = self._begun.setdefault(delivery.message_id, mine)
        if first is not mine:
            first.result()
            return
        try:
            self._handle(invocation, delivery, body)
        except BaseException as error:
            mine.set_exception(error)
            raise
        mine.set_result(None)

    def _handle(self, invocation: Invocation, delivery: Delivery, body: str) -> None:
        message = delivery.message
        if isinstance(message, Unreadable):
            raise UnreadableMessageError(message.reason)
        late = self._engine.clock.now() - delivery.due
        if late < -WORTH_WAITING:
            self._deliveries.send_on(delivery, body)
            self._watch.logger.debug("message sent on, it came before it was due")
            return
        if late < 0:
            time.sleep(-late / 1_000_000)
        self._watch.gather("QueueLatency", max(late, 0) / 1000)
        runner = _Timed(self._runner)
        begun = time.perf_counter()
        with self._alone(message):
            handle(
                self._engine,
                message,
                runner,
                root_id=delivery.root_id,
                receives=delivery.receives,
                time_left=invocation.time_left,
            )
        self._watch.gather("TurnLatency", (time.perf_counter() - begun - runner.seconds) * 1000)

    def _alone(self, message: Message) -> AbstractContextManager[Any]:
        """One turn of a run after the other. The history sees to that too, at the price of writes that are refused.

        Steps do not wait for each other.
        """
        if isinstance(message, ExecuteStep):
            return nullcontext()
        with self._lock:
            return self._turns[run_of(message)]


class _Timed(Runner):
    """Knows how long the step took."""

    def __init__(self, runner: BatchRunner) -> None:
        self._runner = runner
        self.seconds = 0.0

    @property
    def threads(self) -> Threads:
        return self._runner.threads

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        begun = time.perf_counter()
        try:
            return self._runner.run(coroutine)
        finally:
            self.seconds += time.perf_counter() - begun
