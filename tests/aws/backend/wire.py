"""What a test sees of the requests of a backend: how many, how large, and the messages they carry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from botocore.exceptions import ConnectionClosedError

from everstep.backends.aws import AwsClients, AwsResources, SqsMessageQueue, open_aws
from everstep.backends.memory import open_memory
from everstep.core.messages import Outgoing
from everstep.ports import Backend, Unreadable
from everstep.testing.clock import VirtualClock
from tests.aws.backend.provisioned import session

SERVICES = ("dynamodb", "sqs", "s3", "scheduler")


@dataclass
class Wire:
    """Counts requests by operation, and the write units of puts; forgets them when told to."""

    requests: Counter[str] = field(default_factory=Counter)
    parameters: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def watch(self, clients: AwsClients) -> None:
        for service in SERVICES:
            events = clients.client(service).meta.events  # type: ignore[arg-type]
            events.register_first(f"before-send.{service}.*", self._sent)
            events.register_first(f"provide-client-params.{service}.*", self._given)

    def _sent(self, event_name: str, **_: Any) -> None:
        self.requests[event_name.rpartition(".")[2]] += 1

    def _given(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        self.parameters.append((model.name, dict(params)))

    def take(self) -> dict[str, int]:
        """The requests since the last time."""
        taken = dict(self.requests)
        self.clear()
        return taken

    def clear(self) -> None:
        self.requests.clear()
        self.parameters.clear()

    def put_units(self) -> int:
        """Write units of all puts, refused ones too, in the table and its indexes."""
        return sum(table_units(given["Item"]) for name, given in self.parameters if name == "PutItem")


def table_units(item: Mapping[str, Any]) -> int:
    """Write units of storing the item: 1 for each KB begun, in the table and in each index it is in."""
    indexes = sum(name in item for name in ("list_pk", "parked_pk"))
    return -(-item_size(item) // 1024) + indexes


def item_size(item: Mapping[str, Any]) -> int:
    """Bytes, by AWS's rules: names and texts in UTF-8, numbers about half a byte a digit and one more."""
    return sum(len(name.encode()) + _value_size(value) for name, value in item.items())


def _value_size(value: Mapping[str, Any]) -> int:
    [(kind, content)] = value.items()
    match kind:
        case "S":
            return len(content.encode())
        case "N":
            return len(content) // 2 + 2
        case _:
            return len(content)


def lose_answers(clients: AwsClients, operation: str, times: int = 1) -> Counter[str]:
    """Let the next requests of this operation take effect, but their answers get lost. What was lost is counted."""
    client = clients.client("dynamodb")
    lost: Counter[str] = Counter()

    def send(request: Any, **_: Any) -> None:
        if lost[operation] < times:
            lost[operation] += 1
            answer = client._endpoint.http_session.send(request)
            assert answer.status_code == 200, answer.content
            raise ConnectionClosedError(endpoint_url=request.url)

    client.meta.events.register_first(f"before-send.dynamodb.{operation}", send)
    return lost


class _Tapped:
    """The queue of SQS, whose messages, as they are on the wire, are also put into the queue in memory."""

    def __init__(self, queue: SqsMessageQueue, wire: Wire, memory: Backend, clock: VirtualClock) -> None:
        self._queue = queue
        self._wire = wire
        self._memory = memory
        self._clock = clock

    def send(self, messages: Any) -> None:
        self._clock.advance(1000)  # so that what is woken now comes after what was sent before
        begin = len(self._wire.parameters)
        self._queue.send(messages)
        for name, given in self._wire.parameters[begin:]:
            match name:
                case "SendMessageBatch":
                    for entry in given["Entries"]:
                        self._arrive(entry["MessageBody"])
                case "CreateSchedule":
                    self._arrive(given["Target"]["Input"])

    def discard(self, message_ids: Any) -> None:
        self._queue.discard(message_ids)
        self._memory.queue.discard(message_ids)

    def _arrive(self, body: str) -> None:
        got = self._queue.read_body(body)
        assert not isinstance(got.message, Unreadable), got.message
        self._memory.queue.send(
            [
                Outgoing(
                    message_id=got.message_id,
                    message=got.message,
                    due=got.due,
                    root_id=got.root_id,
                    workflow=got.workflow,
                )
            ]
        )


def tapped(resources: AwsResources, clock: VirtualClock) -> tuple[Backend, Wire]:
    """A backend on these resources whose messages are delivered from memory, by the clock, and what it sent."""
    clients = AwsClients(resources, session())
    wire = Wire()
    wire.watch(clients)
    backend = open_aws(resources, clock=clock, clients=clients)
    memory = open_memory(atomic_units=False)
    assert isinstance(backend.queue, SqsMessageQueue)
    return replace(backend, queue=_Tapped(backend.queue, wire, memory, clock), source=memory.source), wire
