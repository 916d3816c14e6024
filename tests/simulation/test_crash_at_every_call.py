"""Crash once at every call of a port, for every program of the corpus, and see that nothing is lost.

A run of a program makes N calls of ports, a commit counted as one. For each k the program is run again in a process
that dies before its k-th call: `Crash` is raised there, every later call of the dead process raises it too (so no
clean-up gets through), and all that was in memory is thrown away: engine, live instances, step runner. Then the dead
worker's messages come back and another worker goes on to the end.

Dying *after* call k leaves the store as dying before call k + 1 does; they differ only where a step body runs in
between. So the far side is tried at every fifth call.

Four ways to run:

- ``memory``: one message at a time through `handle`, as a short-lived invocation does, without transactions, as on
  DynamoDB;
- ``atomic``: the same with transactions;
- ``sqlite``: the same on a SQLite file. Death closes the file, which drops the worker's lock;
- ``worker``: `Worker` on SQLite, with virtual time that skips to whatever is due.

``memory`` dies at every call; the others, where most calls are inside one transaction, at every second to sixth
(STRIDE), from another first one in each program. TEST_SCALE=10 tries every call everywhere, and both sides of it.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from everstep.app import Workflow
from everstep.assembly import use_connection
from everstep.client import start_sync
from everstep.errors import StoreBusyError
from everstep.ports import RunQuery
from everstep.runtime import execute, worker
from everstep.runtime.connection import Connection
from everstep.testing.oracles import chain_of, examine, outcome
from everstep.testing.watching import Crash, Moment, watched
from tests.simulation.alone import in_time, naps
from tests.simulation.crashing import OpenStore, Process, Store, Trial
from tests.simulation.programs import PROGRAMS, ends_well, retries, semaphore, sequence, sleeper, wf

SCALE = int(os.environ.get("TEST_SCALE", "1"))
STORES = ["memory", "atomic", "sqlite"]
STRIDE = {"memory": 1, "atomic": 2, "sqlite": 6, "worker": 6}


def crash_points(calls: int, *, stride: int, offset: int) -> Iterator[tuple[Moment, int]]:
    """Where to die."""
    if SCALE >= 10:
        stride = 1
    for call in range(1 + offset % stride, calls + 1, stride):
        yield "before", call
        if SCALE >= 10 or call % 5 == 0:
            yield "after", call


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
@pytest.mark.parametrize("kind", [*STORES, "worker"])
def test_crash_at_every_call(kind: str, program: Workflow[Any, Any], tmp_path: Path, open_store: OpenStore) -> None:
    store = open_store(kind, tmp_path)
    smooth = Trial(store, None)
    run_id = smooth.go(program)
    wrong = examine(wf, store.backend, run_id, smooth.registry.bodies, disturbed=False)
    ended = outcome(chain_of(store.backend, run_id)[-1].run)
    assert not wrong, f"without any crash: {wrong}"
    assert ends_well(program.name, ended, disturbed=False), f"without any crash: {ended}"

    tried: Counter[str] = Counter()
    failures: list[str] = []
    for point in crash_points(smooth.process.calls, stride=STRIDE[kind], offset=PROGRAMS.index(program)):
        trial = Trial(store, point)
        run_id = trial.go(program)
        tried[point[0]] += 1
        wrong = examine(wf, store.backend, run_id, trial.registry.bodies, disturbed=True)
        ended = outcome(chain_of(store.backend, run_id)[-1].run)
        if not ends_well(program.name, ended, disturbed=True):
            wrong.append(f"this is not how it should have ended: {ended}")
        if wrong:
            label = smooth.process.labels[point[1] - 1]
            failures.append(f"death {point[0]} call {point[1]} ({label}): {'; '.join(wrong)}")
            if store.kind not in ("sqlite", "worker"):
                store = open_store(kind, tmp_path)  # what is left over must not disturb the next
    assert not failures, f"{len(failures)} of {tried.total()} crash points:\n" + "\n".join(failures)


class Slow(Store):
    """Where a message comes again only after two hours, so that timers are due by then."""

    def lose(self, worker: str) -> None:
        super().lose(worker)
        self.clock.advance(timedelta(hours=2))


@pytest.mark.parametrize("program", [sleeper, naps, in_time], ids=lambda program: program.name)
def test_crash_twice_while_timers_come_due(program: Workflow[Any, Any], tmp_path: Path) -> None:
    """The message that comes again fires them itself, and is then the only one that stands for what they lead to."""
    smooth = Trial(Slow("memory", tmp_path), None)
    smooth.go(program)
    for first in range(1, smooth.process.calls + 1):
        for second in range(1, 12):
            store = Slow("memory", tmp_path)
            trial = Trial(store, ("before", first), lives=[second])
            run_id = trial.go(program)
            label = smooth.process.labels[first - 1]
            check(program, store, trial, run_id, f"deaths before call {first} ({label}) and {second} calls later")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
@pytest.mark.parametrize("kind", ["memory", "sqlite", "worker"])
def test_crash_again_and_again(
    kind: str, program: Workflow[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_store: OpenStore
) -> None:
    """Process after process dies young; messages are received many times, and suspected; the run ends all the same."""
    never_give_up(monkeypatch)
    store = open_store(kind, tmp_path)
    for seed in range(3 * SCALE):
        chance = random.Random(seed)
        trial = Trial(store, ("before", 1), lives=[chance.randrange(4, 30) for _ in range(100)])
        run_id = trial.go(program)
        check(program, store, trial, run_id, f"seed {seed}, {trial.crashes} deaths")


@pytest.mark.parametrize("busy", [False, True], ids=["", "busy"])
def test_all_programs_crash_again_and_again(
    busy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_store: OpenStore
) -> None:
    """Runs of all kinds under way at once, so that what is suspected meets what is innocent; on a busy store, too."""
    never_give_up(monkeypatch)
    monkeypatch.setattr(worker, "BUSY_SECONDS", 0.001)
    for seed in range(5 * SCALE):
        chance = random.Random(seed)
        store = open_store("worker", tmp_path / str(seed))
        lives = [chance.randrange(10, 200) for _ in range(60)]
        trial = Trial(store, ("before", 1), lives=lives, busy=random.Random(seed) if busy else None)
        runs = [(program, trial.start(program)) for program in PROGRAMS]
        trial.work_off()
        for program, run_id in runs:
            check(program, store, trial, run_id, f"seed {seed}, {trial.crashes} deaths")


def never_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lift the limits on deaths: these tests are not about giving up."""
    for module, limit in [(execute, "MAX_RECEIVES"), (execute, "MAX_DEATHS"), (worker, "MAX_DEATHS")]:
        monkeypatch.setattr(module, limit, 1_000_000)


