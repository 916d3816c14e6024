"""``everstep run`` and ``everstep resume``: work on one run in this process, to its end."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import click

from everstep.app import Workflow, Workflows
from everstep.cli.board import Board, count_before
from everstep.cli.console import Console
from everstep.cli.exits import Exit, ExitCode
from everstep.cli.options import (
    encode_input,
    input_options,
    json_option,
    parse_attributes,
    parse_input,
)
from everstep.cli.render import counted
from everstep.cli.report import Advice, report
from everstep.cli.runids import find_run
from everstep.cli.shapes import run_json
from everstep.cli.signals import staged
from everstep.cli.store import (
    AwsStore,
    StoreOptions,
    choose_store,
    local_store_options,
    open_store,
    refuse_aws,
    store_options,
)
from everstep.cli.targets import APP_ATTRIBUTE, load_app, load_target
from everstep.cli.text import moment_and_age
from everstep.cli.wait import wait_and_report
from everstep.cli.watch import warn, watch
from everstep.client import Run, work_until_closed
from everstep.core.run import RunRecord
from everstep.core.timeline import OperationView, timeline
from everstep.errors import ConfigurationError, WorkflowRunError
from everstep.runtime.connection import Connection, at_rest

PATIENCE_SECONDS: Final = 1.0
"""How long a stop may take before it is said how to insist: steps may clean up, a body may never yield."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What there is to do, and how to show it."""

    connection: Connection
    console: Console
    app: Workflows
    run: RunRecord
    verify: bool
    quiet: bool
    as_json: bool
    advice: Advice


