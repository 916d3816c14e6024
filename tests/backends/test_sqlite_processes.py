"""Several processes on one SQLite file: races, deaths, readers beside writers."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from everstep.backends.sqlite import open_sqlite
from everstep.errors import ConfigurationError, StoreBusyError
from everstep.ports import Backend
from everstep.runtime.stream_reading import ChunkData, StreamReader
from everstep.testing.contracts.samples import NOW, outgoing, run_id, run_record, sent_id
from tests.backends import sqlite_processes as processes
from tests.backends.sqlite_processes import FAR, finish, start, wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and flock")


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    backend = open_sqlite(tmp_path / "runs.db")
    yield backend
    backend.close()


# --- races -----------------------------------------------------------------------------------------


def test_processes_create_the_file_together(tmp_path: Path) -> None:
    finish(*[start(processes.create_at_once, str(tmp_path), f"{number}", 4) for number in range(4)])
    backend = open_sqlite(tmp_path / "new" / "runs.db", must_exist=True)
    assert [backend.inspector.get_run(run_id(number)) for number in range(4)] == [run_record(n) for n in range(4)]
    backend.close()


def test_processes_race_on_append(tmp_path: Path, backend: Backend) -> None:
    finish(*[start(processes.race_to_append, str(tmp_path), f"{number}", 3, 300) for number in range(3)])
    history = backend.inspector.history(run_id())
    assert [item.number for item in history] == list(range(300))
    won = {f"{number}": int((tmp_path / f"won-{number}").read_text()) for number in range(3)}
    assert won == {me: sum(item.nonce == me for item in history) for me in won}


def test_processes_share_the_messages(tmp_path: Path, backend: Backend) -> None:
    backend.queue.send([outgoing(number) for number in range(300)])
    finish(*[start(processes.receive_everything, str(tmp_path), f"{number}", 3) for number in range(3)])
    received = [line for n in range(3) for line in (tmp_path / f"received-{n}").read_text().splitlines()]
    assert sorted(received) == sorted(sent_id(number) for number in range(300))


def test_a_reader_sees_whole_units_of_another_process(tmp_path: Path, backend: Backend) -> None:
    backend.runs.create(run_record())
    writer = start(processes.append_pairs, str(tmp_path), 2000)
    before, seen, count = backend.source.changes(), set(), 0
    while count < 2000:
        snapshot = backend.runs.load(run_id())
        assert snapshot is not None
        count = len(snapshot.turns)
        assert count == 2 * len(snapshot.inbox)
        seen.add(count)
    finish(writer)
    assert len(seen) > 2
    assert backend.source.changes() != before


def test_processes_write_one_stream(tmp_path: Path, backend: Backend) -> None:
    writers = [start(processes.write_stream, str(tmp_path), f"{number}", 3, 100) for number in range(3)]
    reader = StreamReader(backend.streams, run_id(), "main")
    live: list[bytes] = []
    while len(live) < 900:  # beside the writers
        live += [item.data for item in reader.read() if isinstance(item, ChunkData)]
    finish(*writers)
    assert len(set(live)) == 900
    for number in range(3):
        mine = [chunk for chunk in live if chunk.startswith(b"[%d," % number)]
        assert mine == [b"[%d,%d,%d]" % (number, batch, n) for batch in range(100) for n in range(3)]
    for begin in range(0, 900, 97):
        again = StreamReader(backend.streams, run_id(), "main", start=begin).read(1000)
        assert [item.index for item in again] == list(range(begin, 900))
        assert [item.data for item in again if isinstance(item, ChunkData)] == live[begin:]


# --- locks -----------------------------------------------------------------------------------------


def test_a_writer_waits_for_another_process(tmp_path: Path, backend: Backend) -> None:
    writer = start(processes.write_lock_for, str(tmp_path), 0.3)
    wait_for(tmp_path / "locked")
    assert backend.inspector.get_run(run_id()) is None  # reading does not wait
    assert backend.source.next_due() is None
    backend.queue.send([outgoing()])
    assert len(backend.source.receive("ann", limit=10, now=NOW)) == 2  # so the other unit was over by then
    finish(writer)


def test_waiting_ends_with_an_error_of_ours(tmp_path: Path, backend: Backend) -> None:
    writer = start(processes.write_lock_for, str(tmp_path), 60)
    wait_for(tmp_path / "locked")
    backend.runs._database._link().connection.execute("PRAGMA busy_timeout = 50")  # type: ignore[attr-defined]
    with pytest.raises(StoreBusyError, match="locked by another process"):
        backend.queue.send([outgoing()])
    with pytest.raises(StoreBusyError), backend.unit():
        raise AssertionError("the unit must not begin")
    writer.kill()
    finish(writer, code=-signal.SIGKILL)
    backend.queue.send([outgoing()])  # the kernel has let the lock go, and what the other wrote is undone
    assert [item.message_id for item in backend.source.receive("ann", limit=10, now=NOW)] == [sent_id()]


# --- death -----------------------------------------------------------------------------------------


def test_sigkill_leaves_no_half_unit(tmp_path: Path) -> None:
    open_sqlite(tmp_path / "runs.db").close()
    reached = 0
    for _ in range(4):
        (tmp_path / "looping").unlink(missing_ok=True)
        (tmp_path / "runs.db").unlink()
        for beside in tmp_path.glob("runs.db-*"):
            beside.unlink()
        process = start(processes.loop_units, str(tmp_path))
        wait_for(tmp_path / "looping")
        process.kill()
        finish(process, code=-signal.SIGKILL)
        backend = open_sqlite(tmp_path / "runs.db", must_exist=True)
        backend.runs.create(run_record())
        snapshot = backend.runs.load(run_id())
        assert snapshot is not None
        count = len(snapshot.turns)
        assert [item.nonce for item in snapshot.turns] == [f"{number}" for number in range(count)]
        assert [item.key for item in snapshot.inbox] == [f"{number}" for number in range(count)]
        assert backend.source.recover(now=NOW) == 1
        (last,) = backend.source.receive("ann", limit=10, now=NOW)
        assert (last.message_id, last.receives) == (f"m{count - 1}", 2)
        reached = max(reached, count)
        backend.close()
    assert reached >= 20


def test_the_messages_of_a_killed_worker_come_back_at_once(tmp_path: Path, backend: Backend) -> None:
    backend.queue.send([outgoing(number) for number in range(6)])
    ann = start(processes.hold_messages, str(tmp_path), "ann", 3)
    wait_for(tmp_path / "holding-ann")
    bob = start(processes.hold_messages, str(tmp_path), "bob", 2)
    wait_for(tmp_path / "holding-bob")
    assert backend.source.recover(now=NOW) == 0
    assert len(_lock_files(tmp_path)) == 2
    ann.kill()
    finish(ann, code=-signal.SIGKILL)
    assert backend.source.recover(now=NOW) == 3
    assert len(_lock_files(tmp_path)) == 1
    backend.source.register("carl", until=FAR)
    assert sorted(delivery.receives for delivery in backend.source.receive("carl", limit=10, now=NOW)) == [1, 2, 2, 2]
    bob.kill()
    finish(bob, code=-signal.SIGKILL)
    assert backend.source.recover(now=NOW) == 2
    backend.source.leave("carl")
    assert not (tmp_path / "runs.db.workers").exists()


def test_a_stopped_worker_loses_its_messages_when_its_time_passes(tmp_path: Path, backend: Backend) -> None:
    backend.queue.send([outgoing()])
    process = start(processes.hold_messages, str(tmp_path), "ann", 1)
    wait_for(tmp_path / "holding-ann")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    assert backend.source.recover(now=FAR - 1) == 0
    assert backend.source.recover(now=FAR) == 1
    os.kill(process.pid, signal.SIGCONT)
    assert len(_lock_files(tmp_path)) == 1  # it lives, so its file is still its own
    process.kill()
    finish(process, code=-signal.SIGKILL)
    assert backend.source.recover(now=NOW) == 0
    assert _lock_files(tmp_path) == []


def test_a_worker_id_belongs_to_one_process(tmp_path: Path, backend: Backend) -> None:
    backend.queue.send([outgoing()])
    process = start(processes.hold_messages, str(tmp_path), "ann", 1)
    wait_for(tmp_path / "holding-ann")
    with pytest.raises(ConfigurationError, match="'ann' is in use"):
        backend.source.register("ann", until=FAR)
    process.kill()
    finish(process, code=-signal.SIGKILL)
    backend.source.register("ann", until=FAR)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_keep_its_parents_worker_alive(tmp_path: Path, backend: Backend) -> None:
    backend.source.register("ann", until=FAR)
    backend.queue.send([outgoing(lease_to="ann")])
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        backend.source._locks.close()  # type: ignore[attr-defined]
        other = open_sqlite(tmp_path / "runs.db")
        for _ in range(200):  # the child may not have run yet
            if other.source.recover(now=NOW) == 1:
                break
            os.sched_yield()
        else:
            raise AssertionError("the lock is still held")
        other.close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_uses_connections_of_its_own(tmp_path: Path, backend: Backend) -> None:
    backend.runs.create(run_record())
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if backend.runs.create(run_record(1)) and backend.inspector.get_run(run_id()) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert backend.inspector.get_run(run_id(1)) == run_record(1)


def _lock_files(folder: Path) -> list[Path]:
    return list((folder / "runs.db.workers").glob("*"))
