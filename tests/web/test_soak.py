"""Hooks are resumed over HTTP by several clients while the server and its worker are killed and started again."""

from __future__ import annotations

import http.client
import json
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import Folder, Started

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals"),
]

TOKEN = "the-token-of-the-soak"
RUNS, PAYLOADS, CLIENTS, KILLS = 200, 3, 6, 6
PATIENCE = 120.0

APP = """
from everstep import Workflows, create_hook

wf = Workflows()


@wf.workflow
async def collects(token: str, count: int) -> list[str]:
    async with create_hook(token=token) as hook:
        return [await note(await hook) for _ in range(count)]


@wf.step
async def note(payload: str) -> str:
    return payload
"""


class Client:
    """Sends requests until they are answered. What was answered with 2xx is acknowledged."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.retries = 0

    def call(self, method: str, path: str, body: Any = None, key: str | None = None) -> Any:
        end = time.monotonic() + PATIENCE
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        while time.monotonic() < end:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
            try:
                connection.request(method, path, None if body is None else json.dumps(body), headers)
                answer = connection.getresponse()
                content = answer.read()
                if answer.status < 300:
                    return json.loads(content)
                assert answer.status in (404, 503), (answer.status, content)  # 404: the hook is not open yet
            except (OSError, http.client.HTTPException):  # it was killed, and maybe after it had stored the payload
                pass
            finally:
                connection.close()
            self.retries += 1
            time.sleep(0.02)
        raise AssertionError(f"{method} {path} was never answered")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Folder]:
    monkeypatch.setenv("EVERSTEP_DEV_TOKEN", TOKEN)
    folder = Folder(tmp_path)
    (tmp_path / "soak.py").write_text(APP)
    yield folder
    folder.close()


def test_every_acknowledged_resume_is_consumed_exactly_once(folder: Folder) -> None:
    chance = random.Random(7)

    def serve(port: int) -> Started:
        return folder.start("dev", "--app", "soak", "--no-reload", "--no-verify", "--port", str(port))

    serving = serve(0)
    port = int(serving.wait_for(r"^API +http://127\.0\.0\.1:(\d+)$")[1])
    clients = [Client(port) for _ in range(CLIENTS)]
    over = threading.Event()
    killed = 0

    def kill() -> None:
        nonlocal serving, killed
        while killed < KILLS and not over.wait(chance.uniform(0.3, 1.2)):
            serving.send(signal.SIGKILL)
            serving.wait()
            killed += 1
            serving = serve(port)
            serving.wait_for("serving app soak")

    def resume(number: int) -> str:
        """A payload of one run; each run has some, from different clients at once."""
        run, payload = divmod(number, PAYLOADS)
        text = f"{run}.{payload}"
        clients[number % CLIENTS].call("POST", f"/v1/hooks/token-{run}/resume", text, key=text)
        return text

    def start(run: int) -> str:
        body = {"workflow": "collects", "input": [f"token-{run}", PAYLOADS]}
        found: str = clients[run % CLIENTS].call("POST", "/v1/runs", body, key=f"run-{run}")["run_id"]
        return found

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with ThreadPoolExecutor(CLIENTS) as pool:
            runs = list(pool.map(start, range(RUNS)))
            numbers = list(range(RUNS * PAYLOADS))
            chance.shuffle(numbers)
            acknowledged = set(pool.map(resume, numbers))
            killer.join()
            outcomes = list(pool.map(lambda run: _outcome(clients[0], run), runs))
    finally:
        over.set()
        killer.join()
    assert killed == KILLS
    assert sum(client.retries for client in clients) > 0
    consumed = [payload for outcome in outcomes for payload in outcome]
    assert len(consumed) == len(acknowledged) == RUNS * PAYLOADS
    assert set(consumed) == acknowledged
    for run, outcome in enumerate(outcomes):
        assert {payload.partition(".")[0] for payload in outcome} == {str(run)}


def _outcome(client: Client, run_id: str) -> list[str]:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = client.call("GET", f"/v1/runs/{run_id}/result?wait=10")
        if found["status"] not in ("pending", "running"):
            assert found["status"] == "completed", found
            result: list[str] = found["result"]
            return result
    raise AssertionError(f"run {run_id} does not end")