def check(program: Workflow[Any, Any], store: Store, trial: Trial, run_id: str, context: str) -> None:
    wrong = examine(wf, store.backend, run_id, trial.registry.bodies, disturbed=True)
    ended = outcome(chain_of(store.backend, run_id)[-1].run)
    if not ends_well(program.name, ended, disturbed=True):
        wrong.append(f"this is not how it should have ended: {ended}")
    assert not wrong, f"{context}: {program.name}: {'; '.join(wrong)}"


@pytest.mark.parametrize("kind", STORES)
def test_crash_while_starting(kind: str, tmp_path: Path, open_store: OpenStore) -> None:
    """A start that dies leaves a whole run or none; starting again with the same key gives that run, once."""
    program = sequence.with_options(idempotency_key="order-1")
    points = 0
    while True:
        store = open_store(kind, tmp_path / str(points))
        process = Process(("before", points + 1))
        connection = Connection(
            watched(store.backend, process.hook), store.clock, entropy=os.urandom, chance=random.Random(1).random
        )
        died = False
        try:
            with use_connection(connection):
                start_sync(program)
        except Crash:
            died = True
            store.lose("starter")
        trial = Trial(store, None)
        trial.work_off()  # whatever the dead process left: all of a run, or nothing
        run_id = trial.go(program)
        wrong = examine(wf, store.backend, run_id, trial.registry.bodies, disturbed=False)
        assert not wrong, f"start died before call {points + 1}: {wrong}"
        assert len(store.backend.inspector.list_runs(RunQuery()).runs) == 1
        if not died:
            break
        points += 1
    assert points >= 3


@pytest.mark.parametrize("program", [sequence, retries, semaphore, sleeper], ids=lambda program: program.name)
def test_busy_at_every_call(
    program: Workflow[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_store: OpenStore
) -> None:
    """A store that is busy for a moment, at any call, must not stop a worker or lose what it holds."""
    monkeypatch.setattr("everstep.runtime.worker.BUSY_SECONDS", 0.001)
    store = open_store("worker", tmp_path)
    smooth = Trial(store, None)
    smooth.go(program)
    failures: list[str] = []
    begins = smooth.process.labels.index("source.changes") + 1  # before that it starts, and may fail to
    for call in range(begins, smooth.process.calls, 1 if SCALE >= 10 else 2):
        trial = Trial(store, ("before", call), failing=StoreBusyError("another process is writing"))
        try:
            run_id = trial.go(program)
            wrong = examine(wf, store.backend, run_id, trial.registry.bodies, disturbed=True)
        except (AssertionError, StoreBusyError) as error:
            wrong = [repr(error)]
        if wrong:
            failures.append(f"busy at call {call} ({smooth.process.labels[call - 1]}): {'; '.join(wrong)}")
            store.lose("")
    assert not failures, f"{len(failures)} calls:\n" + "\n".join(failures)
