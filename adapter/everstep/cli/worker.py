"""``everstep worker``: work on all runs of an app until stopped."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from typing import Any, assert_never

import click

from everstep.cli.board import Board, plain_line
from everstep.cli.console import Console
from everstep.cli.exits import Exit, ExitCode
from everstep.cli.options import json_option
from everstep.cli.render import counted, error_text, took_text
from everstep.cli.shapes import error_json
from everstep.cli.signals import staged
from everstep.cli.store import StoreOptions, choose_store, local_store_options, open_store, refuse_aws
from everstep.cli.targets import load_app
from everstep.cli.text import iso_text, moment_text, one_line
from everstep.core.run import RunStatus
from everstep.runtime.connection import Connection
from everstep.runtime.progress import (
    AttemptFailed,
    AttemptStarted,
    AttemptSucceeded,
    Progress,
    RunClosed,
    RunParked,
    TimerStarted,
)
from everstep.runtime.worker import Worker


@click.command()
@click.option("--app", required=True, metavar="APP", help="Module or file of the app; with :NAME if it has several.")
@local_store_options
@click.option(
    "--concurrency", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Steps that run at once."
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1000),
    default=16,
    show_default=True,
    help="Of these, 'def' steps, which take a thread.",
)
@click.option(
    "--verify/--no-verify", default=False, help="Replay runs after every turn, to find what would not replay."
)
@click.option("--verbose", "-v", is_flag=True, help="Say when each step starts and ends.")
@json_option
def worker(
    app: str,
    store: StoreOptions,
    concurrency: int,
    threads: int,
    verify: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """Work on all runs until stopped.

    Several workers may share one database. The first Ctrl-C or SIGTERM lets running steps finish, the second stops at
    once. Either way, and after a kill too, no run is lost: the next worker goes on with all of them.
    """
    refuse_aws(store, "there is no worker to start; 'everstep deploy-check' says whether they work")
    console = Console(sys.stdout, sys.stderr, keep_stdout=not as_json)
    console.attach()
    try:
        workflows, warnings = load_app(app)
        chosen = choose_store(store)
        connection = open_store(chosen)
        try:
            log = WorkerLog(
                console, connection, {s.name: s.max_retries + 1 for s in workflows.steps.values()}, verbose, as_json
            )
            engine = connection.engine(workflows, verify=verify, observe=log.tell)
            serving = Worker(engine, concurrency=concurrency, threads=threads, on_closed=connection.closed)
            show_warnings(log)
            file = chosen.place
            log.say(
                "started",
                f"worker {os.getpid()}: app {app} ({counted(len(workflows.workflows), 'workflow')}, "
                f"{counted(len(workflows.steps), 'step')}, build {workflows.build}), db {file}",
                pid=os.getpid(),
                app=app,
                workflows=sorted(workflows.workflows),
                steps=sorted(workflows.steps),
                build=workflows.build,
                db=file,
                concurrency=concurrency,
                threads=threads,
            )
            for each in warnings:
                log.say("warning", f"warning: {one_line(each)}", message=each)
            code = serve(connection, serving, log)
        finally:
            connection.close()
    finally:
        console.detach()
    raise Exit(code)


def serve(connection: Connection, serving: Worker, log: WorkerLog) -> ExitCode:
    """Work until signals stop it: the first lets running steps finish, the second does not."""

    def finish() -> None:
        running = len(log.board.running)
        if running:
            text = f"stopping: finishing {counted(running, 'step')}; once more (Ctrl-C or SIGTERM) to stop at once"
        else:
            text = "stopping: no step is running"
        log.say("stopping", text, running=running)
        serving.stop()

    def insist() -> None:
        running = len(log.board.running)
        log.say("stopping_now", f"stopping at once; {counted(running, 'step')} will run again", running=running)
        serving.stop_now()

    async def work() -> None:
        remove = connection.on_sent(serving.wake)
        try:
            await serving.serve()
        finally:
            remove()

    with staged([finish, insist]) as signals:
        asyncio.run(work())
    log.say("stopped", "stopped")
    return ExitCode.DONE if signals.count < 2 else signals.exit_code


class WorkerLog:
    """What a worker says: lines for people on stderr, or JSON lines on stdout."""

    def __init__(
        self, console: Console, connection: Connection, attempts: dict[str, int], verbose: bool, as_json: bool
    ) -> None:
        self.board = Board(attempts)
        self._console = console
        self._connection = connection
        self._verbose = verbose
        self._as_json = as_json
        self._parked: set[str] = set()

    def say(self, event: str, text: str, **fields: Any) -> None:
        now = self._connection.clock.now()
        if self._as_json:
            self._console.data(json.dumps({"event": event, "at": iso_text(now), **fields}))
        else:
            self._console.say(f"{self._console.style.paint(moment_text(now), 'dim')} {text}")

    def tell(self, progress: Progress) -> None:
        ended = self.board.tell(progress)
        if not isinstance(progress, RunParked):
            self._parked.discard(progress.run_id)
        match progress:
            case RunClosed(run_id=run_id, status=status, continued_to=continued_to):
                self._closed(run_id, status, continued_to)
            case RunParked(run_id=run_id) if run_id in self._parked:
                pass  # once more for each step that this app does not have
            case RunParked(run_id=run_id, reason=reason):
                self._parked.add(run_id)
                self.say(
                    "run_parked",
                    f"{run_id} {self._colored('parked')}: {one_line(reason)}",
                    run_id=run_id,
                    reason=reason,
                )
            case AttemptFailed(run_id=run_id, op=op, step=step, attempt=attempt, error=error, retry_at=retry_at):
                if retry_at is None and not self._verbose:
                    return  # the run may go on without it, and if not, its own line tells
                fields: dict[str, Any] = {"run_id": run_id, "op": op, "step": step, "attempt": attempt}
                fields |= {"error": error_json(error), "retry_at": None if retry_at is None else iso_text(retry_at)}
                self._line("step_failed" if retry_at is None else "step_retry", progress, ended, fields)
            case AttemptStarted(run_id=run_id, op=op, step=step, attempt=attempt):
                if self._verbose:
                    self._line(
                        "step_started", progress, ended, {"run_id": run_id, "op": op, "step": step, "attempt": attempt}
                    )
            case AttemptSucceeded(run_id=run_id, op=op, step=step, attempt=attempt):
                if self._verbose:
                    self._line(
                        "step_completed",
                        progress,
                        ended,
                        {"run_id": run_id, "op": op, "step": step, "attempt": attempt},
                    )
            case TimerStarted(run_id=run_id, op=op, due=due):
                if self._verbose:
                    self._line("timer_set", progress, ended, {"run_id": run_id, "op": op, "due": iso_text(due)})
            case _:
                assert_never(progress)

    def _line(self, event: str, progress: Progress, ended: Any, fields: dict[str, Any]) -> None:
        text = plain_line(progress, ended, self.board, now=self._connection.clock.now())
        self.say(event, f"{progress.run_id} {text}", **fields)

    def _closed(self, run_id: str, status: RunStatus, continued_to: str | None) -> None:
        run = self._connection.backend.inspector.get_run(run_id)
        now = self._connection.clock.now()
        workflow = "" if run is None else f" {one_line(run.workflow)}"
        took = "" if run is None else f" in {took_text(run, now)}"
        tail = f": {error_text(run.error)}" if run is not None and run.error is not None else ""
        if continued_to is not None:
            tail = f" as {continued_to}"
        self.say(
            "run_closed",
            f"{run_id}{workflow} {self._colored(str(status))}{took}{tail}",
            run_id=run_id,
            workflow=None if run is None else run.workflow,
            status=str(status),
            continued_to=continued_to,
            error=None if run is None else error_json(run.error),
        )

    def _colored(self, status: str) -> str:
        return self._console.style.status(status)


class _Warnings(logging.Handler):
    """The engine's warnings as lines of the worker's."""

    def __init__(self, log: WorkerLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        self._log.say("warning", f"warning: {one_line(text)}", message=text)


def show_warnings(log: WorkerLog) -> None:
    """Show what the engine warns of, unless the app decides where its log goes."""
    logger = logging.getLogger("everstep")
    if not logger.handlers and not logging.getLogger().handlers:  # else the app decides where logs go
        logger.addHandler(_Warnings(log))
