"""`everstep dev`: API and worker in one process, which is started anew when the code changes."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everstep.cli.reload import _changed, _folders, _sources
from tests.cli.commands import PATIENCE, Folder, Started

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals and named pipes")


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class Dev:
    """A running `everstep dev`, and a client of it."""

    def __init__(self, folder: Folder, *options: str, token: str | None = None) -> None:
        self.started: Started = folder.start("dev", "--app", "shop", "--port", "0", *options)
        self.url = self.started.wait_for(r"^API +(http://127\.0\.0\.1:\d+)$")[1]
        self.token = token or self.started.wait_for(r"^token +(\S{32})$")[1]
        self.started.wait_for("serving app shop")

    def call(self, path: str, body: Any = None, *, token: str | None = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token or self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def run(self, workflow: str, given: Any) -> Any:
        status, run = self.call("/v1/runs", {"workflow": workflow, "input": given})
        assert status == 201, run
        return self.call(f"/v1/runs/{run['run_id']}/result?wait=20")[1]


def test_it_serves_works_and_stops(folder: Folder) -> None:
    dev = Dev(folder)
    assert dev.call("/health") == (200, {"status": "ok"})
    assert dev.call("/v1/runs", token="x" * 32)[0] == 401
    assert dev.run("greet", ["Ada"])["result"] == ["Hello Ada"]
    assert dev.call("/health/queue")[0] == 200
    dev.started.wait_for(r"POST /v1/runs 201 in \d+ ms")
    dev.started.wait_for("greet completed in")
    assert len([line for line in dev.started.lines if dev.token in line]) == 1, "it is printed once"
    assert folder.db.is_file()
    dev.started.send(signal.SIGINT)
    assert dev.started.wait() == 0
    assert dev.started.lines[-1].endswith(" stopped")


def test_bodies_are_verified(folder: Folder) -> None:
    (folder.path / "shop.py").write_text(
        "from everstep import Workflows\nwf = Workflows()\ncalls = []\n"
        "@wf.step\nasync def one(n: int): pass\n"
        "@wf.workflow\nasync def counts():\n    calls.append(1)\n    await one(len(calls))\n"
    )
    dev = Dev(folder)
    _, run = dev.call("/v1/runs", {"workflow": "counts"})
    status, outcome = dev.call(f"/v1/runs/{run['run_id']}/result?wait=20")
    assert (status, outcome["status"], outcome["problem"]["code"]) == (202, "parked", "divergence")


def test_a_change_of_the_code_starts_it_anew(folder: Folder) -> None:
    dev = Dev(folder)
    app = folder.path / "shop.py"
    good = app.read_text()
    app.write_text(good.replace("Hello {name}", "Good morning {name}"))
    dev.started.wait_for(r"shop\.py changed: starting anew")
    assert dev.run("greet", ["Ada"])["result"] == ["Good morning Ada"], "a request waits until it is there again"
    app.write_text("this is no Python\n")
    dev.started.wait_for("it has ended; it is started anew when a source file changes")
    app.write_text(good.replace("Hello {name}", "Good night to you, {name}"))
    assert dev.run("greet", ["Ada"])["result"] == ["Good night to you, Ada"]
    dev.started.send(signal.SIGTERM)
    assert dev.started.wait() == 0


def test_runs_go_on_in_the_new_code(folder: Folder) -> None:
    dev = Dev(folder)
    gate = folder.gate()
    _, run = dev.call("/v1/runs", {"workflow": "waits", "input": [str(gate)]})
    trace = folder.path / "trace"
    wait_until(trace.exists)
    (folder.path / "other.py").write_text("")
    dev.started.wait_for(r"other\.py changed: starting anew")
    dev.started.wait_for("stopping at once; 1 step will run again")
    wait_until(lambda: len(trace.read_text().split()) == 2)
    with gate.open("w"):
        pass
    outcome = dev.call(f"/v1/runs/{run['run_id']}/result?wait=20")[1]
    assert outcome["result"] == ["Hello first", "Hello last"]
    assert len(trace.read_text().split()) == 2


def test_without_reload_it_is_one_process(folder: Folder) -> None:
    dev = Dev(folder, "--no-reload")
    (folder.path / "shop.py").write_text("this is no Python\n")
    assert dev.run("greet", ["Ada"])["result"] == ["Hello Ada"]
    dev.started.send(signal.SIGTERM)
    assert dev.started.wait() == 0


def test_when_it_is_killed_nothing_is_left_running(folder: Folder) -> None:
    dev = Dev(folder)
    assert dev.call("/health/queue")[0] == 200
    port = int(dev.url.rpartition(":")[2])
    dev.started.send(signal.SIGKILL)

    def closed() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    wait_until(closed)
    dev.started.wait_for(" stopped$")


def test_a_token_that_was_chosen(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSTEP_DEV_TOKEN", "a-token-that-was-chosen")
    dev = Dev(folder, token="a-token-that-was-chosen")
    assert dev.call("/v1/runs")[0] == 200
    assert not any("a-token-that-was-chosen" in line for line in dev.started.lines)
    dev.started.wait_for(r"^token +the one in EVERSTEP_DEV_TOKEN$")


def test_streams_end_when_it_stops(folder: Folder) -> None:
    dev = Dev(folder)
    _, run = dev.call("/v1/runs", {"workflow": "naps", "input": [3600]})
    host, _, port = dev.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
        path = f"/v1/runs/{run['run_id']}/streams/main/events"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {dev.token}\r\n\r\n".encode())
        file = connection.makefile("rb")
        assert file.readline() == b"HTTP/1.1 200 OK\r\n"
        dev.started.send(signal.SIGINT)
        rest = file.read()
    assert b"event: end" not in rest
    assert rest.endswith(b"0\r\n\r\n"), "the answer is whole, and a client comes back"
    assert dev.started.wait() == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--app", "nowhere"], "there is no module 'nowhere'"),
        (["--app", "shop", "--stack", "shop"], "on aws the deployed functions do the work"),
        (["--app", "shop", "--host", "256.256.256.256"], "--host '256.256.256.256'"),
        (["--app", "shop", "--port", "99999"], "invalid value for '--port'"),
        ([], "missing option '--app'"),
    ],
)
def test_bad_input(folder: Folder, words: list[str], said: str) -> None:
    done = folder.run("dev", *(words if "--port" in words else [*words, "--port", "0"]))
    assert done.code == 2
    assert said in done.err.splitlines()[-1]


def test_a_port_that_is_taken(folder: Folder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = folder.run("dev", "--app", "shop", "--port", str(taken.getsockname()[1]))
    assert (done.code, "choose another --port" in done.line) == (2, True)


def test_a_token_that_is_too_short(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSTEP_DEV_TOKEN", "short")
    done = folder.run("dev", "--app", "shop", "--port", "0")
    assert (done.code, "EVERSTEP_DEV_TOKEN has 5 characters" in done.line) == (2, True)


# --- which files -------------------------------------------------------------------------------------


def test_source_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.py", "pkg/b.py", ".hidden/c.py", "__pycache__/d.py", "venv/e.py", "venv/pyvenv.cfg", "f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    before = _sources([tmp_path])
    assert sorted(os.path.relpath(path, tmp_path) for path in before) == ["a.py", "pkg/b.py"]
    (tmp_path / "pkg" / "b.py").unlink()
    assert _changed(before, _sources([tmp_path])) == "pkg/b.py"
    (tmp_path / "g.py").write_text("")
    assert _changed(before, _sources([tmp_path])) == "g.py and 1 more"


@pytest.mark.parametrize(
    ("app", "more"), [("shop", []), ("shop:wf", []), ("shop.py", []), ("sub/shop.py:wf", []), ("../shop.py", [".."])]
)
def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, app: str, more: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert _folders(app) == [tmp_path, *((tmp_path / each).resolve() for each in more)]
