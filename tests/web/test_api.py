"""The HTTP API over memory and SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from everstep.backends.memory import open_memory
from everstep.backends.sqlite import open_sqlite
from everstep.ports import Backend
from tests.web.behaviour import ApiBehaviour


class TestInMemory(ApiBehaviour):
    @pytest.fixture
    def backend(self) -> Iterator[Backend]:
        backend = open_memory(atomic_units=False)
        yield backend
        backend.close()


class TestInSqlite(ApiBehaviour):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[Backend]:
        backend = open_sqlite(tmp_path / "runs.db")
        yield backend
        backend.close()
