"""A batch of SQS messages, handled at once, and the answer that says which of them are to be delivered again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, final

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

from everstep.errors import SerializationError, StoreError
from everstep.ports import Delivery
from everstep.serverless.context import Invocation, LambdaContext
from everstep.serverless.deliveries import Deliveries
from everstep.serverless.observe import Watch
from everstep.serverless.runner import BatchRunner


class UnreadableMessageError(SerializationError):
    """A message cannot be decoded by this code. It stays in the queue, and goes to the dead letters in the end."""


@final
class _TogetherProcessor(BatchProcessor):
    """Powertools' processor, with the records handled at once.

    A batch that failed as a whole is answered like any other and not raised: an error of the function would say no
    more, and with a batch size of one every message that failed would count as one.
    """

    def __init__(self, runner: BatchRunner) -> None:
        super().__init__(event_type=EventType.SQS, raise_on_entire_batch_failure=False)
        self._runner = runner

    def process(self) -> list[Any]:
        return self._runner.together([partial(self._process_record, record) for record in self.records])


def answer(
    event: dict[str, Any],
    context: LambdaContext,
    *,
    deliveries: Deliveries,
    runner: BatchRunner,
    watch: Watch,
    handle: Callable[[Invocation, Delivery, str], None],
) -> PartialItemFailureResponse:
    """Handle each message of an SQS event; those for which `handle` raises are named as failed.

    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html#services-sqs-batchfailurereporting
    """
    if event.get("Records") == []:  # no queue sends that: `everstep deploy-check` sees by it that the function starts
        return {"batchItemFailures": []}
    invocation = Invocation(context)

    def handle_record(record: SQSRecord) -> None:
        receives = int(record.attributes.approximate_receive_count or 1)
        try:
            delivery = deliveries.read(record.body, receives)
        except Exception as error:
            _log_failure(watch, error, sqs_message_id=record.message_id, receives=receives)
            raise
        with watch.message(delivery), watch.trace(delivery):
            try:
                handle(invocation, delivery, record.body)
            except Exception as error:
                _log_failure(watch, error)
                raise

    try:
        with watch.keys(function_request_id=invocation.request_id):
            return process_partial_response(
                event=event, record_handler=handle_record, processor=_TogetherProcessor(runner)
            )
    finally:
        watch.write_metrics()


def _log_failure(watch: Watch, error: Exception, **keys: Any) -> None:
    """A message is kept: say why. What is expected to pass needs no stack trace."""
    watch.gather("MessagesKept")
    text = "message kept, it will be delivered again: %s: %s"
    if isinstance(error, (StoreError, UnreadableMessageError)):
        watch.logger.warning(text, type(error).__name__, error, extra=keys)
    else:
        watch.logger.error(text, type(error).__name__, error, extra=keys, exc_info=error)
