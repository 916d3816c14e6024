"""The tables, their versions, and the checks before a file is touched.

How a file is recognised: ``application_id`` in its header is ours and ``user_version`` is the number of migration
steps it has seen. Both are written together with the tables, before the file is switched to WAL, so the header of
the main file always tells whose it is, even when the newest pages are still in the log.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from everstep.backends.sqlite.failures import translated
from everstep.errors import ConfigurationError, StoreBusyError, StoreError, StoreFormatError

APPLICATION_ID: Final = 0x45565354  # "EVST"

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    # Version 1. Rows that are written in the hot path are in clustered tables (one tree, not two); run records, which
    # may be large, are not. Partial indexes hold only what is looked for: open runs, waiting messages.
    (
        """CREATE TABLE runs (
            run_id TEXT NOT NULL PRIMARY KEY, root_id TEXT NOT NULL, workflow TEXT NOT NULL, input BLOB NOT NULL,
            created_at INTEGER NOT NULL, start_at INTEGER NOT NULL, attributes TEXT NOT NULL, status TEXT NOT NULL,
            started_at INTEGER, completed_at INTEGER, result BLOB, error BLOB, continued_from TEXT, continued_to TEXT,
            problem TEXT, problem_at INTEGER, problem_build TEXT)""",
        "CREATE INDEX runs_by_time ON runs (created_at, run_id)",
        "CREATE INDEX runs_by_workflow ON runs (workflow, created_at, run_id)",
        "CREATE INDEX runs_open ON runs (created_at, run_id) WHERE status IN ('pending', 'running')",
        """CREATE INDEX runs_ended_otherwise ON runs (status, created_at, run_id)
            WHERE status IN ('failed', 'cancelled', 'continued')""",
        "CREATE INDEX runs_parked ON runs (problem_at, run_id) WHERE problem_at IS NOT NULL",
        """CREATE TABLE run_attributes (
            key TEXT NOT NULL, value TEXT NOT NULL, created_at INTEGER NOT NULL, run_id TEXT NOT NULL,
            PRIMARY KEY (key, value, created_at, run_id)) WITHOUT ROWID""",
        """CREATE TABLE turns (
            run_id TEXT NOT NULL, number INTEGER NOT NULL, body BLOB NOT NULL,
            PRIMARY KEY (run_id, number)) WITHOUT ROWID""",
        """CREATE TABLE inbox (
            seq INTEGER PRIMARY KEY, run_id TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL,
            UNIQUE (run_id, key))""",
        "CREATE TABLE wake_flags (run_id TEXT NOT NULL PRIMARY KEY, raised_at INTEGER NOT NULL) WITHOUT ROWID",
        """CREATE TABLE failed_attempts (
            run_id TEXT NOT NULL, op INTEGER NOT NULL, attempt INTEGER NOT NULL, started_at INTEGER NOT NULL,
            ended_at INTEGER NOT NULL, error BLOB NOT NULL, retry_at INTEGER NOT NULL,
            PRIMARY KEY (run_id, op, attempt)) WITHOUT ROWID""",
        """CREATE TABLE claims (
            run_id TEXT NOT NULL, op INTEGER NOT NULL, attempt INTEGER NOT NULL,
            PRIMARY KEY (run_id, op, attempt)) WITHOUT ROWID""",
        """CREATE TABLE messages (
            message_id TEXT NOT NULL PRIMARY KEY, root_id TEXT NOT NULL, workflow TEXT NOT NULL, due INTEGER NOT NULL,
            receives INTEGER NOT NULL, lease TEXT, body BLOB NOT NULL) WITHOUT ROWID""",
        "CREATE INDEX messages_waiting ON messages (due, message_id) WHERE lease IS NULL",
        "CREATE INDEX messages_waiting_by_root ON messages (root_id, due, message_id) WHERE lease IS NULL",
        "CREATE INDEX messages_leased ON messages (lease) WHERE lease IS NOT NULL",
        """CREATE TABLE workers (
            worker TEXT NOT NULL PRIMARY KEY, alive_until INTEGER NOT NULL, lock_file TEXT) WITHOUT ROWID""",
    ),
    # Version 2: hooks, children, cancelling, pausing, attributes that change, published values, streams.
    (
        "ALTER TABLE runs ADD COLUMN reason TEXT",
        "ALTER TABLE runs ADD COLUMN parent TEXT",
        "ALTER TABLE runs ADD COLUMN paused_at INTEGER",
        "ALTER TABLE runs ADD COLUMN origin TEXT",
        "ALTER TABLE runs ADD COLUMN attributes_turn INTEGER NOT NULL DEFAULT -1",
        "ALTER TABLE runs ADD COLUMN first_attributes TEXT",
        """CREATE TABLE hooks (
            token TEXT NOT NULL PRIMARY KEY, run_id TEXT NOT NULL, op INTEGER NOT NULL, root_id TEXT NOT NULL,
            workflow TEXT NOT NULL, opened_at INTEGER NOT NULL, kind TEXT NOT NULL, webhook INTEGER NOT NULL,
            metadata BLOB, answer BLOB) WITHOUT ROWID""",
        """CREATE TABLE step_cancels (
            run_id TEXT NOT NULL, op INTEGER NOT NULL, PRIMARY KEY (run_id, op)) WITHOUT ROWID""",
        """CREATE TABLE published (
            run_id TEXT NOT NULL, name TEXT NOT NULL, turn INTEGER NOT NULL, value BLOB NOT NULL,
            PRIMARY KEY (run_id, name)) WITHOUT ROWID""",
        """CREATE TABLE stream_records (
            run_id TEXT NOT NULL, name TEXT NOT NULL, first INTEGER NOT NULL, nonce TEXT NOT NULL, body BLOB NOT NULL,
            PRIMARY KEY (run_id, name, first)) WITHOUT ROWID""",
        """CREATE TABLE stream_steps (
            run_id TEXT NOT NULL, name TEXT NOT NULL, step TEXT NOT NULL, first INTEGER NOT NULL,
            PRIMARY KEY (run_id, name, step)) WITHOUT ROWID""",
    ),
)
"""What to run for each version; a file of version *n* has seen the first *n*. Released entries never change."""

VERSION: Final = len(MIGRATIONS)


def make_ready(path: Path, *, must_exist: bool) -> None:
    """Make sure that `path` is a file of ours of this version, creating or migrating it.

    Safe against other processes that do the same. A file that is not ours or is of a newer version is left exactly as
    it is, and nothing is put beside it.
    """
    _check_place(path, must_exist=must_exist)
    _check_header(path)
    try:
        with closing(
            sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=15)
        ) as connection:
            if _stored_version(connection, path) < VERSION:
                _migrate(connection, path)
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                _switch_to_wal(connection, path)
    except sqlite3.Error as error:
        raise translated(error, path) from error


def _check_place(path: Path, *, must_exist: bool) -> None:
    """Check that the file can be used; create an empty one when there is none and that is allowed."""
    try:
        if path.is_dir():
            raise ConfigurationError(f"{path} is a folder. Give the path of a file in it, such as {path / 'runs.db'}.")
        if not path.exists():
            if must_exist:
                raise ConfigurationError(
                    f"there is no Everstep database at {path}. Check the path and the folder you are in; "
                    f"starting a worker or a run with this path creates the database."
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            _create_private(path)
        elif not path.is_file():
            raise ConfigurationError(f"{path} is not a regular file. Give the path of a file.")
    except OSError as error:
        kind = StoreError if error.errno in (errno.ENOSPC, errno.EDQUOT) else ConfigurationError
        raise kind(
            f"{path} cannot be created or opened: {error.strerror} ({error.filename}). "
            f"Choose a path in a folder that this process may write to."
        ) from error
    for place, what in ((path, "the file"), (path.parent, "the folder it is in")):
        if not os.access(place, os.R_OK | os.W_OK):
            raise ConfigurationError(
                f"{path} cannot be used: this process may not write to {what} ({place}). Change its permissions, run "
                f"as another user, or choose another path. SQLite keeps a log beside the database, so both are needed."
            )


def _create_private(path: Path) -> None:
    """An empty file that only its owner may read: it will hold the user's data. SQLite gives its log the same mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        pass  # another process was faster


