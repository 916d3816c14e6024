"""What the functions say: log lines with run, step and attempt on each, and metrics in CloudWatch's embedded format.

Powertools keeps log keys in a context variable. A message's keys are set in the context it is handled in; its step runs
in a copy of that, so the keys are on every line of the step too, also on those logged with the ``logging`` module.

Metrics are gathered in memory and written as one line at the end of the invocation.

============== ============ =========================================================================
metric         unit         meaning
============== ============ =========================================================================
StepsCompleted Count        attempts that returned
StepRetries    Count        attempts that failed and are followed by another
StepFailures   Count        attempts that failed and were the last of their step
RunsCompleted  Count        runs that ended well
RunsFailed     Count        runs that ended with an error
RunsParked     Count        times a run was parked
MessagesKept   Count        messages that were not dealt with and will be delivered again
TurnLatency    Milliseconds what it took to handle a message, less the step in it: read, replay, append, send
QueueLatency   Milliseconds from the time a message was due until it was begun
============== ============ =========================================================================
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, TextIO, assert_never

from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from everstep.codec.failures import describe_error
from everstep.core.messages import ExecuteStep
from everstep.core.run import RunStatus
from everstep.errors import SerializationError
from everstep.ports import Delivery, Unreadable
from everstep.runtime.progress import (
    AttemptFailed,
    AttemptStarted,
    AttemptSucceeded,
    Progress,
    RunClosed,
    RunParked,
    TimerStarted,
)
from everstep.serverless.deliveries import run_of_delivery

if TYPE_CHECKING:
    from aws_lambda_powertools.tracing import Tracer

NAMESPACE: Final = "Everstep"
"""Of the metrics, where ``POWERTOOLS_METRICS_NAMESPACE`` does not say another."""

_UNITS: Final = {"TurnLatency": MetricUnit.Milliseconds, "QueueLatency": MetricUnit.Milliseconds}
_ENDED: Final = {RunStatus.COMPLETED: "RunsCompleted", RunStatus.FAILED: "RunsFailed"}
_CHATTY: Final = ("botocore", "boto3", "urllib3", "asyncio")


class Watch:
    """Writes what one function does. Its methods may be called by several threads.

    Args:
        service: in log lines, and the dimension of metrics; by default what ``POWERTOOLS_SERVICE_NAME`` says.
        stream: where log lines go; Lambda keeps what is written to standard output.
        trace: tell X-Ray of each message, if ``aws-xray-sdk`` is there (``POWERTOOLS_TRACE_DISABLED`` wins).
    """

    def __init__(self, *, service: str | None = None, stream: TextIO | None = None, trace: bool = False) -> None:
        self.logger = Logger(service=service, stream=stream or sys.stdout)
        self._metrics = EphemeralMetrics(service=service)
        if not self._metrics.namespace:
            self._metrics.namespace = NAMESPACE
        self._gathered: deque[tuple[str, float]] = deque()
        self._tracer = self._make_tracer(service) if trace else None

    # --- log lines -------------------------------------------------------------------------------

    def adopt_root_logger(self) -> None:
        """Let lines that any code logs with the ``logging`` module have the form and the keys of ours.

        Takes the place of the handler that Lambda installs.
        """
        root = logging.getLogger()
        handler = self.logger.registered_handler
        if handler in root.handlers:
            return
        for other in root.handlers[:]:
            if type(other).__name__ == "LambdaLoggerHandler":
                root.removeHandler(other)
        root.addHandler(handler)
        root.setLevel(self.logger.log_level)
        logging.getLogger(self.logger.name).propagate = False  # the root's handler would write its lines again
        vars(logging)["logAsyncioTasks"] = False  # Python 3.12; Powertools would put "taskName" on each line
        logging.captureWarnings(True)  # such as those about what a workflow's body does
        for name in _CHATTY:
            if logging.getLogger(name).level == logging.NOTSET:
                logging.getLogger(name).setLevel(logging.WARNING)

    @contextmanager
    def keys(self, **keys: Any) -> Iterator[None]:
        """Put these keys on every line that is logged within, here and in what copies this context."""
        before = self.logger.thread_safe_get_current_keys()
        self.logger.thread_safe_append_keys(**keys)
        try:
            yield
        finally:
            self.logger.thread_safe_clear_keys()
            self.logger.thread_safe_append_keys(**before)

    def message(self, delivery: Delivery) -> AbstractContextManager[None]:
        """The keys of a message."""
        message = delivery.message
        keys: dict[str, Any] = {"message_id": delivery.message_id}
        run_id = run_of_delivery(delivery)
        if run_id is not None:
            keys["run_id"] = run_id
        if isinstance(message, ExecuteStep):
            keys |= {"step": message.name, "attempt": message.attempt}
        if delivery.workflow:
            keys["workflow"] = delivery.workflow
        if delivery.receives > 1:
            keys["receives"] = delivery.receives
        return self.keys(**keys)

    # --- progress --------------------------------------------------------------------------------

    def tell(self, progress: Progress) -> None:
        """What an engine tells its observer."""
        log = self.logger
        match progress:
            case AttemptStarted():
                log.debug("step started")
            case AttemptSucceeded():
                self.gather("StepsCompleted")
                log.debug("step completed")
            case AttemptFailed(step=step, attempt=attempt, error=error, retry_at=None):
                self.gather("StepFailures")
                log.warning("step %r failed for good in attempt %d: %s", step, attempt, _text(error))
            case AttemptFailed(step=step, attempt=attempt, error=error):
                self.gather("StepRetries")
                log.warning("step %r failed in attempt %d and will be tried again: %s", step, attempt, _text(error))
            case TimerStarted():
                log.debug("timer started")
            case RunClosed(status=status):
                if status in _ENDED:
                    self.gather(_ENDED[status])
                log.info("run %s", status)
            case RunParked(reason=reason):
                self.gather("RunsParked")
                log.error("run parked: %s", reason)
            case _:
                assert_never(progress)

    # --- metrics ---------------------------------------------------------------------------------

    def gather(self, metric: str, value: float = 1) -> None:
        """Add a value to a metric of this invocation."""
        self._gathered.append((metric, value))

    def write_metrics(self) -> None:
        """Write what was gathered, at the end of an invocation."""
        while self._gathered:
            metric, value = self._gathered.popleft()
            self._metrics.add_metric(name=metric, unit=_UNITS.get(metric, MetricUnit.Count), value=value)
        if self._metrics.metric_set:
            self._metrics.flush_metrics()

    # --- traces ----------------------------------------------------------------------------------

    def trace(self, delivery: Delivery) -> AbstractContextManager[Any]:
        """A subsegment of X-Ray around a message, if tracing is on."""
        message = delivery.message
        if self._tracer is None or isinstance(message, Unreadable):
            return nullcontext()
        name = message.name if isinstance(message, ExecuteStep) else type(message).__name__
        return self._subsegment(self._tracer, "".join(c for c in name if c.isalnum() or c in " _.-"), delivery)

    def _make_tracer(self, service: str | None) -> Tracer | None:
        try:
            from aws_lambda_powertools.tracing import Tracer

            return Tracer(service=service, auto_patch=False)
        except ImportError as error:
            self.logger.warning("messages are not traced: %s; add aws-xray-sdk to what is deployed", error)
            return None

    @contextmanager
    def _subsegment(self, tracer: Tracer, name: str, delivery: Delivery) -> Iterator[None]:
        with tracer.provider.in_subsegment(name=f"## {name}") as segment:
            segment.put_annotation(key="run_id", value=run_of_delivery(delivery) or "")
            segment.put_annotation(key="workflow", value=delivery.workflow)
            yield


def _text(error: bytes) -> str:
    try:
        view = describe_error(error)
    except SerializationError:
        return "(an error that cannot be read)"
    return f"{view.type}: {view.message}"
