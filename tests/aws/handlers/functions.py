"""The functions of a deployed app, in this process: a memory backend in place of DynamoDB and SQS.

A store without transactions, as DynamoDB is, and an event source mapping that does what AWS documents: it receives,
invokes, deletes what the answer does not name, and delivers the rest again until it goes to the dead-letter queue.
"""

from __future__ import annotations

import base64
import copy
import io
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from everstep import Workflows
from everstep.assembly import use_connection
from everstep.backends.memory import open_memory
from everstep.client import Run, start_sync
from everstep.codec.records import decode_message, encode_message
from everstep.errors import SerializationError, StoreError
from everstep.ports import Delivery, Unreadable
from everstep.runtime.connection import Connection
from everstep.serverless.deadletter import DeadLetterHandler
from everstep.serverless.messages import MessageHandler
from everstep.serverless.observe import Watch
from everstep.testing import History, VirtualClock

EVENTS: Final = Path(__file__).parent / "events"
WORKER: Final = "event-source-mapping"
FOREVER: Final = 1 << 62
_names: Final = itertools.count()


def event(name: str) -> dict[str, Any]:
    """A captured event."""
    return json.loads((EVENTS / f"{name}.json").read_text(encoding="utf-8"))


class Context:
    """Lambda's context, with so much time left."""

    aws_request_id = "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"

    def __init__(self, *remaining_ms: int) -> None:
        self._remaining = list(remaining_ms or (30_000,))

    def get_remaining_time_in_millis(self) -> int:
        return self._remaining.pop(0) if len(self._remaining) > 1 else self._remaining[0]


def body_of(delivery: Delivery) -> str:
    message = delivery.message
    assert not isinstance(message, Unreadable)
    return json.dumps(
        {
            "id": delivery.message_id,
            "due": delivery.due,
            "root_id": delivery.root_id,
            "workflow": delivery.workflow,
            "message": base64.b64encode(encode_message(message)).decode(),
        }
    )


class MemoryDeliveries:
    """Implements `everstep.serverless.deliveries.Deliveries`."""

    def __init__(self) -> None:
        self.sent_on: list[tuple[Delivery, str]] = []
        self.out_of_order = False

    def read(self, body: str, receives: int) -> Delivery:
        if self.out_of_order:
            raise StoreError("the object the message refers to cannot be fetched")
        try:
            found = json.loads(body)
        except ValueError:
            return Delivery(
                message_id="", message=Unreadable(reason="no JSON"), receives=receives, due=0, root_id="", workflow=""
            )
        try:
            message: Any = decode_message(base64.b64decode(found["message"]))
        except SerializationError as error:
            message = Unreadable(reason=str(error))
        return Delivery(
            message_id=found["id"],
            message=message,
            receives=receives,
            due=found["due"],
            root_id=found["root_id"],
            workflow=found["workflow"],
        )

    def send_on(self, delivery: Delivery, body: str) -> None:
        self.sent_on.append((delivery, body))


class Deployed:
    """An app's worker and dead-letter function, and the queue between them."""

    def __init__(self, app: Workflows, *, max_receives: int = 5) -> None:
        self.app = app
        self.clock = VirtualClock()
        chance = random.Random(0)
        self.backend = open_memory(atomic_units=False)
        self.connection = Connection(self.backend, self.clock, entropy=chance.randbytes, chance=chance.random)
        self.lines = io.StringIO()
        self.watch = Watch(service=f"shop-{next(_names)}", stream=self.lines)
        self.deliveries = MemoryDeliveries()
        self.engine = self.connection.engine(app, observe=self.watch.tell, verify=True)
        self.worker = MessageHandler(self.engine, self.deliveries, self.watch)
        self.dead_letters = DeadLetterHandler(self.engine, self.deliveries, self.watch)
        self.max_receives = max_receives
        self.backend.source.register(WORKER, until=FOREVER)

    def close(self) -> None:
        self.engine.live.clear()
        self.worker.close()
        self.dead_letters.close()

    # --- the queue -------------------------------------------------------------------------------

    def start(self, workflow: Any, *args: Any, **kwargs: Any) -> Run[Any]:
        with use_connection(self.connection):
            return start_sync(workflow, *args, **kwargs)

    def receive(self, limit: int = 10) -> list[Delivery]:
        """What the event source mapping would take now; time skips to it if need be."""
        source = self.backend.source
        found = source.receive(WORKER, limit=limit, now=self.clock.now())
        if not found and (due := source.next_due()) is not None:
            self.clock.set(max(due, self.clock.now()))
            found = source.receive(WORKER, limit=limit, now=self.clock.now())
        return list(found)

    def invoke(self, deliveries: list[Delivery], *, context: Context | None = None) -> list[Delivery]:
        """One invocation of the worker; what it could not handle."""
        sent = sqs_event(deliveries)
        answer = self.worker(sent, context or Context())
        failed = {each["itemIdentifier"] for each in answer["batchItemFailures"]}
        assert failed <= {record["messageId"] for record in sent["Records"]}
        kept = []
        for record, delivery in zip(sent["Records"], deliveries, strict=True):
            if record["messageId"] in failed:
                kept.append(delivery)
            else:
                self.backend.source.acknowledge([delivery.message_id])
        return kept

    def bury(self, delivery: Delivery) -> bool:
        """The message goes to the dead-letter function; whether that is done with it."""
        answer = self.dead_letters(sqs_event([delivery], "deadletter"), Context())
        if not answer["batchItemFailures"]:
            self.backend.source.acknowledge([delivery.message_id])
            return True
        return False

    def work(self, *, batch: int = 10, context: Callable[[], Context] = Context) -> int:
        """Invoke until nothing is left; how many invocations it took."""
        for invocations in range(1000):
            deliveries = self.receive(batch)
            if not deliveries:
                return invocations
            for kept in self.invoke(deliveries, context=context()):
                if kept.receives >= self.max_receives:
                    assert self.bury(kept)
            self.backend.source.kill(WORKER)  # type: ignore[attr-defined]  # what was kept becomes visible again
            self.backend.source.recover(now=self.clock.now())
            self.backend.source.register(WORKER, until=FOREVER)
        raise AssertionError("it does not end")

    # --- what became of it -----------------------------------------------------------------------

    def history(self, run: Run[Any]) -> History:
        return History.read(self.backend, run.run_id)

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.getvalue().splitlines()]


def sqs_event(deliveries: list[Delivery], name: str = "sqs") -> dict[str, Any]:
    """An event with these messages."""
    captured = event(name)
    template = captured["Records"][0]
    captured["Records"] = []
    for number, delivery in enumerate(deliveries):
        record = copy.deepcopy(template)
        record["messageId"] = f"{template['messageId'][:-4]}{number:04}"
        record["body"] = body_of(delivery)
        record["attributes"]["ApproximateReceiveCount"] = str(delivery.receives)
        captured["Records"].append(record)
    return captured
