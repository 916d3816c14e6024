"""The contract suite on every backend of this package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from everstep.backends.memory import MemoryMessageSource, open_memory
from everstep.backends.sqlite import open_sqlite
from everstep.ports import Backend
from everstep.testing.contracts import (
    HookRegistryContract,
    InboxContract,
    InspectorContract,
    MessageQueueContract,
    MessageSourceContract,
    RunStoreContract,
    StepLogContract,
    StreamStoreContract,
    UnitContract,
)

Opener = Callable[[Path], Backend]

TRANSACTIONAL: dict[str, Opener] = {
    "sqlite-normal": lambda folder: open_sqlite(folder / "runs.db", synchronous="NORMAL"),
    "sqlite-full": lambda folder: open_sqlite(folder / "runs.db", synchronous="FULL"),
    "memory": lambda _: open_memory(atomic_units=True),
}
ALL = TRANSACTIONAL | {"memory-without-units": lambda _: open_memory(atomic_units=False)}


def _open(request: Any, tmp_path: Path, openers: dict[str, Opener]) -> Iterator[Backend]:
    backend = openers[request.param](tmp_path)
    yield backend
    backend.close()


class OnEveryBackend:
    @pytest.fixture(params=ALL)
    def backend(self, request: Any, tmp_path: Path) -> Iterator[Backend]:
        yield from _open(request, tmp_path, ALL)


class TestRunStore(OnEveryBackend, RunStoreContract): ...


class TestInbox(OnEveryBackend, InboxContract): ...


class TestHookRegistry(OnEveryBackend, HookRegistryContract): ...


class TestStepLog(OnEveryBackend, StepLogContract): ...


class TestStreamStore(OnEveryBackend, StreamStoreContract): ...


class TestMessageQueue(OnEveryBackend, MessageQueueContract): ...


class TestMessageSource(OnEveryBackend, MessageSourceContract):
    def kill(self, backend: Backend, worker: str) -> None:
        if isinstance(backend.source, MemoryMessageSource):
            backend.source.kill(worker)
        else:  # what the kernel does when the process ends
            backend.source._locks.close()  # type: ignore[attr-defined]
            backend.source.register("bob", until=2**62)  # who lives in this process too


class TestInspector(OnEveryBackend, InspectorContract): ...


class TestUnit(UnitContract):
    @pytest.fixture(params=TRANSACTIONAL)
    def backend(self, request: Any, tmp_path: Path) -> Iterator[Backend]:
        yield from _open(request, tmp_path, TRANSACTIONAL)
