"""The process that ``everstep dev`` serves with: the API in a thread, the worker in the main one."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from everstep.app import Workflows
from everstep.cli.console import Console
from everstep.cli.exits import ExitCode
from everstep.cli.render import counted
from everstep.cli.store import StoreOptions, choose_store, open_store
from everstep.cli.targets import load_app
from everstep.cli.text import one_line
from everstep.cli.worker import WorkerLog, serve, show_warnings
from everstep.errors import StoreError
from everstep.runtime.connection import Connection
from everstep.runtime.worker import Worker
from everstep.settings import read_settings

TOKEN: Final = "EVERSTEP_DEV_TOKEN"
GRACE_SECONDS: Final = 2
"""How long answers that are under way may take when the server stops."""
MOST_BYTES: Final = 64 * 1024 * 1024
"""Of a body, and of an answer. There is no platform here that allows less than Everstep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DevServer:
    """What to serve, and how."""

    app: str
    store: StoreOptions
    verify: bool
    verbose: bool
    console: Console

    def run(self, server: socket.socket) -> ExitCode:
        """Serve until stopped by a signal."""
        self.console.attach()
        try:
            app, warnings = load_app(self.app)
            chosen = choose_store(self.store)
            with closing(open_store(chosen)) as connection:
                attempts = {step.name: step.max_retries + 1 for step in app.steps.values()}
                log = WorkerLog(self.console, connection, attempts, self.verbose, as_json=False)
                show_warnings(log)
                engine = connection.engine(app, verify=self.verify, observe=log.tell)
                worker = Worker(engine, on_closed=connection.closed)
                log.say(
                    "started",
                    f"serving app {self.app} ({counted(len(app.workflows), 'workflow')}, "
                    f"{counted(len(app.steps), 'step')}, build {app.build}), db {chosen.place}",
                )
                for each in warnings:
                    log.say("warning", f"warning: {one_line(each)}")
                stopping = threading.Event()
                with _answering(_api(app, connection, stopping), server, stopping, worker, log):
                    return serve(connection, worker, log)
        finally:
            self.console.detach()


def _api(app: Workflows, connection: Connection, stopping: threading.Event) -> Any:
    from everstep.web.api import create_api

    settings = read_settings({**os.environ, "EVERSTEP_BACKEND": "sqlite"})
    token = os.environ[TOKEN]
    return create_api(
        app,
        connection,
        tokens=lambda: [token],
        max_body=MOST_BYTES,
        max_answer=MOST_BYTES,
        open_hooks=settings.api_open_hooks,
        origins=settings.api_origins,
        live=True,
        stopping=stopping.is_set,
    )


@contextmanager
def _answering(
    api: Any, server: socket.socket, stopping: threading.Event, worker: Worker, log: WorkerLog
) -> Iterator[None]:
    """Answer requests in a thread of their own, on a loop of their own: a step that blocks does not keep them waiting.

    When that ends by itself, so does the worker.
    """
    import uvicorn

    config = uvicorn.Config(
        api,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    logging.getLogger("uvicorn.access").disabled = True  # whatever the app sets up: it shows the tokens in paths
    serving = uvicorn.Server(config)
    failed: list[BaseException] = []

    def answer() -> None:
        try:
            asyncio.run(serving.serve(sockets=[server]))
        except BaseException as error:
            failed.append(error)
        worker.stop_now()

    requests = _Requests(log)
    logger = logging.getLogger("everstep.web")
    logger.addHandler(requests)
    logger.setLevel(logging.INFO)
    thread = threading.Thread(target=answer, name="everstep-api", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        serving.should_exit = True
        thread.join(2 * GRACE_SECONDS)
        logger.removeHandler(requests)
    if failed:
        raise StoreError(f"the API's server ended: {failed[0]}") from failed[0]


class _Requests(logging.Handler):
    """A line for each request."""

    def __init__(self, log: WorkerLog) -> None:
        super().__init__(logging.INFO)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.INFO:  # the rest is shown as warnings are
            self._log.say("request", record.getMessage())
