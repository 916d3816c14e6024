"""Durable execution on AWS: DynamoDB, SQS, EventBridge Scheduler, S3.

Units do nothing here: each call is atomic by itself, and the runtime's order of calls is right without more.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext

from everstep.backends.aws.blobs import S3Blobs
from everstep.backends.aws.clients import AwsClients
from everstep.backends.aws.hook_registry import DynamoHookRegistry
from everstep.backends.aws.inbox import DynamoInbox
from everstep.backends.aws.inspector import DynamoInspector
from everstep.backends.aws.message_body import ReceivedMessage
from everstep.backends.aws.message_queue import SqsMessageQueue
from everstep.backends.aws.message_source import LambdaMessageSource
from everstep.backends.aws.resources import AwsResources
from everstep.backends.aws.run_store import DynamoRunStore, StartTimes
from everstep.backends.aws.step_log import DynamoStepLog
from everstep.backends.aws.stream_store import DynamoStreamStore
from everstep.backends.aws.table import DynamoTable
from everstep.ports import Backend, Clock

__all__ = ["AwsClients", "AwsResources", "LambdaMessageSource", "ReceivedMessage", "SqsMessageQueue", "open_aws"]


def open_aws(
    resources: AwsResources,
    *,
    clock: Clock,
    clients: AwsClients | None = None,
    entropy: Callable[[int], bytes] | None = None,
) -> Backend:
    """The backend on these resources. Asks nothing of AWS: what is missing or forbidden shows at the first call.

    `Backend.queue` is an `SqsMessageQueue`, which also reads and defers what the platform delivers.

    Args:
        clock: tells how long a message is to be delayed, and puts deposits in order.
        clients: to share or to watch; they are closed with the backend all the same.
        entropy: returns so many random bytes, for the nonces of claims and flags. By default from a generator that the
            system seeds at each call, so that processes restored from one snapshot differ.
    """
    made = clients or AwsClients(resources)
    draw = entropy or _fresh
    table = DynamoTable(made, resources.table)
    blobs = S3Blobs(made, resources.bucket)
    starts = StartTimes()
    days = resources.retention_days

    def nonce() -> str:
        return draw(8).hex()

    return Backend(
        runs=DynamoRunStore(table, blobs, starts, retention_days=days),
        inbox=DynamoInbox(table, blobs, clock, nonce, retention_days=days),
        hooks=DynamoHookRegistry(table, blobs),
        steps=DynamoStepLog(table, blobs, nonce),
        streams=DynamoStreamStore(table, blobs, clock, retention_days=days),
        queue=SqsMessageQueue(made, blobs, resources, clock),
        source=LambdaMessageSource(),
        inspector=DynamoInspector(table, blobs, starts, clock),
        unit=nullcontext,
        close=made.close,
    )


def _fresh(size: int) -> bytes:
    return random.Random().randbytes(size)
