"""An API that is really served, on loopback, over a store with time that the test controls."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import uvicorn

from everstep import Workflows
from everstep.core.history import Micros
from everstep.ports import Backend
from everstep.testing import WorkflowEnvironment
from everstep.testing.clock import VirtualClock
from everstep.web.api import create_api
from tests.web.shop import wf

TOKEN = "the-token-of-the-tests"
PATIENCE = 30.0
PROBLEM = "application/problem+json"
NOTHING: Any = object()
"""Stands for no body."""


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Site:
    """A server in a thread, and the means to work on what it is asked for."""

    def __init__(
        self, backend: Backend, clock: VirtualClock | None = None, *, app: Workflows = wf, **options: Any
    ) -> None:
        self.env = WorkflowEnvironment(app, backend=backend, clock=clock)
        self.env.connection.step_forward = None
        self.connection = self.env.connection
        options.setdefault("tokens", lambda: [TOKEN])
        options.setdefault("hold", 5)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.connection.public_url = self.env.engine.public_url = f"http://127.0.0.1:{self.port}"
        self._stopping = threading.Event()
        self.api = create_api(app, self.connection, stopping=self._stopping.is_set, **options)
        config = uvicorn.Config(self.api, log_config=None, access_log=False, lifespan="off", ws="none")
        logging.getLogger("uvicorn.access").disabled = True  # pytest listens to it although nothing else would
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def close(self) -> None:
        self._stopping.set()
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self._socket.close()
        self.env.close()

    # --- asking ----------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        path: str,
        body: Any = NOTHING,
        *,
        token: str | None = TOKEN,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send a request. An answer that says something is wrong must be a problem, without a stack trace."""
        answer = self.send(method, path, body, token=token, headers=headers)
        if answer.status >= 400 and answer.body:
            assert answer.headers["content-type"] == PROBLEM, answer.body
            assert answer.json["status"] == answer.status
            assert {"type", "title", "status", "detail"} <= answer.json.keys()
            assert b"Traceback" not in answer.body
        return answer

    def send(
        self,
        method: str,
        path: str,
        body: Any = NOTHING,
        *,
        token: str | None = TOKEN,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        sent = {} if token is None else {"Authorization": f"Bearer {token}"}
        data = None
        if isinstance(body, bytes):
            data = body
        elif body is not NOTHING:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, data, {**sent, **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def start(self, workflow: str, given: Any = None, **more: Any) -> str:
        """Start a run; its id."""
        body = {"workflow": workflow, **({} if given is None else {"input": given}), **more}
        answer = self.call("POST", "/v1/runs", body)
        assert answer.status == 201, answer.body
        found: str = answer.json["run_id"]
        return found

    def get(self, path: str, **options: Any) -> Any:
        """What is there, which must be all right."""
        answer = self.call("GET", path, **options)
        assert answer.status in (200, 202), (answer.status, answer.body)
        return answer.json

    def run(self, run_id: str) -> Any:
        return self.get(f"/v1/runs/{run_id}")

    def ask(self, run_id: str, what: str, body: Any = NOTHING) -> Any:
        """Ask something of a run, and let it take effect."""
        answer = self.call("POST", f"/v1/runs/{run_id}/{what}", body)
        assert answer.status == 202, answer.body
        self.work()
        return answer.json

    def webhook(self, run_id: str) -> str:
        """The path of a run's webhook."""
        url: str = self.get(f"/v1/runs/{run_id}/published")["values"]["url"]
        return url.removeprefix(self.connection.public_url)

    @staticmethod
    def hook_path(token: str, what: str = "") -> str:
        return "/v1/hooks/" + quote(token, safe="") + what

    # --- working ---------------------------------------------------------------------------------

    def work(self) -> None:
        """Handle all messages that are due now; time stands still."""
        while (due := self._due()) is not None and due <= self.env.clock.now():
            self.env.step()

    def _due(self) -> Micros | None:
        return self.connection.backend.source.next_due()

    @contextmanager
    def working(self) -> Iterator[None]:
        """A worker in a thread, as long as the block lasts."""
        over = threading.Event()
        failed: list[BaseException] = []

        def work() -> None:
            try:
                while not over.wait(0.01):
                    self.work()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(PATIENCE)
        assert not failed, failed
