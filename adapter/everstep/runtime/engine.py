"""What the protocols share: the app, the backend, time, chance, and the live instances kept warm."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from everstep.core.replay import Replay
from everstep.core.run import RunRecord
from everstep.ports import Backend, Clock
from everstep.runtime.progress import Observer, Progress
from everstep.runtime.registry import Registry

DEFAULT_LIVE_RUNS: Final = 1000


@dataclass(slots=True, kw_only=True)
class Live:
    """A run's record as it was read, and its live instance."""

    record: RunRecord
    replay: Replay


class LiveRuns:
    """Live instances by run, at most so many; the least recently used one goes first. A cache, never the truth.

    Thread-safe: the messages of a batch are handled by several threads.
    """

    def __init__(self, limit: int = DEFAULT_LIVE_RUNS) -> None:
        self._limit = limit
        self._runs: OrderedDict[str, Live] = OrderedDict()
        self._lock = threading.Lock()  # never held while an instance is discarded: that runs the body's clean-up

    def take(self, run_id: str) -> Live | None:
        """Remove and return the instance: whoever has it is its only user."""
        with self._lock:
            return self._runs.pop(run_id, None)

    def keep(self, live: Live) -> None:
        """Put an instance back that is level with the history."""
        superfluous = []
        with self._lock:
            replaced = self._runs.pop(live.record.run_id, None)
            if replaced is not None and replaced is not live:
                superfluous.append(replaced)
            self._runs[live.record.run_id] = live
            while len(self._runs) > self._limit:
                superfluous.append(self._runs.popitem(last=False)[1])
        for each in superfluous:
            each.replay.discard()

    def drop(self, run_id: str) -> None:
        """Throw the instance away, if there is one."""
        live = self.take(run_id)
        if live is not None:
            live.replay.discard()

    def clear(self) -> None:
        with self._lock:
            cleared, self._runs = self._runs, OrderedDict()
        for live in cleared.values():
            live.replay.discard()

    def __len__(self) -> int:
        return len(self._runs)


@dataclass(slots=True, kw_only=True)
class Engine:
    """An app on a backend.

    Attributes:
        entropy: returns so many random bytes.
        chance: returns a random number in [0, 1), for jitter.
        verify: replay each run from scratch after every turn, before the turn is recorded, and park what differs.
        observe: told of progress; must not raise.
        public_url: where the HTTP API can be reached from outside; empty where nobody said so.
    """

    registry: Registry
    backend: Backend
    clock: Clock
    entropy: Callable[[int], bytes]
    chance: Callable[[], float]
    verify: bool = False
    observe: Observer | None = None
    public_url: str = ""
    live: LiveRuns = field(default_factory=LiveRuns)
    _nonces: itertools.count[int] = field(default_factory=itertools.count)
    _nonce_prefix: str = ""

    def nonce(self) -> str:
        """A text no other process and no other call has."""
        if not self._nonce_prefix:
            self._nonce_prefix = self.entropy(8).hex()
        return f"{self._nonce_prefix}.{next(self._nonces)}"

    def tell(self, progress: Progress) -> None:
        if self.observe is not None:
            self.observe(progress)
