"""Put a backend together: the only place that chooses one, and the process's current connection."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Final, Literal

from everstep.core.history import Micros
from everstep.runtime.connection import Connection


class SystemClock:
    """The machine's clock."""

    def now(self) -> Micros:
        return time.time_ns() // 1000


def connect_sqlite(
    path: str | Path, *, synchronous: Literal["NORMAL", "FULL"] = "NORMAL", must_exist: bool = False
) -> Connection:
    """Open the embedded backend: one SQLite file, created if it does not exist (unless `must_exist`)."""
    from everstep.backends.sqlite import open_sqlite

    backend = open_sqlite(Path(path), synchronous=synchronous, must_exist=must_exist)
    return Connection(backend, SystemClock(), entropy=os.urandom, chance=random.random)


_current: Final[ContextVar[Connection]] = ContextVar("everstep_connection")
_lock: Final = threading.Lock()
_default: Connection | None = None


def current_connection() -> Connection:
    """The connection this code runs under; outside of any, the process's own, opened from its settings."""
    global _default
    chosen = _current.get(None)
    if chosen is not None:
        return chosen
    with _lock:
        if _default is None:
            from everstep.settings import read_settings

            settings = read_settings()
            _default = connect_sqlite(settings.db, synchronous=settings.synchronous)
        return _default


@contextmanager
def use_connection(connection: Connection) -> Iterator[Connection]:
    """Make `start`, `get_run` and `run` use this connection within the block (and in tasks and threads begun in it)."""
    token = _current.set(connection)
    try:
        yield connection
    finally:
        _current.reset(token)


def set_default_connection(connection: Connection | None) -> None:
    """Replace the process's own connection."""
    global _default
    _default = connection
