"""Streams in memory and in SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from everstep.backends.memory import open_memory
from everstep.backends.sqlite import open_sqlite
from everstep.ports import Backend
from tests.streams.behaviour import StreamBehaviour


class TestInMemory(StreamBehaviour):
    @pytest.fixture(params=[True, False], ids=["units", "no units"])
    def backend(self, request: pytest.FixtureRequest) -> Iterator[Backend]:
        backend = open_memory(atomic_units=request.param)
        yield backend
        backend.close()


class TestInSqlite(StreamBehaviour):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[Backend]:
        backend = open_sqlite(tmp_path / "runs.db")
        yield backend
        backend.close()
