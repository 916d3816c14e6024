"""Sending through SQS, and through EventBridge Scheduler what SQS cannot delay so long.

One message is one request of a batch of up to ten: $0.40 per million requests, each 64 KB begun is one.

A standard queue keeps no second message with the same id out, as the port asks: it delivers some twice by itself, and
who handles messages must bear that. Only within one call of `send` is an id sent once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from everstep.backends.aws import message_body
from everstep.backends.aws.blobs import S3Blobs
from everstep.backends.aws.clients import AwsClients
from everstep.backends.aws.message_body import ReceivedMessage, write_body
from everstep.backends.aws.resources import AwsResources
from everstep.backends.aws.scheduler import OneTimeSchedules
from everstep.core.history import Micros
from everstep.core.messages import Outgoing, run_of
from everstep.errors import StoreBusyError, StoreError
from everstep.ports import Clock

logger: Final = logging.getLogger("everstep.aws")

MOST_IN_BATCH: Final = 10
LARGEST_BATCH: Final = 1_000_000
"""Bytes of bodies; SQS takes 1,048,576."""
_TRIES: Final = 4
_FIRST_WAIT: Final = 0.05  # seconds; doubled each time
_SECOND: Final[Micros] = 1_000_000
_REMEMBERED: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Delayed:
    """A body on its way to the queue, with its delay in seconds."""

    message_id: str
    body: str
    delay: int


@final
class SqsMessageQueue:
    """Implements `everstep.ports.MessageQueue`."""

    def __init__(self, clients: AwsClients, blobs: S3Blobs, resources: AwsResources, clock: Clock) -> None:
        self._clients = clients
        self._blobs = blobs
        self._url = resources.queue_url
        self._limit = resources.delay_limit
        self._schedules = OneTimeSchedules(clients, resources)
        self._clock = clock
        self._unscheduled: dict[str, None] = {}  # ids of messages that certainly have no schedule

    def send(self, messages: Sequence[Outgoing]) -> None:
        """As the port says, but that only this call's own duplicates are dropped.

        One request for ten messages; one for each that is due later than the delay limit; one PUT more for a large one.
        """
        now = self._clock.now()
        delayed: list[_Delayed] = []
        sent: set[str] = set()
        for outgoing in messages:
            if outgoing.message_id in sent:
                continue
            sent.add(outgoing.message_id)
            body = self._body(outgoing)
            at = None
            if outgoing.due - now > self._limit * _SECOND:
                at = self._schedules.time_for(outgoing.due, now)
            if at is not None:
                self._schedules.create(outgoing.message_id, body, at)
            else:
                self._remember(outgoing.message_id)
                delayed.append(self._delayed(outgoing.message_id, body, outgoing.due, now))
        self._send(delayed)

    def discard(self, message_ids: Sequence[str]) -> None:
        """As the port says: deletes the schedules of those that may have one. A message in the queue stays there.

        One request for each id, none for what this process itself has sent without a schedule.
        """
        for message_id in message_ids:
            if message_id in self._unscheduled:
                del self._unscheduled[message_id]
                continue
            try:
                self._schedules.delete(message_id)
            except StoreError as error:  # it will come, and be found useless
                logger.warning("the schedule of message %s was not deleted: %s", message_id, error)

    def read_body(self, body: str) -> ReceivedMessage:
        """What the body of a received message says. A GET more for a large one."""
        return message_body.read_body(body, self._blobs.get)

    def defer(self, received: ReceivedMessage) -> None:
        """Send a message on that came before it is due, to be delivered when it is. The caller then acknowledges it.

        One request. Only the delay of the queue is used, several times if need be: the schedule of this message may
        have just fired and still exist under its name. What is due meanwhile is sent without delay, never dropped.
        """
        self._send([self._delayed(received.message_id, received.body, received.due, self._clock.now())])

    def _body(self, outgoing: Outgoing) -> str:
        run_id = run_of(outgoing.message)
        return write_body(outgoing, lambda data: self._blobs.put(run_id, "message", data))

    def _delayed(self, message_id: str, body: str, due: Micros, now: Micros) -> _Delayed:
        seconds = -(-(due - now) // _SECOND)  # rounded up: rather late by a part of a second than sent on once more
        return _Delayed(message_id=message_id, body=body, delay=max(0, min(seconds, self._limit)))

    def _send(self, messages: Sequence[_Delayed]) -> None:
        for batch in _batches(messages):
            left = [_entry(number, message) for number, message in enumerate(batch)]
            wait = _FIRST_WAIT
            for attempt in range(1, _TRIES + 1):
                answer = self._clients.call("sqs", "SendMessageBatch", QueueUrl=self._url, Entries=left)
                failed = answer.get("Failed", [])
                if not failed:
                    break
                _check(failed, batch, last=attempt == _TRIES)
                again = {entry["Id"] for entry in failed}
                left = [entry for entry in left if entry["Id"] in again]
                time.sleep(wait)
                wait *= 2

    def _remember(self, message_id: str) -> None:
        if len(self._unscheduled) >= _REMEMBERED:
            self._unscheduled.clear()
        self._unscheduled[message_id] = None


def _batches(messages: Sequence[_Delayed]) -> Iterator[list[_Delayed]]:
    batch: list[_Delayed] = []
    size = 0
    for message in messages:
        if batch and (len(batch) == MOST_IN_BATCH or size + len(message.body) > LARGEST_BATCH):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += len(message.body)  # the body is ASCII
    if batch:
        yield batch


def _entry(number: int, message: _Delayed) -> dict[str, Any]:
    return {"Id": str(number), "MessageBody": message.body, "DelaySeconds": message.delay}


def _check(failed: Sequence[dict[str, Any]], batch: Sequence[_Delayed], *, last: bool) -> None:
    """Raise for entries that were refused, and on the last try for those that were not taken."""
    for entry in failed:
        message_id = batch[int(entry["Id"])].message_id
        said = f"{entry.get('Code', '')}: {entry.get('Message', '')}"
        if entry.get("SenderFault"):
            raise StoreError(f"the queue refused message {message_id} ({said})")
        if last:
            raise StoreBusyError(f"the queue did not take message {message_id} ({said}). It may do so later.")
