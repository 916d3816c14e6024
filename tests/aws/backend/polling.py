"""Receiving from SQS in tests, as the contract suite of the queue asks for it, without filters, by SQS's own clock."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from everstep.backends.aws import AwsClients, AwsResources, SqsMessageQueue
from everstep.core.history import Micros
from everstep.ports import Backend, Delivery


class PollingSource:
    """Enough of a `MessageSource`: what is received stays hidden for the queue's visibility timeout."""

    def __init__(self, backend: Backend, clients: AwsClients, resources: AwsResources) -> None:
        assert isinstance(backend.queue, SqsMessageQueue)
        self._queue = backend.queue
        self._clients = clients
        self._url = resources.queue_url
        self._handles: dict[str, list[str]] = {}

    def register(self, worker: str, *, until: Micros) -> None:
        pass

    def receive(
        self,
        worker: str,
        *,
        limit: int,
        now: Micros,
        root_id: str | None = None,
        workflows: Collection[str] | None = None,
    ) -> Sequence[Delivery]:
        found: list[Delivery] = []
        while len(found) < limit and (batch := self._receive(min(limit - len(found), 10))):
            found += batch
        return found

    def acknowledge(self, message_ids: Sequence[str]) -> None:
        for message_id in message_ids:
            for handle in self._handles.pop(message_id, []):
                self._clients.call("sqs", "DeleteMessage", QueueUrl=self._url, ReceiptHandle=handle)

    def release(self, worker: str, message_ids: Sequence[str]) -> None:
        raise NotImplementedError

    def recover(self, *, now: Micros) -> int:
        raise NotImplementedError

    def next_due(self, *, root_id: str | None = None, workflows: Collection[str] | None = None) -> Micros | None:
        raise NotImplementedError

    def orphans(self, *, known: Collection[str], due_before: Micros) -> Sequence[str]:
        raise NotImplementedError

    def leave(self, worker: str) -> None:
        raise NotImplementedError

    def changes(self) -> int:
        raise NotImplementedError

    def _receive(self, limit: int) -> list[Delivery]:
        answer = self._clients.call(
            "sqs",
            "ReceiveMessage",
            QueueUrl=self._url,
            MaxNumberOfMessages=limit,
            WaitTimeSeconds=0,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        found = []
        for raw in answer.get("Messages", []):
            message = self._queue.read_body(raw["Body"])
            self._handles.setdefault(message.message_id, []).append(raw["ReceiptHandle"])
            found.append(
                Delivery(
                    message_id=message.message_id,
                    message=message.message,
                    receives=int(raw["Attributes"]["ApproximateReceiveCount"]),
                    due=message.due,
                    root_id=message.root_id,
                    workflow=message.workflow,
                )
            )
        return found
