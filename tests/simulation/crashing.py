"""Run a program in a process that dies at a given call of its store, and let another process finish."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

from everstep import Workflows
from everstep.app import Workflow
from everstep.assembly import use_connection
from everstep.backends.memory import open_memory
from everstep.backends.sqlite import open_sqlite
from everstep.client import start_sync
from everstep.errors import StoreBusyError
from everstep.ports import Backend, Unreadable
from everstep.runtime.connection import Connection
from everstep.runtime.engine import Engine
from everstep.runtime.handle import StepRunner, handle
from everstep.runtime.worker import Worker
from everstep.testing.clock import VirtualClock
from everstep.testing.oracles import FOREVER, CountedSteps
from everstep.testing.watching import Crash, Moment, watched
from tests.simulation.programs import wf

LIMIT = 2_000
"""More messages than any run here needs."""

BUSY = 0.02
"""How often the store is busy, where it is."""


class Process:
    """Counts the calls of a process and ends it at one of them, or makes that one fail."""

    def __init__(
        self, die_at: tuple[Moment, int] | None, failing: Exception | None = None, busy: random.Random | None = None
    ) -> None:
        self.die_at = die_at
        self.failing = failing
        self.busy = busy
        self.calls = 0
        self.dead = False
        self.labels: list[str] = []

    def hook(self, moment: Moment, call: str, _args: tuple[Any, ...], _value: Any) -> None:
        if self.dead:
            raise Crash
        if moment == "before":
            self.calls += 1
            self.labels.append(call)
        if (moment, self.calls) == self.die_at:
            self.die_at = None
            if self.failing is not None:
                raise self.failing
            self.dead = True
            raise Crash
        if self.busy is not None and moment == "before" and self.busy.random() < BUSY:
            raise StoreBusyError("another process is writing")


class Store:
    """A backend that can lose a process."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.clock = VirtualClock()
        self._file = folder / "runs.db"
        self.backend = self._open()

    def _open(self) -> Backend:
        if self.kind in ("sqlite", "worker"):
            return open_sqlite(self._file)
        return open_memory(atomic_units=self.kind == "atomic")

    def lose(self, worker: str) -> None:
        """The process that had the store open died, and with it the worker."""
        if self.kind in ("sqlite", "worker"):
            self.backend.close()
            self.backend = self._open()
        else:
            self.backend.source.kill(worker)  # type: ignore[attr-defined]
        self.backend.source.recover(now=self.clock.now())


OpenStore: TypeAlias = Callable[[str, Path], Store]


class Trial:
    """One run of one program, with a crash; and more, if further `lives` of so many calls each are given."""

    def __init__(
        self,
        store: Store,
        die_at: tuple[Moment, int] | None,
        *,
        app: Workflows = wf,
        failing: Exception | None = None,
        lives: Iterable[int] = (),
        busy: random.Random | None = None,
    ) -> None:
        self.store = store
        self.process = Process(die_at, failing, busy)
        self.crashes = 0
        self._lives = iter(lives)
        self.registry = CountedSteps(app)
        self._chance = random.Random(1)
        self._handled = 0

    def go(self, program: Workflow[Any, Any]) -> str:
        """Run it to its end; the run's id."""
        run_id = self.start(program)
        self.work_off()
        return run_id

    def start(self, program: Workflow[Any, Any]) -> str:
        """Start a run, in a process that does not die."""
        with use_connection(self.connect(self.store.backend)):
            return start_sync(program).run_id

    def connect(self, backend: Backend) -> Connection:
        return Connection(backend, self.store.clock, entropy=os.urandom, chance=self._chance.random)

    def deploy(self, app: Workflows) -> None:
        """From now on other code works."""
        self.registry = CountedSteps(app, self.registry.bodies)

    def work_off(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Work until nothing is left (or `stop` says so), in another process where one dies."""
        store = self.store
        while True:
            worker = f"worker-{os.urandom(4).hex()}"
            connection = self.connect(watched(store.backend, self.process.hook))
            engine = connection.engine(self.registry)
            try:
                with use_connection(connection):
                    if store.kind == "worker":
                        asyncio.run(self._serve(engine))
                    else:
                        self._drain(engine, worker, stop)
            except (Crash, StoreBusyError) as ended:  # a worker that finds the store busy when it begins just ends
                if isinstance(ended, StoreBusyError) and self.process.busy is None:
                    raise
                store.lose(worker)
                self.process.dead = False
                self.crashes += 1
                length = next(self._lives, None)
                if length is not None:
                    self.process.die_at = ("before", self.process.calls + length)
            else:
                break
            finally:
                engine.live.clear()

    def _drain(self, engine: Engine, worker: str, stop: Callable[[], bool]) -> None:
        """Handle one message after the other until there is none; time skips to what is due."""
        runner, source, clock = StepRunner(), engine.backend.source, self.store.clock
        try:
            source.register(worker, until=FOREVER)
            while not stop():
                deliveries = source.receive(worker, limit=1, now=clock.now())
                if not deliveries:
                    due = source.next_due()
                    if due is None:
                        break
                    clock.set(max(due, clock.now()))
                for delivery in deliveries:
                    self._count()
                    assert not isinstance(delivery.message, Unreadable)
                    handle(engine, delivery.message, runner, root_id=delivery.root_id, receives=delivery.receives)
                    source.acknowledge([delivery.message_id])
            source.leave(worker)
        finally:
            runner.close()

    async def _serve(self, engine: Engine) -> None:
        """Let a `Worker` serve until nothing is left; time skips to what is due whenever it rests."""
        worker, clock, source = Worker(engine), self.store.clock, self.store.backend.source
        serving = asyncio.ensure_future(worker.serve())
        serving.add_done_callback(lambda task: task.cancelled() or task.exception())  # a crash ends the loop at once
        turns = 0
        while not serving.done():
            await asyncio.sleep(0)
            turns += 1
            assert turns < 1_000_000, "the worker hangs"
            if not resting(worker):
                continue
            due = source.next_due()
            if due is None:
                worker.stop()
                await asyncio.wait({serving})
            else:
                self._count()
                clock.set(max(due, clock.now()))
                worker.wake()
        await serving

    def _count(self) -> None:
        self._handled += 1
        assert self._handled < LIMIT * (1 + self.crashes), "it goes on for ever"


HELD = ("_running", "_finished", "_arrived", "_received", "_begun", "_suspects")


def resting(worker: Worker) -> bool:
    """Whether the worker holds nothing and waits for others, or for time to pass."""
    over = getattr(worker, "_over", None)
    return not (
        any(getattr(worker, name) for name in HELD)
        or worker._round_due
        or worker._look
        or (over is not None and over.done())  # it has died
    )
