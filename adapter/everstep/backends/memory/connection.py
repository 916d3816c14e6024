"""Transactions over the tables: one writer at a time; everyone else sees what was committed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeVar, final

from everstep.backends.memory.schema import Table, Tables
from everstep.errors import StoreBusyError, StoreError

K = TypeVar("K")
V = TypeVar("V")

WAIT: Final = 15.0
"""Seconds to wait for another thread's unit before `StoreBusyError`."""


@final
class MemoryDatabase:
    """The tables, and the rule that a call (or with `atomic_units` a unit) happens wholly or not at all."""

    def __init__(self, *, atomic_units: bool) -> None:
        self.tables = Tables()
        self._atomic_units = atomic_units
        self._writer = threading.RLock()
        self._committed = threading.RLock()  # held for moments only, while committed state is read or replaced
        self._depth = 0  # of the units of the thread that holds the writer lock
        self._failed = False
        self._commits = 0
        self._closed = False
        self._local = threading.local()

    # --- transactions ------------------------------------------------------------------------------

    @contextmanager
    def unit(self) -> Iterator[None]:
        """`Backend.unit`. As in SQLite, half a unit is never kept, even if an error inside it was caught."""
        if not self._atomic_units:
            yield
            return
        with self.writing():
            yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One call: everything that is put inside is committed at the end, or with the unit around it."""
        self._check_open()
        if not self._writer.acquire(timeout=WAIT):
            raise StoreBusyError(f"another thread has had a unit open for {WAIT:.0f} s")
        try:
            if self._failed:
                raise StoreError("an earlier call in this unit failed, so the unit accepts nothing more")
            self._depth += 1
            mine = self._local.__dict__
            mine["writes"] = True
            failed = True
            try:
                yield
                failed = False
            finally:
                self._depth -= 1
                spoilt = self._failed = self._failed or failed
                if self._depth == 0:
                    self._failed = mine["writes"] = False
                    self._settle(commit=not spoilt)
            if self._depth == 0 and spoilt:
                raise StoreError("a call in this unit failed earlier and its error was caught: nothing was stored")
        finally:
            self._writer.release()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One call that only reads: what it gets is one consistent state."""
        self._check_open()
        with self._committed:
            yield

    def _settle(self, *, commit: bool) -> None:
        with self._committed:
            changed = False
            for table in self.tables.all():
                if commit:
                    for key, value in table.changed.items():
                        changed = True
                        if value is None:
                            table.committed.pop(key, None)
                        else:
                            table.committed[key] = value
                table.changed.clear()
            if changed:
                self._commits += 1
                self._local.commits = self._own_commits() + 1

    # --- rows, inside `reading` or `writing` -------------------------------------------------------

    def get(self, table: Table[K, V], key: K) -> V | None:
        if self._is_writing() and key in table.changed:
            return table.changed[key]
        return table.committed.get(key)

    def put(self, table: Table[K, V], key: K, value: V | None) -> None:
        """Store the value; None removes it."""
        table.changed[key] = value

    def items(self, table: Table[K, V]) -> list[tuple[K, V]]:
        with self._committed:
            merged: dict[K, V | None] = dict(table.committed)
        if self._is_writing():
            merged |= table.changed
        return [(key, value) for key, value in merged.items() if value is not None]

    def _is_writing(self) -> bool:
        return getattr(self._local, "writes", False)

    # --- others ------------------------------------------------------------------------------------

    def changes(self) -> int:
        """How often other threads have committed."""
        self._check_open()
        with self._committed:
            return self._commits - self._own_commits()

    def _own_commits(self) -> int:
        return getattr(self._local, "commits", 0)

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the store was closed")
