"""``everstep inspect``: look at runs, their steps and their history. Reads only."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import click

from everstep.cli.console import style_of, width_if_terminal, write_data
from everstep.cli.options import json_option, parse_attributes, parse_when
from everstep.cli.render import operations_table, run_lines, runs_table, turn_lines
from everstep.cli.report import Advice
from everstep.cli.runids import find_run
from everstep.cli.shapes import operation_json, run_json, turn_json
from everstep.cli.store import StoreOptions, choose_store, open_store, store_options
from everstep.cli.styles import Style
from everstep.core.history import Micros
from everstep.core.run import RunStatus
from everstep.core.timeline import OperationView, timeline
from everstep.errors import WorkflowRunNotFoundError
from everstep.ports import RunQuery, Snapshot


class _Ordered(click.Group):
    """Its commands in the order one needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["runs", "run", "steps", "events"]


@click.group(cls=_Ordered, no_args_is_help=False, invoke_without_command=True)
@click.pass_context
def inspect(ctx: click.Context) -> None:
    """Look at runs, their steps and their history.

    Works while runs are worked on. Ids may be shortened to what is unique.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@inspect.command()
@click.option("--workflow", metavar="NAME", help="Only runs of this workflow.")
@click.option("--status", type=click.Choice([str(each) for each in RunStatus]), help="Only runs in this status.")
@click.option("--since", metavar="WHEN", help="Created at or after: 1h, 2d, or 2025-01-31[T12:00[Z]].")
@click.option("--until", metavar="WHEN", help="Created before.")
@click.option("--attribute", "attributes", metavar="KEY=VALUE", multiple=True, help="Only runs with it. Repeatable.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many.")
@click.option("--cursor", help="Go on where the previous page ended.")
@store_options
@json_option
def runs(
    workflow: str | None,
    status: str | None,
    since: str | None,
    until: str | None,
    attributes: Sequence[str],
    limit: int,
    cursor: str | None,
    store: StoreOptions,
    as_json: bool,
) -> None:
    """List runs, newest first."""
    wanted = parse_attributes(attributes)
    with closing(open_store(choose_store(store), must_exist=True)) as connection:
        now = connection.clock.now()
        query = RunQuery(
            workflow=workflow,
            status=None if status is None else RunStatus(status),
            created_from=parse_when("--since", since, now),
            created_before=parse_when("--until", until, now),
            attributes=wanted,
            cursor=cursor,
            limit=limit,
        )
        page = connection.backend.inspector.list_runs(query)
    if as_json:
        _print_json({"runs": [run_json(run, payloads=False) for run in page.runs], "cursor": page.cursor})
        return
    if page.runs:
        _print_lines(runs_table(page.runs, now=now, style=_style(), width=width_if_terminal(sys.stdout)))
    else:
        print("no runs" + (" match" if query != RunQuery(limit=limit) else " yet"), file=sys.stderr)
    if page.cursor is not None:
        print(f"there are more: add --cursor {page.cursor}", file=sys.stderr)


@inspect.command()
@click.argument("run_id", metavar="ID")
@store_options
@json_option
def run(run_id: str, store: StoreOptions, as_json: bool) -> None:
    """Everything about one run."""
    now, snapshot, views = _load(store, run_id)
    if as_json:
        _print_json({**run_json(snapshot.run), "turns": len(snapshot.turns), "operations": len(views)})
        return
    width = width_if_terminal(sys.stdout)
    resume = Advice(again=store.again, app=None).resume(snapshot.run)
    turns = len(snapshot.turns)
    _print_lines(run_lines(snapshot.run, views, turns, resume=resume, now=now, style=_style(), width=width))


@inspect.command()
@click.argument("run_id", metavar="ID")
@store_options
@json_option
def steps(run_id: str, store: StoreOptions, as_json: bool) -> None:
    """The steps and timers of a run, with every attempt."""
    now, snapshot, views = _load(store, run_id)
    if as_json:
        _print_json(
            {
                "run_id": snapshot.run.run_id,
                "status": str(snapshot.run.shown_status),
                "operations": [operation_json(view) for view in views],
            }
        )
        return
    if not views:
        print("no steps yet" if not snapshot.run.closed else "the run had no steps", file=sys.stderr)
        return
    _print_lines(operations_table(views, now=now, style=_style(), width=width_if_terminal(sys.stdout)))


@inspect.command()
@click.argument("run_id", metavar="ID")
@store_options
@json_option
def events(run_id: str, store: StoreOptions, as_json: bool) -> None:
    """The history of a run, turn by turn.

    What arrived in each turn, and what the workflow asked for in answer.
    """
    _, snapshot, _ = _load(store, run_id)
    if as_json:
        _print_json({"run_id": snapshot.run.run_id, "turns": [turn_json(turn) for turn in snapshot.turns]})
        return
    if not snapshot.turns:
        print("no turns yet: no worker has taken up the run", file=sys.stderr)
        return
    _print_lines(turn_lines(snapshot.turns, style=_style(), width=width_if_terminal(sys.stdout)))


# --- reading ---------------------------------------------------------------------------------------


def _load(options: StoreOptions, text: str) -> tuple[Micros, Snapshot, Sequence[OperationView]]:
    """The time of reading, the run with its turns, and what became of its operations."""
    store = choose_store(options)
    with closing(open_store(store, must_exist=True)) as connection:
        now = connection.clock.now()
        found = find_run(connection, text, store.place)
        snapshot = connection.backend.runs.load(found.run_id)
        if snapshot is None:
            raise WorkflowRunNotFoundError(found.run_id)
        views = timeline(
            snapshot.turns,
            connection.backend.steps.failed_attempts(found.run_id),
            [entry.event for entry in snapshot.inbox],
            run_id=found.run_id,
            now=now,
            closed_at=snapshot.run.completed_at,
        )
        return now, snapshot, views


# --- printing --------------------------------------------------------------------------------------


def _style() -> Style:
    import os

    return style_of(sys.stdout, os.environ)


def _print_lines(lines: Sequence[str]) -> None:
    write_data(sys.stdout, "\n".join(lines))


def _print_json(value: Any) -> None:
    write_data(sys.stdout, json.dumps(value, indent=2 if sys.stdout.isatty() else None))
