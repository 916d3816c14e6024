"""What only the SQLite backend does, in one process."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from everstep.backends.sqlite import connection as connections
from everstep.backends.sqlite import message_queue as queue
from everstep.backends.sqlite import open_sqlite
from everstep.backends.sqlite.connection import SqliteDatabase
from everstep.core.history import CompleteRun
from everstep.core.messages import ExecuteStep, Outgoing
from everstep.core.run import Closed, RunStatus
from everstep.errors import SerializationError, StoreBusyError, StoreError
from everstep.ports import Backend, RunQuery, Unreadable
from everstep.testing.contracts.samples import (
    NOW,
    entry,
    in_other_thread,
    outgoing,
    race,
    run_id,
    run_record,
    sent_id,
    turn,
)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    backend = open_sqlite(tmp_path / "runs.db")
    yield backend
    backend.close()


def _of(backend: Backend) -> SqliteDatabase:
    database: SqliteDatabase = backend.runs._database  # type: ignore[attr-defined]
    return database


# --- payloads --------------------------------------------------------------------------------------


def test_big_payloads(backend: Backend) -> None:
    payload = random.Random(1).randbytes(10_000_000)
    backend.runs.create(run_record(input=payload))
    backend.runs.append(run_id(), turn(commands=(CompleteRun(result=payload),)))
    backend.runs.mark(run_id(), Closed(at=NOW, status=RunStatus.COMPLETED, result=payload))
    message = ExecuteStep(
        run_id=run_id(), workflow="w", op=0, name="big", attempt=1, input=payload, sole=True, first_at=NOW
    )
    backend.queue.send([Outgoing(message_id="big", message=message, due=NOW, root_id="root", workflow="w")])
    snapshot = backend.runs.load(run_id())
    assert snapshot is not None
    assert snapshot.run.input == snapshot.run.result == payload
    assert snapshot.turns[0].commands == (CompleteRun(result=payload),)
    assert backend.source.receive("ann", limit=1, now=NOW)[0].message == message


# --- failures --------------------------------------------------------------------------------------


def test_a_full_disk(backend: Backend) -> None:
    backend.runs.create(run_record())
    database = _of(backend)
    pages = database.rows("PRAGMA page_count")[0][0]
    database.rows(f"PRAGMA max_page_count = {pages + 20}")
    with pytest.raises(StoreError, match="no space left"), backend.unit():
        backend.queue.send([outgoing()])
        backend.runs.append(run_id(), turn(commands=(CompleteRun(result=random.Random(1).randbytes(500_000)),)))
    assert backend.source.next_due() is None
    database.rows("PRAGMA max_page_count = 1000000")
    with backend.unit():
        backend.queue.send([outgoing()])
    assert backend.source.next_due() == NOW


def test_an_error_that_is_caught_inside_a_unit_still_undoes_it(backend: Backend) -> None:
    """SQLite undoes a transaction by itself after some errors; what follows must not be committed alone."""
    with pytest.raises(StoreError, match="nothing of the unit was stored"), backend.unit():
        backend.runs.create(run_record(0))
        with pytest.raises(StoreError, match="64 bits"):
            backend.inbox.raise_flag(run_id(), now=2**63)
        with pytest.raises(StoreError, match="accepts nothing more"):
            backend.runs.create(run_record(1))
    assert backend.inspector.get_run(run_id(0)) is None
    assert backend.runs.create(run_record(0)) is True


def test_numbers_and_texts_that_sqlite_cannot_hold(backend: Backend) -> None:
    with pytest.raises(StoreError, match="64 bits"):
        backend.queue.send([outgoing(due=2**63)])
    with pytest.raises(SerializationError, match="not valid Unicode"):
        backend.steps.claim("caf\udce9", 0, 1)
    backend.queue.send([outgoing()])


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    backend = open_sqlite(path)
    for number in range(200):
        backend.runs.create(run_record(number))
    backend.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        open_sqlite(path).inspector.list_runs(RunQuery())


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    backend = open_sqlite(tmp_path / "runs.db")
    backend.runs.create(run_record())
    backend.close()
    backend.close()
    for call in (lambda: backend.runs.load(run_id()), lambda: backend.queue.send([outgoing()])):
        with pytest.raises(StoreError, match="was closed"):
            call()
        with pytest.raises(StoreError, match="was closed"):
            in_other_thread(call)
    with pytest.raises(StoreError, match="was closed"), backend.unit():
        pass


def test_closing_while_others_work(tmp_path: Path) -> None:
    backend = open_sqlite(tmp_path / "runs.db")
    started = threading.Barrier(4, timeout=30)

    def work(number: int) -> None:
        for turn_number in range(100_000):
            try:
                with backend.unit():
                    backend.runs.append(run_id(number), turn(turn_number))
                    backend.inspector.history(run_id(number))
            except StoreError:
                return
            if turn_number == 10:
                started.wait()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    started.wait()
    backend.close()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_connections_of_ended_threads_are_closed(backend: Backend) -> None:
    for _ in range(20):
        in_other_thread(lambda: backend.inspector.get_run(run_id()))
    backend.inspector.get_run(run_id())
    assert len(_of(backend)._links) <= 2


def test_threads_wait_for_each_other(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "WAIT", 0.05)
    with backend.unit():
        with pytest.raises(StoreBusyError, match="another thread"):
            in_other_thread(lambda: backend.queue.send([outgoing()]))
        with pytest.raises(StoreBusyError, match="another thread"):
            in_other_thread(lambda: backend.unit().__enter__())
    in_other_thread(lambda: backend.queue.send([outgoing()]))
    assert backend.source.next_due() == NOW


def test_two_backends_in_one_process(tmp_path: Path, backend: Backend) -> None:
    other = open_sqlite(tmp_path / "runs.db")
    race(4, lambda number: [(backend, other)[number % 2].runs.append(run_id(number), turn(n)) for n in range(50)])
    other.close()  # must not take away the locks of the first
    with closing(sqlite3.connect(tmp_path / "runs.db")) as third:
        assert third.execute("SELECT count(*) FROM turns").fetchone() == (200,)
    assert all(len(backend.inspector.history(run_id(number))) == 50 for number in range(4))
    assert (tmp_path / "runs.db-wal").exists()


# --- messages --------------------------------------------------------------------------------------


def test_a_message_that_cannot_be_read_stops_nobody(backend: Backend) -> None:
    backend.queue.send([outgoing(0), outgoing(1)])
    _of(backend).write("UPDATE messages SET body = ? WHERE message_id = ?", (b"of a newer version", sent_id(0)))
    backend.source.register("ann", until=NOW + 9)
    unreadable, readable = backend.source.receive("ann", limit=10, now=NOW)
    assert (unreadable.message_id, readable.message_id) == (sent_id(0), sent_id(1))
    assert isinstance(unreadable.message, Unreadable)
    assert not isinstance(readable.message, Unreadable)
    assert backend.source.receive("ann", limit=10, now=NOW) == []


# --- speed, without a clock ------------------------------------------------------------------------


def test_the_log_does_not_grow_for_ever(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_LOG_LIMIT", 1_000_000)
    database = _of(backend)
    database._log_limit = 1_000_000
    database.rows("PRAGMA wal_autocheckpoint = 0")  # as if it never found the moment
    log = tmp_path / "runs.db-wal"
    largest = 0
    for number in range(1500):
        with backend.unit():
            backend.runs.append(run_id(), turn(number))
        largest = max(largest, log.stat().st_size)
    assert 1_000_000 < largest < 8_000_000
    assert log.stat().st_size < largest


def test_a_reader_that_hangs_does_not_stop_writers(backend: Backend, tmp_path: Path) -> None:
    database = _of(backend)
    database._log_limit = 0
    database.rows("PRAGMA wal_autocheckpoint = 0")
    with closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM turns").fetchall()
        database._log_limit = 1
        for number in range(300):
            with backend.unit():
                backend.runs.append(run_id(), turn(number))
        assert database._log_limit == 2
    assert len(backend.inspector.history(run_id())) == 300


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (RunQuery(), "runs_by_time"),
        (RunQuery(workflow="w"), "runs_by_workflow"),
        (RunQuery(workflow="w", created_from=1, created_before=2), "runs_by_workflow"),
        (RunQuery(status=RunStatus.PENDING), "runs_open"),
        (RunQuery(status=RunStatus.RUNNING), "runs_open"),
        (RunQuery(status=RunStatus.FAILED), "runs_ended_otherwise"),
        (RunQuery(status=RunStatus.COMPLETED), "runs_by_time"),
        (RunQuery(attributes={"a": "b"}, workflow="w"), "USING PRIMARY KEY"),
    ],
)
def test_lists_walk_an_index_and_do_not_sort(backend: Backend, query: RunQuery, index: str) -> None:
    from everstep.backends.sqlite.inspector import _select

    sql, parameters = _select(query)
    plan = " / ".join(row[3] for row in _of(backend).rows(f"EXPLAIN QUERY PLAN {sql}", (*parameters, 10)))
    assert index in plan
    assert "TEMP B-TREE" not in plan


@pytest.mark.parametrize(
    ("sql", "index"),
    [
        (queue._DUE + queue._LONGEST_DUE_FIRST, "messages_waiting "),
        (queue._DUE + queue._OF_WORKFLOWS + queue._LONGEST_DUE_FIRST, "messages_waiting "),
        (queue._DUE + queue._OF_ROOT + queue._OF_WORKFLOWS + queue._LONGEST_DUE_FIRST, "messages_waiting_by_root "),
        (queue._NEXT_DUE, "messages_waiting"),
        (queue._NEXT_DUE + queue._OF_ROOT + queue._OF_WORKFLOWS, "messages_waiting_by_root "),
        (queue._ORPHANS, "messages_waiting "),
        (queue._ANY_ABANDONED, "messages_leased"),
        (queue._RECOVER, "messages_leased"),
        (queue._GIVE_ALL_BACK, "messages_leased "),
    ],
)
def test_messages_are_found_by_an_index(backend: Backend, sql: str, index: str) -> None:
    given = ("[]",) * sql.count("?")
    plan = " / ".join(row[3] for row in _of(backend).rows(f"EXPLAIN QUERY PLAN {sql}", given))
    assert index in f"{plan} "
    assert "TEMP B-TREE" not in plan


def test_inbox_order_is_that_of_deposits_not_of_keys(backend: Backend) -> None:
    backend.runs.create(run_record())
    for key in ("b", "a"):
        backend.inbox.deposit(run_id(), entry(key=key))
    snapshot = backend.runs.load(run_id())
    assert snapshot is not None
    assert [item.key for item in snapshot.inbox] == ["b", "a"]
