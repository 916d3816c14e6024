"""Stores that are closed when a test ends, however it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.simulation.crashing import Store


@pytest.fixture
def open_store() -> Iterator[Callable[[str, Path], Store]]:
    opened: list[Store] = []

    def open_one(kind: str, folder: Path) -> Store:
        folder.mkdir(exist_ok=True)
        opened.append(Store(kind, folder))
        return opened[-1]

    yield open_one
    for store in opened:
        store.backend.close()