@click.command()
@click.argument("target")
@input_options
@local_store_options
@click.option(
    "--verify/--no-verify", default=False, help="Replay the run after every turn, to find what would not replay."
)
@click.option("--quiet", "-q", is_flag=True, help="Do not show the steps.")
@json_option
def run(
    target: str,
    input_text: str | None,
    attributes: Sequence[str],
    idempotency_key: str | None,
    store: StoreOptions,
    verify: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run a workflow to its end, here, and print its result.

    TARGET is module:workflow, or path/to/app.py:workflow. The result goes to stdout as JSON; everything else, what
    steps print too, goes to stderr.

    \b
      everstep run shop:create_site --input '{"user_id": "u1"}'
      everstep run shop.py:create_site --input @order.json | jq .url
    """
    refuse_aws(store, "start the run with 'everstep start', and see its result with --wait")
    console = Console(sys.stdout, sys.stderr)
    console.attach()
    try:
        prepared = prepare(target, input_text, attributes, idempotency_key)
        connection = open_store(choose_store(store))
        try:
            record = prepared.start(connection)
            warn(console, prepared.warnings)
            work = _Work(
                connection=connection,
                console=console,
                app=prepared.workflow.app,
                run=record,
                verify=verify,
                quiet=quiet,
                as_json=as_json,
                advice=Advice(again=store.again, app=target),
            )
            code = _finish(work)
        finally:
            connection.close()
    finally:
        console.detach()
    raise Exit(code)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a start needs: the workflow with its start options, its encoded arguments, all attributes, ours included."""

    workflow: Workflow[Any, Any]
    data: bytes
    attributes: Mapping[str, str]
    warnings: Sequence[str]

    def without_app(self) -> Prepared:
        """For a store whose runs this machine does not go on with: where their app is here is of no use there."""
        return replace(self, attributes={k: v for k, v in self.attributes.items() if k != APP_ATTRIBUTE})

    def start(self, connection: Connection) -> RunRecord:
        options = self.workflow.options
        return connection.start(
            self.workflow.name,
            self.data,
            attributes=self.attributes,
            idempotency_key=options.idempotency_key,
            start_at=options.start_at,
        )


def prepare(target: str, input_text: str | None, attributes: Sequence[str], idempotency_key: str | None) -> Prepared:
    """Import the workflow and check everything that a start needs, before a database is opened."""
    mine = parse_attributes(attributes)
    value = parse_input(input_text)
    found = load_target(target)
    workflow = found.workflow
    options = workflow.options
    try:
        chosen = workflow.with_options(
            idempotency_key=options.idempotency_key if idempotency_key is None else idempotency_key,
            attributes={**options.attributes, **mine},
        )
    except ValueError as error:
        raise ConfigurationError(f"--idempotency-key: {error}") from error
    chosen.options = replace(chosen.options, start_at=options.start_at)
    return Prepared(
        workflow=chosen,
        data=encode_input(workflow, value),
        attributes={**chosen.options.attributes, **found.attributes},
        warnings=found.warnings,
    )


@click.command()
@click.argument("run_id", metavar="ID")
@click.option("--app", metavar="APP", help="Module or file of the app. [default: what the run was started with]")
@store_options
@click.option(
    "--verify/--no-verify", default=False, help="Replay the run after every turn, to find what would not replay."
)
@click.option("--quiet", "-q", is_flag=True, help="Do not show the steps.")
@click.option("--wait", is_flag=True, help="On AWS: wait for the end of the run and print its result.")
@json_option
def resume(
    run_id: str, app: str | None, store: StoreOptions, verify: bool, quiet: bool, wait: bool, as_json: bool
) -> None:
    """Go on with a run that was stopped or parked, here, to its end.

    A parked run is tried again. Of a run that has ended already the result is printed at once. On AWS it is the
    functions that go on with it: this sends them a message.
    """
    console = Console(sys.stdout, sys.stderr)
    console.attach()
    try:
        if app is not None or verify:
            refuse_aws(store, f"{'--app' if app is not None else '--verify'} is for runs that go on here")
        chosen = choose_store(store)
        on_aws = isinstance(chosen, AwsStore)
        connection = open_store(chosen, must_exist=True)
        try:
            record = connection.get(find_run(connection, run_id, chosen.place).run_id)
            advice = Advice(again=store.again, app=app, local=not on_aws)
            if record.closed and at_rest(record):
                now = connection.clock.now()
                code = report(console, record, now=now, as_json=as_json, advice=advice, before=True)
            elif on_aws:
                code = _send_on(connection, console, record, wait=wait, as_json=as_json, advice=advice)
            else:
                workflows = _app_of(record, app, console)
                connection.resume(record.run_id)
                work = _Work(
                    connection=connection,
                    console=console,
                    app=workflows,
                    run=replace(record, problem=None),
                    verify=verify,
                    quiet=quiet,
                    as_json=as_json,
                    advice=advice,
                )
                code = _finish(work)
        finally:
            connection.close()
    finally:
        console.detach()
    raise Exit(code)


def _send_on(
    connection: Connection, console: Console, record: RunRecord, *, wait: bool, as_json: bool, advice: Advice
) -> ExitCode:
    """Have the functions on AWS try the run again."""
    connection.resume(record.run_id)
    was = "was parked and is tried again" if record.problem is not None else "is woken"
    run = console.style.paint(record.run_id, "bold")
    intro = f"run {run} {was}: the functions on AWS go on with it, not this process"
    if wait:
        return wait_and_report(connection, console, record, intro=intro, as_json=as_json, advice=advice)
    console.say(intro)
    if as_json:
        console.data(json.dumps(run_json(replace(record, problem=None))))
    console.say("To see how it stands:", f"  {advice.inspect_run(record)}")
    return ExitCode.DONE


def _app_of(record: RunRecord, app: str | None, console: Console) -> Workflows:
    target = app or record.attributes.get(APP_ATTRIBUTE)
    if target is None:
        raise ConfigurationError(
            f"run {record.run_id} does not say which app it belongs to (it was not started by this command): "
            f"give it with --app module, or --app path/to/app.py"
        )
    try:
        workflows, warnings = load_app(target)
    except ConfigurationError as error:
        if app is not None:
            raise
        raise ConfigurationError(
            f"{error} (run {record.run_id} was started with app {target!r}; give another with --app)"
        ) from error
    if record.workflow not in workflows.workflows:
        known = ", ".join(workflows.workflows) or "none"
        raise ConfigurationError(
            f"app {target!r} has no workflow {record.workflow!r}, which run {record.run_id} needs; it has {known}. "
            f"Restore it, or give the app that has it with --app"
        )
    warn(console, [each for each in warnings if f"workflow {record.workflow!r} " in each])
    return workflows


# --- working ---------------------------------------------------------------------------------------


def _finish(work: _Work) -> ExitCode:
    """Work until the run is at rest or somebody stops us; say how it went."""
    connection, console, record = work.connection, work.console, work.run
    style = console.style
    before = count_before(_look(connection, record.run_id)[1]) if record.started_at is not None else 0
    if not work.quiet and not at_rest(record):
        intro = f"run {style.paint(record.run_id, 'bold')} of {style.paint(record.workflow, 'bold')}"
        if record.started_at is not None:
            intro += f" goes on: {counted(before, 'step')} done before"
        elif record.start_at > connection.clock.now():
            intro += f" starts at {moment_and_age(record.start_at, connection.clock.now())}"
        console.say(intro)
    attempts = {step.name: step.max_retries + 1 for step in work.app.steps.values()}
    board = Board(attempts, completed=before)
    shown = watch(
        console, record.workflow, board, connection.clock, lambda: _look(connection, record.run_id), quiet=work.quiet
    )
    handle: Run[bytes] = Run(record.run_id, connection=connection, decode=bytes)
    stopping: list[asyncio.Task[Any]] = []

    def insist() -> None:
        console.say("still stopping; once more (Ctrl-C or SIGTERM) to end at once")

    patience = threading.Timer(PATIENCE_SECONDS, insist)
    patience.daemon = True

    def stop() -> None:
        patience.start()
        for task in stopping:
            try:
                task.get_loop().call_soon_threadsafe(task.cancel)
            except RuntimeError:  # its loop is closed: it has just ended
                return

    def say_stopped() -> None:
        console.send_lines(None)  # at the second signal the display may still be there
        console.say("stopped; the run is kept. To go on with it:", f"  {work.advice.resume(record)}")

    with staged([stop], last=say_stopped) as signals:

        async def work_on() -> None:
            task = asyncio.current_task()
            if task is not None:
                stopping.append(task)
            if signals.number is None:
                await work_until_closed(work.app, handle, observe=shown.tell, verify=work.verify)

        try:
            with shown:
                asyncio.run(work_on())
        except asyncio.CancelledError:
            if signals.number is None:
                raise
        except WorkflowRunError:
            pass  # what became of the run is in its record
        finally:
            patience.cancel()
        latest = connection.get(record.run_id)
        if signals.number is not None and not latest.closed:
            say_stopped()
            return signals.exit_code
        return report(
            console,
            latest,
            now=connection.clock.now(),
            as_json=work.as_json,
            advice=work.advice,
            quiet=work.quiet,
        )


def _look(connection: Connection, run_id: str) -> tuple[str, Sequence[OperationView]]:
    run = connection.get(run_id)
    snapshot = connection.backend.runs.load(run.run_id)
    if snapshot is None:
        return run.run_id, ()
    failed = connection.backend.steps.failed_attempts(run.run_id)
    arrived = [entry.event for entry in snapshot.inbox]
    return run.run_id, timeline(snapshot.turns, failed, arrived, run_id=run.run_id, now=connection.clock.now())
