"""Real worker processes on one SQLite file, killed with SIGKILL at random moments, many times.

The test process starts runs of every kind and makes workers through `nursery` (a forked worker is up in milliseconds,
so a round takes as long as the worker is allowed to live). A round lets one or two workers live for a random moment
and kills them, whatever they are doing; runs go on being started. Then workers are let finish, and for each run must
hold:

- its result is right, and its history passes every oracle (`testing.simulator.examine`): dense, each outcome consumed
  exactly once, closed once, replays;
- each step whose outcome is recorded has run, by the lines its body left in a file; a step that must not be repeated
  ran at most once;
- no message and no inbox entry is left, and the file passes ``PRAGMA integrity_check``.

More: processes that resume hooks while workers, and they themselves, are killed: what was acknowledged is taken once; a
worker that is stopped (SIGSTOP) until another has taken its step over, and then goes on, must not record
anything a second time; a step that kills its worker each time is found and given up, and nothing else is; and two
workers share one fan-out of 1,000.

What is random follows from a seed, but processes are scheduled by the machine: a failure may need several tries to
come again. No verdict depends on time: only how often a kill hits something interesting does. Deadlines are for
hanging tests. TEST_SCALE=10 makes ten times as many rounds.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from everstep.app import Workflow
from everstep.assembly import connect_sqlite, use_connection
from everstep.client import Run, start_sync
from everstep.runtime.connection import at_rest
from everstep.testing.oracles import examine, outcome
from tests.kill import nursery
from tests.kill.work import bodies, chain, collect, fan, gate, lines, meeting, naps, payments, poisoned, undo, wf

SCALE = int(os.environ.get("TEST_SCALE", "1"))
ROUNDS = 60
PATIENCE = 120.0
LEASE = 30_000_000
CLIENTS = 4
COLLECTORS = 200

KINDS: list[tuple[Workflow[Any, Any], int, Any]] = [
    (chain, 40, sum(range(40))),
    (fan, 30, sum(range(30)) + 30),
    (naps, 4, [0, 1, 2, 3]),
    (undo, 8, "undid 8"),
    (payments, 8, None),
]


class Site:
    """A database, its log of step bodies, and workers that can be killed."""

    def __init__(self, folder: Path, *, limits: bool = False) -> None:
        self.database, self.log, self.errors = folder / "runs.db", folder / "steps.log", folder / "workers.err"
        self.connection = connect_sqlite(self.database)
        self.runs: list[tuple[Run[Any], Any]] = []
        self.living: set[int] = set()
        root = Path(__file__).parents[2]
        paths = [str(root), str(root / "adapter"), os.environ.get("PYTHONPATH", "")]
        self._nursery = subprocess.Popen(
            [sys.executable, nursery.__file__, str(self.database), str(self.errors), str(int(limits))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        assert self._say(None) == "ready"

    def _say(self, line: str | None) -> str:
        process = self._nursery
        assert process.stdin is not None
        assert process.stdout is not None
        if line is not None:
            process.stdin.write(line + "\n")
            process.stdin.flush()
        return process.stdout.readline().strip()

    def close(self) -> None:
        for pid in filter(alive, self.living):
            os.kill(pid, signal.SIGKILL)
        self._nursery.communicate()
        self.connection.close()

    # --- workers

    def worker(self, *, lease: int = LEASE) -> int:
        pid = int(self._say(f"worker {lease}"))
        self.living.add(pid)
        return pid

    def client(self, number: int, tokens: Path, acknowledged: Path) -> int:
        """A process that sends to hooks; it is no worker, and ends by itself."""
        return int(self._say(f"client {number} {tokens} {acknowledged}"))

    def kill(self, pid: int) -> None:
        self.living.discard(pid)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            raise AssertionError(f"worker {pid} ended by itself; workers said: {self._said()}") from None

    def end(self, pid: int) -> None:
        """Ask it to end, and wait until it has."""
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not alive(pid), f"worker {pid} does not end on SIGTERM")
        self.living.discard(pid)

    # --- runs

    def start(self, workflow: Workflow[Any, Any], *arguments: Any, expected: Any = None) -> Run[Any]:
        with use_connection(self.connection):
            run = start_sync(workflow, str(self.log), *arguments)
        self.runs.append((run, expected))
        return run

    def closed(self, run: Run[Any]) -> bool:
        return at_rest(self.connection.get(run.run_id))

    def still_works(self, pid: int) -> bool:
        assert alive(pid), f"worker {pid} ended by itself; workers said: {self._said()}"
        return True

    def closed_by_the_living(self, run: Run[Any]) -> bool:
        return all(self.still_works(pid) for pid in self.living) and self.closed(run)

    def finish(self) -> None:
        """Wait for all runs, then end the workers that live."""
        for run, _ in self.runs:
            wait_until(partial(self.closed_by_the_living, run), f"{run} does not end; processes said: {self._said()}")
        for pid in list(self.living):
            self.end(pid)

    def check(self, context: str) -> None:
        """Everything that must hold at the end."""
        began = bodies(self.log)
        for run, expected in self.runs:
            record = self.connection.get(run.run_id)
            wrong = examine(wf, self.connection.backend, run.run_id, began, disturbed=True)
            ended, found = outcome(record)
            if ended != "completed" or (expected is not None and found != expected):
                wrong.append(f"it ended as {ended}: {found!r}, and should have returned {expected!r}")
            if record.workflow == "payments" and not {*found} <= {
                "StepInterruptedError",
                *(f"paid {n}" for n in range(8)),
            }:
                wrong.append(f"payments: {found}")
            assert not wrong, (
                f"{context}: {record.workflow} {run.run_id}: {'; '.join(wrong)}; workers said: {self._said()}"
            )
        with closing(sqlite3.connect(self.database)) as direct:
            assert direct.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            for table in ("messages", "inbox", "hooks", "workers"):
                assert direct.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), (
                    f"{context}: {table} has rows"
                )

    def _said(self) -> str:
        return self.errors.read_text()[-2000:] if self.errors.exists() else "nothing"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(happens: Callable[[], bool], otherwise: str) -> None:
    """Wait for something that happens, sooner or later."""
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_moments(site: Site, workers: int) -> None:
    seed = 100 + workers
    chance = random.Random(seed)
    for _ in range(ROUNDS * SCALE):
        workflow, argument, expected = chance.choice(KINDS)
        site.start(workflow, argument, expected=expected)
        while len(site.living) < workers:
            site.worker()
        time.sleep(chance.uniform(0, 0.15))
        for pid in list(site.living):
            if workers == 1 or chance.random() < 0.7:
                site.kill(pid)
    while len(site.living) < workers:
        site.worker()
    site.finish()
    site.check(f"seed {seed}, {ROUNDS * SCALE} rounds")


def test_hooks_resumed_while_workers_are_killed(site: Site, tmp_path: Path) -> None:
    """Clients, each a process, send to all runs at once; workers and now and then a client are killed meanwhile."""
    chance = random.Random(7)
    hooks, acknowledged = tmp_path / "hooks", tmp_path / "acknowledged"
    runs = {f"token-{number}": site.start(collect, f"token-{number}", CLIENTS) for number in range(COLLECTORS * SCALE)}
    hooks.write_text("\n".join(f"{token} {run.run_id}" for token, run in runs.items()))
    clients = {number: site.client(number, hooks, acknowledged) for number in range(CLIENTS)}
    kills = 0
    while any(map(alive, clients.values())):
        worker = site.worker()
        time.sleep(chance.uniform(0.05, 0.25))
        site.kill(worker)
        kills += 1
        if kills in (2, 5, 9) and alive(clients[kills % CLIENTS]):  # it begins anew: the same, under the same ids
            os.kill(clients[kills % CLIENTS], signal.SIGKILL)
            clients[kills % CLIENTS] = site.client(kills % CLIENTS, hooks, acknowledged)
    site.worker()
    site.finish()
    everybody = sorted(map(str, range(CLIENTS)))
    for token, run in runs.items():
        assert sorted(outcome(site.connection.get(run.run_id))[1]) == everybody, f"{token}: each payload, once"
    said = set(acknowledged.read_text().splitlines())
    assert len(said) > (CLIENTS - 1) * len(runs), "most were acknowledged; the rest by an answer that nobody got"
    site.check(f"{len(runs)} runs, {CLIENTS} clients, {kills} workers killed")


def test_stopped_beyond_its_lease(site: Site, tmp_path: Path) -> None:
    """A worker that was only asleep finds that others have gone on without it."""
    go = tmp_path / "go"
    run = site.start(gate, str(go), expected="it is there 2")
    sleeper = site.worker(lease=400_000)
    wait_until(lambda: site.still_works(sleeper) and len(lines(site.log)) == 1, "the first worker does not begin")
    stop_outside_a_transaction(sleeper, site.database)
    second = site.worker(lease=400_000)
    wait_until(lambda: site.still_works(second) and len(lines(site.log)) == 2, "nobody takes the step over")
    go.touch()
    wait_until(lambda: site.closed(run), "the run does not end")
    os.kill(sleeper, signal.SIGCONT)
    site.end(sleeper)
    site.end(second)
    assert [pid for _, pid in lines(site.log)][:2] == [sleeper, second]
    site.check("after SIGCONT")


def stop_outside_a_transaction(pid: int, database: Path) -> None:
    """Stop it when it does not hold the file's write lock, as others could not write then."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        direct = sqlite3.connect(database, timeout=0.2, isolation_level=None)
        try:
            direct.execute("BEGIN IMMEDIATE")
            direct.execute("ROLLBACK")
            return
        except sqlite3.OperationalError:
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.01)
        finally:
            direct.close()


