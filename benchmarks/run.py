"""Measure the engine beside bare SQLite, in one run on one machine: `make bench`.

All runs of one column use a fresh database file in the current folder's file system (TMPDIR changes that), so that
the durable figures are those of the disk below it. Every figure is the best of a few rounds, which on a shared machine
is the one least disturbed; the spread is printed beside it.
"""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

from everstep import Workflows, run, start_sync
from everstep.assembly import connect_sqlite, use_connection
from everstep.core.history import Turn
from everstep.core.replay import Replay, RunInfo
from everstep.runtime.connection import Connection
from everstep.runtime.worker import Worker
from everstep.testing import History

Synchronous: TypeAlias = Literal["NORMAL", "FULL"]

wf = Workflows()


@wf.workflow
async def sequence(count: int) -> int:
    total = 0
    for number in range(count):
        total = await add(total, number)
    return total


@wf.workflow
async def gather(count: int) -> int:
    return sum(await asyncio.gather(*(add(number, 1) for number in range(count))))


@wf.step
async def add(one: int, other: int) -> int:
    return one + other


def timed(function: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def commits(folder: Path, synchronous: Synchronous, count: int = 3000) -> float:
    """Seconds for so many commits of one row each, with nothing else around them."""
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute("CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, data BLOB)")

    def work() -> None:
        for _ in range(count):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO rows (data) VALUES (?)", (b"x" * 100,))
            connection.execute("COMMIT")

    seconds = timed(work)
    connection.close()
    return seconds


def many(connection: Connection, runs: int, steps: int) -> float:
    """Seconds from the first turn of runs that were started together until the last of them is closed."""
    handles = [start_sync(sequence, steps) for _ in range(runs)]
    left = len(handles)

    def closed(_run_id: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            worker.stop()

    worker = Worker(connection.engine(wf), on_closed=closed)
    return timed(lambda: asyncio.run(worker.serve()))


def latencies(connection: Connection, count: int = 100) -> list[float]:
    """Seconds from `start` to the result of a one-step workflow, beside a worker on its own thread's loop."""

    async def measure() -> list[float]:
        from everstep import start

        worker = Worker(connection.engine(wf), on_closed=connection.closed)
        remove = connection.on_sent(worker.wake)
        serving = asyncio.ensure_future(worker.serve())
        await asyncio.sleep(0.05)
        seconds = []
        for _ in range(count):
            begin = time.perf_counter()
            await (await start(sequence, 1)).return_value()
            seconds.append(time.perf_counter() - begin)
        remove()
        worker.stop()
        await serving
        return seconds

    return asyncio.run(measure())


def replays(connection: Connection, count: int = 5000) -> tuple[float, float]:
    """Turns per second: applied to a fresh instance, and read from the file, decoded and applied."""
    handle = start_sync(sequence, count - 1)
    asyncio.run(_finish(connection, handle.run_id))

    def load_and_apply() -> None:
        apply(History.read(connection.backend, handle.run_id).turns)

    def apply(turns: Sequence[Turn]) -> None:
        replay = Replay(
            wf.workflows["sequence"], RunInfo(run_id=handle.run_id, workflow="sequence", input=history.run.input)
        )
        replay.apply(*turns)
        assert replay.closing is not None

    history = History.read(connection.backend, handle.run_id)
    warm = min(timed(lambda: apply(history.turns)) for _ in range(3))
    cold = min(timed(load_and_apply) for _ in range(3))
    return count / warm, count / cold


async def _finish(connection: Connection, run_id: str) -> None:
    worker = Worker(connection.engine(wf), root_id=run_id, on_closed=lambda _run_id: worker.stop())
    await worker.serve()


def imports() -> tuple[float, float, float]:
    """Milliseconds to import everstep and to start bare Python, and the importer's peak memory in MiB."""
    code = "import everstep, resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"

    def once(code: str) -> tuple[float, str]:
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        return (time.perf_counter() - begin) * 1000, done.stdout

    with_it = [once(code) for _ in range(7)]
    without = [once("pass") for _ in range(7)]
    bare = min(milliseconds for milliseconds, _ in without)
    return min(milliseconds for milliseconds, _ in with_it) - bare, bare, int(with_it[0][1]) / 1024


@contextmanager
def database(synchronous: Synchronous) -> Iterator[Connection]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", ".")) as folder:
        connection = connect_sqlite(Path(folder) / "runs.db", synchronous=synchronous)
        with use_connection(connection):
            run(sequence, 10)  # build what is built once
            yield connection
        connection.close()


def best(name: str, unit: str, measure: Callable[[], float], *, rounds: int = 3, higher: bool = True) -> float:
    values = [measure() for _ in range(rounds)]
    chosen = max(values) if higher else min(values)
    spread = f"{min(values):,.0f} to {max(values):,.0f}" if chosen >= 10 else f"{min(values):.3f} to {max(values):.3f}"
    shown = f"{chosen:,.0f}" if chosen >= 10 else f"{chosen:.3f}"
    print(f"  {name:<44}{shown:>10} {unit:<10} ({spread})", flush=True)
    return chosen


def measure(synchronous: Synchronous) -> None:
    print(f"\nsynchronous={synchronous}")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", ".")) as folder:
        bare = best("bare SQLite, one row a commit", "commits/s", lambda: 3000 / commits(Path(folder), synchronous))
    with database(synchronous) as connection:
        steps = 0.0
        for count in (500, 1000, 2000, 5000):
            steps = best(
                f"one run of {count:,} sequential steps",
                "steps/s",
                lambda count=count: count / timed(lambda: run(sequence, count)),  # type: ignore[misc]
            )
        print(f"  {'(bare commits per durable step)':<44}{bare / steps:>10.1f}")
        best("100 runs of 10 steps together", "steps/s", lambda: 1000 / many(connection, 100, 10))
        best("one run that gathers 1,000 steps", "s", lambda: timed(lambda: run(gather, 1000)), higher=False)
        seconds = latencies(connection)
        print(
            f"  {'start to result, one step':<44}{statistics.median(seconds) * 1000:>10.2f} {'ms median':<10} "
            f"({min(seconds) * 1000:.2f} to {max(seconds) * 1000:.2f})"
        )
        if synchronous == "NORMAL":
            warm, cold = replays(connection)
            print(f"  {'replay, in memory':<44}{warm:>10,.0f} turns/s")
            print(f"  {'replay, read from the file':<44}{cold:>10,.0f} turns/s")


def main() -> None:
    print(
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores, "
        f"{platform.system()} {platform.machine()}"
    )
    measure("NORMAL")
    measure("FULL")
    milliseconds, bare, memory = imports()
    print(f"\nimport everstep: {milliseconds:.0f} ms above Python's own {bare:.0f} ms, {memory:.0f} MiB at its peak")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of this whole run: {peak:.0f} MiB")


if __name__ == "__main__":
    main()
