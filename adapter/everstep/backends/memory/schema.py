"""The tables of the memory backend. Values are immutable, so that a table never changes but by `MemoryDatabase.put`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar, final

from everstep.core.history import Micros
from everstep.ports import HookClaim, StreamRecord

K = TypeVar("K")
V = TypeVar("V")


@final
class Table(Generic[K, V]):
    """A mapping with changes on top that are not committed yet. `MemoryDatabase` guards it."""

    def __init__(self) -> None:
        self.committed: dict[K, V] = {}
        self.changed: dict[K, V | None] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """A message in the queue. ``lease`` is the worker that holds it."""

    root_id: str
    workflow: str
    due: Micros
    receives: int
    lease: str | None
    body: bytes


RunId: TypeAlias = str
Attempt: TypeAlias = tuple[RunId, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Everything that is stored; records as the bytes a real store would hold."""

    runs: Table[RunId, bytes] = field(default_factory=Table)
    turns: Table[RunId, tuple[bytes, ...]] = field(default_factory=Table)
    inbox: Table[RunId, tuple[tuple[str, bytes], ...]] = field(default_factory=Table)
    wake_flags: Table[RunId, Micros] = field(default_factory=Table)
    failed_attempts: Table[Attempt, tuple[Micros, Micros, bytes, Micros]] = field(default_factory=Table)
    claims: Table[Attempt, bool] = field(default_factory=Table)
    step_cancels: Table[tuple[RunId, int], bool] = field(default_factory=Table)
    hooks: Table[str, HookClaim] = field(default_factory=Table)
    published: Table[tuple[RunId, str], tuple[int, bytes]] = field(default_factory=Table)
    messages: Table[str, StoredMessage] = field(default_factory=Table)
    workers: Table[str, Micros] = field(default_factory=Table)
    streams: Table[tuple[RunId, str], tuple[StreamRecord, ...]] = field(default_factory=Table)
    stream_steps: Table[tuple[RunId, str, str], int] = field(default_factory=Table)

    def all(self) -> tuple[Table[Any, Any], ...]:
        return (
            self.runs,
            self.turns,
            self.inbox,
            self.wake_flags,
            self.failed_attempts,
            self.claims,
            self.step_cancels,
            self.hooks,
            self.published,
            self.messages,
            self.workers,
            self.streams,
            self.stream_steps,
        )
