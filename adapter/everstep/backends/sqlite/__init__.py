"""The embedded default: everything in one SQLite file, for one machine and any number of processes."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

from everstep.backends.sqlite import schema
from everstep.backends.sqlite.connection import SqliteDatabase, Synchronous
from everstep.backends.sqlite.hook_registry import SqliteHookRegistry
from everstep.backends.sqlite.inbox import SqliteInbox
from everstep.backends.sqlite.inspector import SqliteInspector
from everstep.backends.sqlite.message_queue import SqliteMessageQueue, SqliteMessageSource
from everstep.backends.sqlite.run_store import SqliteRunStore
from everstep.backends.sqlite.step_log import SqliteStepLog
from everstep.backends.sqlite.stream_store import SqliteStreamStore
from everstep.backends.sqlite.worker_locks import WorkerLocks
from everstep.errors import ConfigurationError
from everstep.ports import Backend

__all__ = ["Synchronous", "open_sqlite"]

_opening: Final = threading.Lock()


def open_sqlite(
    path: str | os.PathLike[str], *, synchronous: Synchronous = "NORMAL", must_exist: bool = False
) -> Backend:
    """Open the database at `path`; create it, and the folders above it, when there is none.

    Args:
        path: a file on a local disk (WAL needs memory shared between processes, so no network file system). Beside it
            appear ``<path>-wal`` and ``<path>-shm`` while it is open and ``<path>.workers/`` while workers run.
        synchronous: what survives. Both survive a killed process. ``NORMAL`` may lose the last commits, never a part of
            one, when the machine loses power; ``FULL`` waits for the disk at each commit and loses none. A claim on an
            attempt (`StepLog.claim`) always waits for the disk.
        must_exist: do not create anything.

    Raises:
        ConfigurationError: the file is missing though it must exist, or cannot be created, read or written.
        StoreFormatError: the file is not ours or of a newer version. It is left exactly as it is.
    """
    if synchronous not in ("NORMAL", "FULL"):
        raise ConfigurationError(f"synchronous must be 'NORMAL' or 'FULL', not {synchronous!r}")
    if os.fspath(path) in ("", ":memory:"):
        raise ConfigurationError("a database needs a file, because several connections use it: give its path")
    file = Path(path).absolute().resolve()  # so that all processes find the same log and the same lock files
    with _opening:  # creating the file closes a descriptor of it, which must not meet another connection's locks
        schema.make_ready(file, must_exist=must_exist)
    database = SqliteDatabase(file, synchronous=synchronous)
    locks = WorkerLocks(file.with_name(file.name + ".workers"))

    def close() -> None:
        database.close()
        locks.close()

    return Backend(
        runs=SqliteRunStore(database),
        inbox=SqliteInbox(database),
        hooks=SqliteHookRegistry(database),
        steps=SqliteStepLog(database),
        streams=SqliteStreamStore(database),
        queue=SqliteMessageQueue(database),
        source=SqliteMessageSource(database, locks),
        inspector=SqliteInspector(database),
        unit=database.unit,
        close=close,
    )
