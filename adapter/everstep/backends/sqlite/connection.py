"""Connections, transactions and failures of one database file.

Each thread has a connection of its own, made when it first needs one and closed when the thread ends. Statements are
given as constant text, so that sqlite3's cache of prepared statements serves them. Every call here either finishes
its statement (no cursor is left open, so no read transaction lives on and holds back checkpoints) or raises an
error of ours.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, TypeAlias, final
from weakref import WeakSet

from everstep.backends.sqlite.failures import FOREIGN, translated
from everstep.errors import StoreBusyError, StoreError

Synchronous: TypeAlias = Literal["NORMAL", "FULL"]
Parameters: TypeAlias = Sequence[str | int | bytes | None]
Row: TypeAlias = tuple[Any, ...]

WAIT: Final = 15.0
"""Seconds to wait for another writer before `StoreBusyError`."""

_LOG_LIMIT: Final = 64 * 1024 * 1024
_LOG_CHECK_EVERY: Final = 256  # commits of a connection


@final
class SqliteDatabase:
    """One database file as this process uses it. Thread-safe."""

    def __init__(self, path: Path, *, synchronous: Synchronous) -> None:
        self.path = path
        self._uri = f"{path.as_uri()}?mode=rw"
        self._log = path.with_name(path.name + "-wal")
        self._log_limit = _LOG_LIMIT
        self._synchronous = synchronous
        self._closed = False
        self._numbers = itertools.count(1)
        self._forget()
        _databases.add(self)

    def _forget(self) -> None:
        """Begin without connections: in a new object, and in a forked child, which must not use its parent's."""
        self._local = threading.local()
        self._links: WeakSet[_Link] = WeakSet()
        self._opening = threading.Lock()
        # Threads of this process queue here rather than in SQLite, whose waiting is a sleep of milliseconds.
        self._writer = threading.Lock()

    # --- statements --------------------------------------------------------------------------------

    def rows(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """All rows of a query. One consistent snapshot."""
        link = self._link()
        with link.guard:
            link.check()
            try:
                return link.connection.execute(sql, parameters).fetchall()
            except FOREIGN as error:
                raise self._failure(link, error) from error

    def snapshot(self, *queries: tuple[str, Parameters]) -> list[list[Row]]:
        """All rows of several queries, which see the same state."""
        link = self._link()
        with link.guard:
            link.check()
            execute = link.connection.execute
            try:
                if link.depth:
                    return [execute(sql, parameters).fetchall() for sql, parameters in queries]
                try:
                    execute("BEGIN")
                    return [execute(sql, parameters).fetchall() for sql, parameters in queries]
                finally:
                    if link.connection.in_transaction:
                        execute("COMMIT")
            except FOREIGN as error:
                raise self._failure(link, error) from error

    def write(self, sql: str, parameters: Parameters = ()) -> int:
        """Run a statement that changes rows; say how many. A transaction by itself when not in a unit."""
        link = self._link()
        if link.depth:
            return self._change(link, sql, parameters)
        self._await_turn()
        try:
            return self._change(link, sql, parameters)
        finally:
            self._writer.release()

    def write_synced(self, sql: str, parameters: Parameters = ()) -> int:
        """As `write`, and safe against power loss when it returns, whatever ``synchronous`` is.

        Inside a unit it is as safe as the unit.
        """
        link = self._link()
        if link.depth or self._synchronous == "FULL":
            return self.write(sql, parameters)
        self._await_turn()
        try:
            self._change(link, "PRAGMA synchronous = FULL", ())
            try:
                return self._change(link, sql, parameters)
            finally:
                self._change(link, "PRAGMA synchronous = NORMAL", ())
        finally:
            self._writer.release()

    def write_many(self, sql: str, parameters: Iterable[Parameters]) -> int:
        """Run a statement for each set of parameters, all or none; say how many rows changed in all."""
        with self.unit():
            link = self._link()
            with link.guard:
                link.check()
                try:
                    return link.connection.executemany(sql, parameters).rowcount
                except FOREIGN as error:
                    raise self._failure(link, error) from error

    def unit(self) -> _Unit:
        """Everything this thread does inside is one transaction, which holds the write lock from the beginning.

        Nested units join the outermost. Once a call or a nested unit has failed, nothing more is accepted and
        the end of the outermost undoes everything, even if the error was caught in between: half a unit is never kept.
        """
        return _Unit(self)

    def changes(self) -> int:
        """A number that differs when another connection has committed since this thread last asked."""
        link = self._link()
        version: int = self.rows("PRAGMA data_version")[0][0]
        return link.number << 40 | version  # versions of two connections cannot be compared, so they always differ

    def close(self) -> None:
        """Close the connections of all threads. Later calls raise `StoreError`."""
        with self._opening:
            self._closed = True
            links = list(self._links)
        for link in links:
            with link.guard:
                link.connection.close()

    # --- transactions ------------------------------------------------------------------------------

    def enter(self) -> _Link:
        """For `_Unit`: begin, or join."""
        link = self._link()
        if link.depth:
            link.depth += 1
            return link
        self._await_turn()
        try:
            self._change(link, "BEGIN IMMEDIATE", ())
            link.depth = 1
            return link
        except BaseException:
            link.depth = 0
            self._undo(link)
            self._writer.release()
            raise

    def leave(self, link: _Link, *, failed: bool) -> None:
        """For `_Unit`: end, or note how the nested unit ended."""
        link.depth -= 1
        if link.depth:
            link.failed = link.failed or failed
            return
        try:
            if failed or link.failed:
                self._undo(link)
            else:
                try:
                    self._change(link, "COMMIT", ())
                except BaseException:
                    self._undo(link)
                    raise
                link.commits += 1
                if link.commits % _LOG_CHECK_EVERY == 0:
                    self._shorten_log(link)
                return
        finally:
            spoilt, link.failed = link.failed, False
            self._writer.release()
        if spoilt and not failed:
            raise StoreError(
                f"a call in this unit failed earlier and its error was caught inside the unit, so nothing of the unit "
                f"was stored in {self.path}. Let the error leave the unit, and repeat the whole unit."
            )

    def _undo(self, link: _Link) -> None:
        with link.guard:
            try:
                if link.connection.in_transaction:
                    link.connection.execute("ROLLBACK")
            except sqlite3.Error:
                pass  # closed, or SQLite undid it itself: either way nothing of it remains

    def _await_turn(self) -> None:
        if not self._writer.acquire(timeout=WAIT):
            raise StoreBusyError(f"another thread of this process has been writing to {self.path} for {WAIT:.0f} s")

    def _change(self, link: _Link, sql: str, parameters: Parameters) -> int:
        with link.guard:
            link.check()
            try:
                return link.connection.execute(sql, parameters).rowcount
            except FOREIGN as error:
                raise self._failure(link, error) from error

    def _failure(self, link: _Link, error: Exception) -> Exception:
        """The error to raise; a unit that is under way is spoilt (SQLite may have undone it already)."""
        link.failed = link.depth > 0
        return translated(error, self.path)

    def _shorten_log(self, link: _Link) -> None:
        """Empty the log when it has grown beyond its limit.

        SQLite starts the log anew only when a commit finds every page copied and no reader in it; under constant load
        from many processes that moment may never come. So now and then a writer waits for it, shortly. When even
        that fails (a reader that was stopped in mid-read), the limit is doubled, so that the waiting stays rare.
        """
        try:
            if self._log.stat().st_size <= self._log_limit:
                return
        except OSError:
            return
        with link.guard:
            execute = link.connection.execute
            try:
                execute("PRAGMA busy_timeout = 250")
                busy = execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            except sqlite3.Error:
                busy = 1
            finally:
                execute(f"PRAGMA busy_timeout = {int(WAIT * 1000)}")
        self._log_limit = self._log_limit * 2 if busy else _LOG_LIMIT

    # --- connections -------------------------------------------------------------------------------

    def _link(self) -> _Link:
        link: _Link
        try:
            link = self._local.link
        except AttributeError:
            with self._opening:
                if self._closed:
                    raise StoreError(f"the store {self.path} was closed. Open it again to use it.") from None
                link = self._local.link = _Link(self._connect(), next(self._numbers))
                self._links.add(link)
        return link

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self._uri,
                uri=True,
                timeout=WAIT,
                isolation_level=None,
                check_same_thread=False,  # used by one thread, but closed by `close` or the garbage collector
                cached_statements=256,
            )
            try:
                connection.execute(f"PRAGMA synchronous = {self._synchronous}")
                connection.execute("PRAGMA wal_autocheckpoint = 2000")
                connection.execute("PRAGMA cache_size = -8000")
                connection.execute("PRAGMA temp_store = MEMORY")
            except BaseException:
                connection.close()
                raise
        except FOREIGN as error:
            raise translated(error, self.path) from error
        return connection


@final
class _Link:
    """A thread's connection."""

    __slots__ = ("__weakref__", "commits", "connection", "depth", "failed", "guard", "number")

    def __init__(self, connection: sqlite3.Connection, number: int) -> None:
        self.connection = connection
        self.number = number
        self.guard = threading.Lock()  # against `close` from another thread in the middle of a statement
        self.depth = 0
        self.failed = False
        self.commits = 0

    def check(self) -> None:
        if self.failed:
            raise StoreError("an earlier call in this unit failed, so the unit accepts nothing more")

    def __del__(self) -> None:
        self.connection.close()  # of a thread that has ended; closing twice is harmless


@final
class _Unit:
    """See `SqliteDatabase.unit`."""

    __slots__ = ("_database", "_link")

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    def __enter__(self) -> None:
        self._link = self._database.enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.leave(self._link, failed=kind is not None)


# --- forks -----------------------------------------------------------------------------------------

_databases: WeakSet[SqliteDatabase] = WeakSet()
_inherited: list[object] = []
"""Connections of a parent process. A child must neither use nor close them, so they are kept until it ends."""


def _after_fork_in_child() -> None:
    for database in list(_databases):
        _inherited.append((database._local, list(database._links)))
        database._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
