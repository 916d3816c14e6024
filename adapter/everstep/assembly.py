"""Put a backend together: the only place that chooses one, and the process's current connection."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from everstep.core.history import Micros
from everstep.errors import ConfigurationError
from everstep.ports import Delivery
from everstep.runtime.connection import Connection

if TYPE_CHECKING:
    from everstep.backends.aws import SqsMessageQueue
    from everstep.settings import AwsSettings, Settings


class SystemClock:
    """The machine's clock."""

    def now(self) -> Micros:
        return time.time_ns() // 1000


def connect_sqlite(
    path: str | Path,
    *,
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
    must_exist: bool = False,
    public_url: str = "",
) -> Connection:
    """Open the embedded backend: one SQLite file, created if it does not exist (unless `must_exist`)."""
    from everstep.backends.sqlite import open_sqlite

    backend = open_sqlite(Path(path), synchronous=synchronous, must_exist=must_exist)
    return Connection(backend, SystemClock(), entropy=os.urandom, chance=random.random, public_url=public_url)


def connect_aws(aws: AwsSettings, *, public_url: str = "") -> Connection:
    """The ``aws`` backend: DynamoDB, SQS, EventBridge Scheduler and S3. Calls nothing yet.

    The clients of DynamoDB and SQS, which every run needs, are made now: a function does this while Lambda starts it,
    with more processor time than an invocation has. Nothing random is drawn before it is needed, and then from the
    system: a function that is restored from a snapshot would repeat what a seeded generator had in store.
    """
    try:
        from everstep.backends.aws import AwsClients, AwsResources, open_aws
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("boto3", "botocore"):
            raise ConfigurationError("the aws backend needs boto3: pip install 'everstep[aws]'") from error
        raise
    clock = SystemClock()
    resources = AwsResources(
        table=aws.table,
        queue_url=aws.queue_url,
        queue_arn=aws.queue_arn,
        bucket=aws.bucket,
        schedule_group=aws.schedule_group,
        scheduler_role_arn=aws.scheduler_role_arn,
        delay_limit=aws.delay_limit,
        region=aws.region,
        retention_days=aws.retention_days,
    )
    clients = AwsClients(resources)
    for service in ("dynamodb", "sqs"):
        clients.client(service)
    backend = open_aws(resources, clock=clock, clients=clients)
    return Connection(backend, clock, entropy=os.urandom, chance=random.SystemRandom().random, public_url=public_url)


class SqsDeliveries:
    """Implements `everstep.serverless.deliveries.Deliveries` over the backend's queue."""

    def __init__(self, queue: SqsMessageQueue) -> None:
        self._queue = queue

    def read(self, body: str, receives: int) -> Delivery:
        received = self._queue.read_body(body)
        return Delivery(
            message_id=received.message_id,
            message=received.message,
            receives=receives,
            due=received.due,
            root_id=received.root_id,
            workflow=received.workflow,
        )

    def send_on(self, delivery: Delivery, body: str) -> None:
        from everstep.backends.aws import ReceivedMessage

        received = ReceivedMessage(
            message_id=delivery.message_id,
            message=delivery.message,
            due=delivery.due,
            root_id=delivery.root_id,
            workflow=delivery.workflow,
            body=body,
        )
        self._queue.defer(received)


def sqs_deliveries(connection: Connection) -> SqsDeliveries:
    """What reads the messages that SQS hands to a function; the connection is one of `connect_aws`."""
    from everstep.backends.aws import SqsMessageQueue

    queue = connection.backend.queue
    if not isinstance(queue, SqsMessageQueue):
        raise ConfigurationError("this connection's messages do not come through SQS")
    return SqsDeliveries(queue)


def connect(settings: Settings) -> Connection:
    """The backend that the settings choose."""
    if settings.aws is not None:
        return connect_aws(settings.aws, public_url=settings.public_url)
    return connect_sqlite(settings.db, synchronous=settings.synchronous, public_url=settings.public_url)


_current: Final[ContextVar[Connection]] = ContextVar("everstep_connection")
_lock: Final = threading.Lock()
_default: Connection | None = None


def current_connection() -> Connection:
    """The connection this code runs under; outside of any, the process's own, opened from its settings."""
    global _default
    chosen = _current.get(None)
    if chosen is not None:
        return chosen
    with _lock:
        if _default is None:
            from everstep.settings import read_settings

            _default = connect(read_settings())
        return _default


@contextmanager
def use_connection(connection: Connection) -> Iterator[Connection]:
    """Make `start`, `get_run` and `run` use this connection within the block (and in tasks and threads begun in it)."""
    token = _current.set(connection)
    try:
        yield connection
    finally:
        _current.reset(token)


def set_default_connection(connection: Connection | None) -> None:
    """Replace the process's own connection."""
    global _default
    _default = connection
