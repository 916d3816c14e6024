"""The message queue in SQLite: sending, and receiving with leases."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Final, final

from everstep.backends.sqlite.connection import Row, SqliteDatabase
from everstep.backends.sqlite.worker_locks import WorkerLocks
from everstep.codec.records import decode_message, encode_message
from everstep.core.history import Micros
from everstep.core.messages import Message, Outgoing
from everstep.errors import SerializationError
from everstep.ports import Delivery, Unreadable

_SEND: Final = (
    "INSERT INTO messages (message_id, root_id, workflow, due, receives, lease, body) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT DO NOTHING"
)
_DELETE: Final = "DELETE FROM messages WHERE message_id = ?"

_OF_ROOT: Final = " AND root_id = ?"
_OF_WORKFLOWS: Final = " AND workflow IN (SELECT value FROM json_each(?))"
_DUE: Final = "SELECT message_id, root_id, workflow, due, receives, body FROM messages WHERE lease IS NULL AND due <= ?"
_LONGEST_DUE_FIRST: Final = " ORDER BY due, message_id LIMIT ?"
_LEASE: Final = "UPDATE messages SET lease = ?, receives = receives + 1 WHERE message_id = ?"
_NEXT_DUE: Final = "SELECT min(due) FROM messages WHERE lease IS NULL"
_ORPHANS: Final = (
    "SELECT message_id FROM messages WHERE lease IS NULL AND due < ? "
    "AND workflow NOT IN (SELECT value FROM json_each(?)) ORDER BY due, message_id LIMIT 100"
)

_GIVE_BACK: Final = "UPDATE messages SET lease = NULL, receives = receives - 1 WHERE message_id = ? AND lease = ?"
_GIVE_ALL_BACK: Final = "UPDATE messages SET lease = NULL, receives = receives - 1 WHERE lease = ?"

_REGISTER: Final = (
    "INSERT INTO workers (worker, alive_until, lock_file) VALUES (?, ?, ?) "
    "ON CONFLICT DO UPDATE SET alive_until = excluded.alive_until, lock_file = excluded.lock_file"
)
_FORGET: Final = "DELETE FROM workers WHERE worker = ?"
_WORKERS: Final = "SELECT worker, alive_until, lock_file FROM workers"
_BURY: Final = "DELETE FROM workers WHERE worker = ? AND alive_until = ?"  # unless it renewed meanwhile
_ABANDONED: Final = "lease IS NOT NULL AND lease NOT IN (SELECT worker FROM workers)"
_ANY_ABANDONED: Final = f"SELECT 1 FROM messages WHERE {_ABANDONED} LIMIT 1"
_RECOVER: Final = f"UPDATE messages SET lease = NULL WHERE {_ABANDONED}"


@final
class SqliteMessageQueue:
    """Implements `everstep.ports.MessageQueue`."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    def send(self, messages: Sequence[Outgoing]) -> None:
        match messages:
            case []:
                pass
            case [message]:
                self._database.write(_SEND, _row(message))
            case _:
                self._database.write_many(_SEND, [_row(message) for message in messages])

    def discard(self, message_ids: Sequence[str]) -> None:
        _delete(self._database, message_ids)


@final
class SqliteMessageSource:
    """Implements `everstep.ports.MessageSource`.

    A message whose lease names a worker that is not in ``workers`` belongs to nobody, and `recover` gives it back. A
    worker is taken out of ``workers`` when its time has passed or when its lock file is no longer held.
    """

    def __init__(self, database: SqliteDatabase, locks: WorkerLocks) -> None:
        self._database = database
        self._locks = locks

    def register(self, worker: str, *, until: Micros) -> None:
        self._database.write(_REGISTER, (worker, until, self._locks.hold(worker)))  # the lock first: see `recover`

    def receive(
        self,
        worker: str,
        *,
        limit: int,
        now: Micros,
        root_id: str | None = None,
        workflows: Collection[str] | None = None,
    ) -> Sequence[Delivery]:
        if limit < 1:  # SQLite takes a negative limit for none at all
            return []
        database = self._database
        sql, parameters = _of(_DUE, (now,), root_id, workflows)
        query = (sql + _LONGEST_DUE_FIRST, (*parameters, limit))
        if not database.rows(*query):  # do not take the write lock, and the log's pages, for nothing
            return []
        with database.unit():
            rows = database.rows(*query)
            database.write_many(_LEASE, [(worker, row[0]) for row in rows])
        return [_delivery(row) for row in rows]

    def acknowledge(self, message_ids: Sequence[str]) -> None:
        _delete(self._database, message_ids)

    def release(self, worker: str, message_ids: Sequence[str]) -> None:
        self._database.write_many(_GIVE_BACK, [(message_id, worker) for message_id in message_ids])

    def recover(self, *, now: Micros) -> int:
        database = self._database
        # In this order: a worker locks its file before it is in the table, so whoever is in it and lives is surveyed.
        workers = database.rows(_WORKERS)
        with self._locks.survey() as living:
            dead = [
                (worker, alive_until)
                for worker, alive_until, lock_file in workers
                if alive_until <= now or (living is not None and lock_file is not None and lock_file not in living)
            ]
            if not dead and not database.rows(_ANY_ABANDONED):
                return 0
            with database.unit():
                database.write_many(_BURY, dead)
                return database.write(_RECOVER)

    def next_due(self, *, root_id: str | None = None, workflows: Collection[str] | None = None) -> Micros | None:
        due: Micros | None = self._database.rows(*_of(_NEXT_DUE, (), root_id, workflows))[0][0]
        return due

    def orphans(self, *, known: Collection[str], due_before: Micros) -> Sequence[str]:
        return [row[0] for row in self._database.rows(_ORPHANS, (due_before, json.dumps(sorted(known))))]

    def leave(self, worker: str) -> None:
        with self._database.unit():
            self._database.write(_GIVE_ALL_BACK, (worker,))
            self._database.write(_FORGET, (worker,))
        self._locks.release(worker)

    def changes(self) -> int:
        """As the port says, for commits of other threads and processes. Compare only numbers one thread has got."""
        return self._database.changes()


def _of(sql: str, parameters: Row, root_id: str | None, workflows: Collection[str] | None) -> tuple[str, Row]:
    """The query, narrowed to a family and to workflows."""
    if root_id is not None:
        sql, parameters = sql + _OF_ROOT, (*parameters, root_id)
    if workflows is not None:
        sql, parameters = sql + _OF_WORKFLOWS, (*parameters, json.dumps(sorted(workflows)))
    return sql, parameters


def _row(outgoing: Outgoing) -> Row:
    lease = outgoing.lease_to
    return (
        outgoing.message_id,
        outgoing.root_id,
        outgoing.workflow,
        outgoing.due,
        0 if lease is None else 1,
        lease,
        encode_message(outgoing.message),
    )


def _delivery(row: Row) -> Delivery:
    message_id, root_id, workflow, due, receives, body = row
    message: Message | Unreadable
    try:
        message = decode_message(body)
    except SerializationError as error:
        message = Unreadable(reason=str(error))
    return Delivery(
        message_id=message_id, message=message, receives=receives + 1, due=due, root_id=root_id, workflow=workflow
    )


def _delete(database: SqliteDatabase, message_ids: Sequence[str]) -> None:
    match message_ids:
        case []:
            pass
        case [message_id]:
            database.write(_DELETE, (message_id,))
        case _:
            database.write_many(_DELETE, [(message_id,) for message_id in message_ids])