def _check_header(path: Path) -> None:
    """Raise when the file is not ours or too new; an empty database may become ours.

    Reads through SQLite as an *immutable* file: no lock, no log, no recovery, so nothing is written. Not with `open`:
    closing any descriptor of the file would drop the POSIX locks that other connections of this process hold on it
    (https://www.sqlite.org/howtocorrupt.html, section 2.2).

    Without the log, the file may be smaller than its header says: somebody is copying the log into it, or was killed
    over it. SQLite takes that for damage, unless the schema counts as writable, which nothing here makes use of.
    """
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            application: int = connection.execute("PRAGMA application_id").fetchone()[0]
            version: int = connection.execute("PRAGMA user_version").fetchone()[0]
            if application != APPLICATION_ID and (_is_populated(connection) or _has_log(path)):
                raise StoreFormatError(
                    f"{path} is an SQLite database of another program (application id {application:#x}, "
                    f"Everstep's is {APPLICATION_ID:#x}). It was left untouched. Choose another path."
                )
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            raise StoreFormatError(
                f"{path} is not an SQLite database. It was left untouched. Choose another path, or remove the file "
                f"if nobody needs it."
            ) from error
        raise translated(error, path) from error
    if application == APPLICATION_ID:
        _refuse_newer(path, version)


def _is_populated(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None


def _has_log(path: Path) -> bool:
    """Whether another program's newest pages may be in a log: ours writes its header before there is one."""
    log = path.with_name(path.name + "-wal")
    return log.exists() and log.stat().st_size > 0


def _refuse_newer(path: Path, version: int) -> None:
    if version > VERSION:
        raise StoreFormatError(
            f"{path} was written by a newer Everstep (schema version {version}, this one knows {VERSION}). "
            f"It was left untouched. Upgrade everstep, or choose another path."
        )


def _stored_version(connection: sqlite3.Connection, path: Path) -> int:
    """The schema version, by the newest pages, which may still be in the log."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    _refuse_newer(path, version)
    return version


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in MIGRATIONS[_stored_version(connection, path) :]:  # read again, now that nobody else writes
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    # So that the header of the main file is current too, which is all that `_check_header` sees.
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _switch_to_wal(connection: sqlite3.Connection, path: Path) -> None:
    """SQLite does not wait in every case when two processes switch at the same time; so try for a while."""
    for _ in range(300):
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(0.02)
            continue
        if mode == "wal":
            return
        raise ConfigurationError(
            f"{path} is on a file system that cannot share memory between processes (SQLite's WAL mode was refused and "
            f"it stays in {mode!r} mode). Choose a path on a local disk."
        )
    raise StoreBusyError(f"{path} is locked by another process. Try again, or end the program that uses it.")
