"""Receiving: on AWS the platform does it.

The queue's event source mapping leases messages, hands them to the worker function and deletes those it has dealt with;
`SqsMessageQueue.read_body` reads what it hands over. A worker that polls SQS itself could not keep the port's promises:
SQS cannot receive by family or workflow, say when the next message is due, take back the count of a receive, or tell
that a worker has died before its visibility timeout is over. So there is none, and asking for one says what to do.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NoReturn, final

from everstep.core.history import Micros
from everstep.errors import ConfigurationError
from everstep.ports import Delivery


@final
class LambdaMessageSource:
    """Implements `everstep.ports.MessageSource` by saying that messages are delivered, not fetched."""

    def register(self, worker: str, *, until: Micros) -> None:
        _refuse()

    def receive(
        self,
        worker: str,
        *,
        limit: int,
        now: Micros,
        root_id: str | None = None,
        workflows: Collection[str] | None = None,
    ) -> Sequence[Delivery]:
        _refuse()

    def acknowledge(self, message_ids: Sequence[str]) -> None:
        _refuse()

    def release(self, worker: str, message_ids: Sequence[str]) -> None:
        _refuse()

    def recover(self, *, now: Micros) -> int:
        _refuse()

    def next_due(self, *, root_id: str | None = None, workflows: Collection[str] | None = None) -> Micros | None:
        _refuse()

    def orphans(self, *, known: Collection[str], due_before: Micros) -> Sequence[str]:
        _refuse()

    def leave(self, worker: str) -> None:
        _refuse()

    def changes(self) -> int:
        _refuse()


def _refuse() -> NoReturn:
    raise ConfigurationError(
        "on AWS no worker fetches messages: the queue's event source mapping delivers them to the worker function. "
        "Deploy it with `sam deploy`; to try a workflow on this machine, use the sqlite backend."
    )
