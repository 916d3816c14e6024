"""The message queue in memory: sending, and receiving with leases."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import final

from everstep.backends.memory.connection import MemoryDatabase
from everstep.backends.memory.schema import StoredMessage
from everstep.codec.records import decode_message, encode_message
from everstep.core.history import Micros
from everstep.core.messages import Message, Outgoing
from everstep.errors import SerializationError
from everstep.ports import Delivery, Unreadable


@final
class MemoryMessageQueue:
    """Implements `everstep.ports.MessageQueue`."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._tables = database.tables

    def send(self, messages: Sequence[Outgoing]) -> None:
        stored = [
            StoredMessage(
                root_id=message.root_id,
                workflow=message.workflow,
                due=message.due,
                receives=0 if message.lease_to is None else 1,
                lease=message.lease_to,
                body=encode_message(message.message),
            )
            for message in messages
        ]
        with self._database.writing():
            for message, row in zip(messages, stored, strict=True):
                if self._database.get(self._tables.messages, message.message_id) is None:
                    self._database.put(self._tables.messages, message.message_id, row)

    def discard(self, message_ids: Sequence[str]) -> None:
        _delete(self._database, message_ids)


@final
class MemoryMessageSource:
    """Implements `everstep.ports.MessageSource`. A test says that a worker has died with `kill`."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._tables = database.tables

    def kill(self, worker: str) -> None:
        """The worker's process is dead from now on; the next `recover` gives back what it held."""
        with self._database.writing():
            self._forget(worker)

    def register(self, worker: str, *, until: Micros) -> None:
        with self._database.writing():
            self._database.put(self._tables.workers, worker, until)

    def receive(
        self,
        worker: str,
        *,
        limit: int,
        now: Micros,
        root_id: str | None = None,
        workflows: Collection[str] | None = None,
    ) -> Sequence[Delivery]:
        with self._database.writing():
            unleased = self._unleased(root_id, workflows)
            due = sorted((row.due, message_id) for message_id, row in unleased if row.due <= now)
            taken = []
            for _, message_id in due[: max(limit, 0)]:
                row = self._database.get(self._tables.messages, message_id)
                assert row is not None  # listed a moment ago, under the same lock
                row = replace(row, lease=worker, receives=row.receives + 1)
                self._database.put(self._tables.messages, message_id, row)
                taken.append((message_id, row))
        return [
            Delivery(
                message_id=message_id,
                message=_message(row.body),
                receives=row.receives,
                due=row.due,
                root_id=row.root_id,
                workflow=row.workflow,
            )
            for message_id, row in taken
        ]

    def acknowledge(self, message_ids: Sequence[str]) -> None:
        _delete(self._database, message_ids)

    def release(self, worker: str, message_ids: Sequence[str]) -> None:
        with self._database.writing():
            self._give_back(message_ids, lambda lease: lease == worker, counted=False)

    def recover(self, *, now: Micros) -> int:
        with self._database.writing():
            living = set()
            for worker, until in self._database.items(self._tables.workers):
                if until > now:
                    living.add(worker)
                else:
                    self._forget(worker)
            return self._give_back(self._all_ids(), lambda lease: lease not in living, counted=True)

    def next_due(self, *, root_id: str | None = None, workflows: Collection[str] | None = None) -> Micros | None:
        with self._database.reading():
            return min((row.due for _, row in self._unleased(root_id, workflows)), default=None)

    def orphans(self, *, known: Collection[str], due_before: Micros) -> Sequence[str]:
        with self._database.reading():
            unleased = self._unleased(None, None)
            late = ((row.due, key) for key, row in unleased if row.due < due_before and row.workflow not in known)
            return [message_id for _, message_id in sorted(late)][:100]

    def leave(self, worker: str) -> None:
        with self._database.writing():
            self._give_back(self._all_ids(), lambda lease: lease == worker, counted=False)
            self._forget(worker)

    def changes(self) -> int:
        """As the port says, for commits of other threads. Compare only numbers one thread has got."""
        return self._database.changes()

    def _unleased(self, root_id: str | None, workflows: Collection[str] | None) -> list[tuple[str, StoredMessage]]:
        return [
            (message_id, row)
            for message_id, row in self._database.items(self._tables.messages)
            if row.lease is None
            and (root_id is None or row.root_id == root_id)
            and (workflows is None or row.workflow in workflows)
        ]

    def _all_ids(self) -> list[str]:
        return [message_id for message_id, _ in self._database.items(self._tables.messages)]

    def _give_back(self, message_ids: Iterable[str], whose: Callable[[str], bool], *, counted: bool) -> int:
        given = 0
        for message_id in message_ids:
            row = self._database.get(self._tables.messages, message_id)
            if row is not None and row.lease is not None and whose(row.lease):
                receives = row.receives if counted else row.receives - 1
                self._database.put(self._tables.messages, message_id, replace(row, lease=None, receives=receives))
                given += 1
        return given

    def _forget(self, worker: str) -> None:
        if self._database.get(self._tables.workers, worker) is not None:
            self._database.put(self._tables.workers, worker, None)


def _message(body: bytes) -> Message | Unreadable:
    try:
        return decode_message(body)
    except SerializationError as error:
        return Unreadable(reason=str(error))


def _delete(database: MemoryDatabase, message_ids: Sequence[str]) -> None:
    with database.writing():
        for message_id in message_ids:
            if database.get(database.tables.messages, message_id) is not None:
                database.put(database.tables.messages, message_id, None)
