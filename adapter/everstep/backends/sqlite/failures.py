"""The one place where errors of SQLite become ours."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from everstep.errors import (
    ConfigurationError,
    EverstepError,
    SerializationError,
    StoreBusyError,
    StoreError,
    StoreFormatError,
)

FOREIGN: Final = (sqlite3.Error, OverflowError, UnicodeError)
"""What the sqlite3 module raises: besides its own, numbers beyond 64 bits and text that is not Unicode."""


def translated(error: Exception, path: Path) -> EverstepError:
    """The error of ours that says the same. The caller raises it ``from`` the original."""
    if isinstance(error, OverflowError):
        return StoreError(f"a number does not fit into 64 bits and cannot be stored in {path}: {error}")
    if isinstance(error, UnicodeError):
        return SerializationError(f"a text that is not valid Unicode cannot be stored in {path}: {error}")
    code = getattr(error, "sqlite_errorcode", None)
    match code & 0xFF if isinstance(code, int) else None:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED | sqlite3.SQLITE_PROTOCOL:
            return StoreBusyError(
                f"{path} is locked by another process or thread that did not finish in time. The same call may succeed "
                f"later; if it never does, look for a program that keeps a transaction open on this file."
            )
        case sqlite3.SQLITE_FULL:
            return StoreError(f"no space left for {path}. Nothing was stored. Free some disk space and try again.")
        case sqlite3.SQLITE_READONLY:
            return ConfigurationError(
                f"{path} cannot be written. This process needs write permission for the file, for the folder it is in "
                f"and for the files that begin with the same name."
            )
        case sqlite3.SQLITE_NOTADB:
            return StoreFormatError(f"{path} is not an SQLite database. Choose another path, or restore a backup.")
        case sqlite3.SQLITE_CORRUPT:
            return StoreError(f"{path} is damaged ({error}). Stop every process that uses it and restore a backup.")
        case sqlite3.SQLITE_CANTOPEN:
            return StoreError(
                f"{path} cannot be opened ({error}). Was it removed, or is the process out of file descriptors?"
            )
        case sqlite3.SQLITE_IOERR:
            return StoreError(f"reading or writing {path} failed ({_named(error)}). Check the disk it is on.")
        case sqlite3.SQLITE_TOOBIG:
            return SerializationError(f"a record is larger than SQLite can store (about 1 GB): {path}")
        case _:
            if "closed" in str(error):
                return StoreError(f"the store {path} was closed. Open it again to use it.")
            return StoreError(f"SQLite could not do what was asked of {path} ({_named(error)})")


def _named(error: Exception) -> str:
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    return f"{name}: {error}"
