"""Tokens of hooks in memory."""

from __future__ import annotations

from typing import final

from everstep.backends.memory.connection import MemoryDatabase
from everstep.ports import HookClaim


@final
class MemoryHookRegistry:
    """Implements `everstep.ports.HookRegistry`."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._tables = database.tables

    def claim(self, claim: HookClaim) -> HookClaim | None:
        with self._database.writing():
            held = self._database.get(self._tables.hooks, claim.token)
            if held is None:
                self._database.put(self._tables.hooks, claim.token, claim)
                return None
            return None if (held.run_id, held.op) == (claim.run_id, claim.op) else held

    def find(self, token: str) -> HookClaim | None:
        with self._database.reading():
            return self._database.get(self._tables.hooks, token)

    def release(self, token: str, *, run_id: str, op: int) -> None:
        with self._database.writing():
            held = self._database.get(self._tables.hooks, token)
            if held is not None and (held.run_id, held.op) == (run_id, op):
                self._database.put(self._tables.hooks, token, None)
