"""Opening an SQLite file: what is created, what is refused, and that what is refused is left as it was."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from everstep.backends.sqlite import open_sqlite, schema
from everstep.errors import ConfigurationError, StoreError, StoreFormatError
from everstep.ports import RunQuery
from everstep.testing.contracts.samples import NOW, race, run_id, run_record


def _snapshot(folder: Path) -> dict[str, bytes | None]:
    """All files below a folder with their bytes."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def _database(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


# --- creating --------------------------------------------------------------------------------------


def test_folders_and_file_are_created(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "50% #1?" / "ünï.db"
    backend = open_sqlite(str(path))
    backend.runs.create(run_record())
    backend.close()
    assert path.is_file()
    backend = open_sqlite(path, must_exist=True)
    assert backend.inspector.get_run(run_id()) == run_record()
    backend.close()


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    path.touch()
    backend = open_sqlite(path, must_exist=True)
    assert backend.runs.create(run_record()) is True
    backend.close()


def test_an_sqlite_file_without_tables_becomes_a_database(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    _database(path, "CREATE TABLE t (x)", "DROP TABLE t")
    open_sqlite(path).close()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX file modes")
def test_only_the_owner_may_read(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        backend = open_sqlite(tmp_path / "runs.db")
        backend.source.register("ann", until=NOW)
    finally:
        os.umask(old)
    modes = {path.name.removeprefix("runs.db"): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"": 0o600, "-wal": 0o600, "-shm": 0o600, ".workers": 0o700}
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "runs.db.workers").iterdir()] == [0o600]
    backend.close()


def test_a_closed_database_is_one_file(tmp_path: Path) -> None:
    backend = open_sqlite(tmp_path / "runs.db")
    backend.source.register("ann", until=NOW)
    race(4, lambda number: backend.runs.create(run_record(number)))
    backend.source.leave("ann")
    backend.close()
    assert [path.name for path in tmp_path.iterdir()] == ["runs.db"]


def test_threads_open_the_same_new_file(tmp_path: Path) -> None:
    backends = race(6, lambda _: open_sqlite(tmp_path / "runs.db"))
    assert sorted(race(6, lambda number: backends[number].runs.create(run_record()))) == [False] * 5 + [True]
    for backend in backends:
        backend.close()


def test_links_lead_to_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    first, second = open_sqlite(tmp_path / "real" / "runs.db"), open_sqlite(tmp_path / "link" / "runs.db")
    first.source.register("ann", until=NOW + 9)
    assert second.source.recover(now=NOW) == 0
    assert len(list((tmp_path / "real" / "runs.db.workers").iterdir())) == 1
    first.close()
    second.close()


@pytest.mark.parametrize(("synchronous", "level"), [("NORMAL", 1), ("FULL", 2)])
def test_synchronous_is_set_on_every_connection(tmp_path: Path, synchronous: Any, level: int) -> None:
    backend = open_sqlite(tmp_path / "runs.db", synchronous=synchronous)
    database = backend.runs._database  # type: ignore[attr-defined]
    backend.steps.claim("wrun_1", 0, 1)  # which changes it for a moment
    assert database.rows("PRAGMA synchronous") == [(level,)]
    assert race(2, lambda _: database.rows("PRAGMA synchronous")) == [[(level,)]] * 2
    assert database.rows("PRAGMA journal_mode") == [("wal",)]
    backend.close()


# --- refusing --------------------------------------------------------------------------------------


def test_a_missing_file_that_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no Everstep database at .*missing/runs\.db\. Check the path"):
        open_sqlite(tmp_path / "missing" / "runs.db", must_exist=True)
    assert _snapshot(tmp_path) == {}


@pytest.mark.parametrize("content", [b"hello", b"hello, world\n" * 1000, b"SQLite format 3\0 but not really"])
def test_a_file_that_is_not_sqlite(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "notes.txt").write_bytes(content)
    with pytest.raises(StoreFormatError, match=r"notes\.txt is not an SQLite database"):
        open_sqlite(tmp_path / "notes.txt")
    assert _snapshot(tmp_path) == {str(tmp_path / "notes.txt"): content}


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("application", [0, 0x12345678])
def test_a_database_of_another_program(tmp_path: Path, mode: str, application: int) -> None:
    path = tmp_path / "other.db"
    _database(
        path,
        f"PRAGMA journal_mode = {mode}",
        f"PRAGMA application_id = {application}",
        "CREATE TABLE t (x)",
        "INSERT INTO t VALUES (1)",
    )
    before = _snapshot(tmp_path)
    with pytest.raises(
        StoreFormatError, match=rf"other\.db is an SQLite database of another program .*{application:#x}"
    ):
        open_sqlite(path)
    assert _snapshot(tmp_path) == before


def test_a_database_of_another_program_that_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = wal")
        other.execute("CREATE TABLE t (x)")  # so far only in its log
        before = _snapshot(tmp_path)
        with pytest.raises(StoreFormatError, match="another program"):
            open_sqlite(path)
        assert _snapshot(tmp_path) == before


@pytest.mark.parametrize("in_use", [False, True])
def test_a_newer_schema(tmp_path: Path, in_use: bool) -> None:
    path = tmp_path / "runs.db"
    open_sqlite(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as newer:
        newer.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
        if not in_use:
            newer.close()
        before = _snapshot(tmp_path)
        with pytest.raises(
            StoreFormatError, match=rf"runs\.db was written by a newer Everstep \(schema version {schema.VERSION + 1}"
        ):
            open_sqlite(path)
        assert {k: v for k, v in _snapshot(tmp_path).items() if not k.endswith("-shm")} == {
            k: v for k, v in before.items() if not k.endswith("-shm")
        }


def test_a_path_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is a folder"):
        open_sqlite(tmp_path)


def test_a_path_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be created or opened"):
        open_sqlite(tmp_path / "file" / "runs.db")


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes")
def test_a_path_that_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError, match="not a regular file"):
        open_sqlite(tmp_path / "pipe")


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_a_path_that_is_no_file(path: str) -> None:
    with pytest.raises(ConfigurationError, match="needs a file"):
        open_sqlite(path)


def test_a_wrong_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'NORMAL' or 'FULL'"):
        open_sqlite(tmp_path / "runs.db", synchronous="OFF")  # type: ignore[arg-type]


AS_NOBODY = """
import os, sys
from everstep.backends.sqlite import open_sqlite
from everstep.errors import ConfigurationError
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    open_sqlite(sys.argv[1])
except ConfigurationError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX file modes")
@pytest.mark.parametrize(
    ("file", "file_mode", "folder_mode", "message"),
    [
        ("runs.db", 0o444, 0o777, "may not write to the file"),
        ("runs.db", 0o666, 0o555, "may not write to the folder"),
        ("new.db", None, 0o555, "cannot be created or opened: Permission denied"),
        ("a/b/new.db", None, 0o555, "cannot be created or opened: Permission denied"),
    ],
)
def test_without_permission(file: str, file_mode: int | None, folder_mode: int, message: str) -> None:
    folder = Path(tempfile.mkdtemp())  # not below tmp_path, which another user cannot get to
    try:
        if file_mode is not None:
            open_sqlite(folder / file).close()
            (folder / file).chmod(file_mode)
        folder.chmod(folder_mode)
        before = _snapshot(folder)
        done = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(folder / file)],
            capture_output=True,
            text=True,
            timeout=30,
            env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert message in done.stdout, done.stderr
        assert str(folder / file) in done.stdout
        assert _snapshot(folder) == before
    finally:
        folder.chmod(0o777)
        for path in folder.rglob("*"):
            path.unlink()
        folder.rmdir()


def test_migrations_that_fail_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs.db"
    open_sqlite(path).close()
    before = _tables(path)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE added (x)", "nonsense")))
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    with pytest.raises(StoreError, match="nonsense"):
        open_sqlite(path)
    assert _tables(path) == before


def test_migrations_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs.db"
    backend = open_sqlite(path)
    backend.runs.create(run_record())
    backend.close()
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE added (x)",)))
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    for _ in range(2):
        backend = open_sqlite(path)
        assert backend.inspector.get_run(run_id()) == run_record()
        backend.close()
    assert "added" in _tables(path)
    monkeypatch.undo()
    with pytest.raises(StoreFormatError, match="newer"):
        open_sqlite(path)


def _tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}


# --- while the log is copied -------------------------------------------------------------------------


def test_a_file_whose_log_was_being_copied_into_it_opens(tmp_path: Path) -> None:
    """Copying begins with the first page, which says how large the file is to be. A process was killed just then."""
    path, log = tmp_path / "runs.db", tmp_path / "runs.db-wal"
    backend = open_sqlite(path)
    small = path.read_bytes()
    for number in range(50):
        backend.runs.create(run_record(number, input=bytes(4096)))
    copies = {each: each.read_bytes() for each in (log, tmp_path / "runs.db-shm")}
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(FULL)")
    whole = path.read_bytes()
    backend.close()
    assert len(whole) > len(small)
    for name, content in copies.items():
        name.write_bytes(content)
    path.write_bytes(whole[:4096] + small[4096:])

    backend = open_sqlite(path, must_exist=True)
    assert len(backend.inspector.list_runs(RunQuery()).runs) == 50
    backend.close()