def test_a_step_that_kills_its_worker(tmp_path: Path) -> None:
    """It is found, and its run parked; what was under way beside it is kept, and the run goes on when it is mended."""
    site = Site(tmp_path, limits=True)
    try:
        run = site.start(poisoned, 20, expected=[*map(str, range(20)), "mended"])
        lives = 0
        while not site.closed(run):
            pid = site.worker()
            lives += 1
            assert lives < 50, "the culprit is not found"
            wait_until(partial(ended_or_closed, site, run, pid), "the worker neither dies nor finishes")
            if not alive(pid):
                site.living.discard(pid)
        problem = site.connection.get(run.run_id).problem
        assert problem is not None
        assert problem.code == "poison"
        (tmp_path / "mended").touch()
        site.connection.resume(run.run_id)
        if not site.living:
            site.worker()
        site.finish()
        site.check(f"{lives} lives")
    finally:
        site.close()


def ended_or_closed(site: Site, run: Run[Any], pid: int) -> bool:
    return not alive(pid) or site.closed(run)


def test_two_workers_share_a_fan_out(site: Site) -> None:
    first, second = site.worker(), site.worker()
    site.start(meeting, 1_000, expected=sum(range(1_000)))
    site.finish()
    began = lines(site.log)
    assert {pid for _, pid in began} == {first, second}
    assert len(began) == 1_000, "nobody died, so no step may run twice"
    site.check("fan-out")
