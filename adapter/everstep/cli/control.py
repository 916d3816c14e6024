"""``everstep cancel``, ``terminate``, ``pause``, ``unpause``, ``wake-up`` and ``rerun``: what is asked of runs.

What is asked for is stored, and takes effect with the run's next turn, wherever its worker is.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime

import click

from everstep.cli.console import Console, write_data
from everstep.cli.exits import Exit, ExitCode
from everstep.cli.options import json_option, parse_attributes, parse_when
from everstep.cli.render import counted
from everstep.cli.report import Advice
from everstep.cli.runids import find_run
from everstep.cli.shapes import run_json
from everstep.cli.store import StoreOptions, choose_store, open_store, store_options
from everstep.core.durations import to_datetime
from everstep.core.history import Micros
from everstep.core.run import RunRecord, RunStatus
from everstep.errors import ConfigurationError
from everstep.runtime.connection import Connection

_reason = click.option("--reason", metavar="TEXT", help="Why, for those who look at the run.")


@click.command()
@click.argument("run_id", metavar="[ID]", required=False)
@click.option("--workflow", metavar="NAME", help="All runs of this workflow.")
@click.option("--status", type=click.Choice([str(each) for each in RunStatus]), help="All runs in this status.")
@click.option("--since", metavar="WHEN", help="Created at or after: 1h, 2d, or 2025-01-31[T12:00[Z]].")
@click.option("--until", metavar="WHEN", help="Created before.")
@click.option("--attribute", "attributes", metavar="KEY=VALUE", multiple=True, help="All runs with it. Repeatable.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True, help="Of several: at most.")
@_reason
@store_options
@json_option
def cancel(
    run_id: str | None,
    workflow: str | None,
    status: str | None,
    since: str | None,
    until: str | None,
    attributes: Sequence[str],
    limit: int,
    reason: str | None,
    store: StoreOptions,
    as_json: bool,
) -> None:
    """Ask a run to end, or all runs that fit every condition. Their bodies may clean up, with steps too.

    \b
      everstep cancel wrun_01M81EPQ5BXQE1SNKS666FDPR3 --reason "the order was withdrawn"
      everstep cancel --workflow trial --status running
    """
    conditions = (workflow, status, since, until, *attributes)
    if run_id is not None:
        if any(each is not None for each in conditions):
            raise ConfigurationError("give the id of a run, or conditions for several, not both")
        _ask(run_id, store, as_json, "is asked to end", lambda each, newest: each.cancel(newest, reason))
    if all(each is None for each in conditions):
        raise ConfigurationError("say which run, or which runs: --workflow, --status, --since, --until, --attribute")
    from everstep.client import cancel_runs

    with closing(open_store(choose_store(store), must_exist=True)) as connection:
        now = connection.clock.now()
        asked = asyncio.run(
            cancel_runs(
                workflow=workflow,
                status=status,
                attributes=parse_attributes(attributes),
                created_from=_moment("--since", since, now),
                created_before=_moment("--until", until, now),
                reason=reason,
                limit=limit,
            )
        )
    if as_json or asked:
        write_data(sys.stdout, json.dumps(asked) if as_json else "\n".join(asked))
    more = "; there may be more, repeat the command" if len(asked) == limit else ""
    Console(sys.stdout, sys.stderr).say(f"{counted(len(asked), 'run')} asked to end{more}")


@click.command()
@click.argument("run_id", metavar="ID")
@_reason
@store_options
@json_option
def terminate(run_id: str, reason: str | None, store: StoreOptions, as_json: bool) -> None:
    """End a run at once, without asking its body: the way out where that cannot go on. Its children end too."""
    _ask(run_id, store, as_json, "is ended", lambda each, newest: each.terminate(newest, reason))


@click.command()
@click.argument("run_id", metavar="ID")
@store_options
@json_option
def pause(run_id: str, store: StoreOptions, as_json: bool) -> None:
    """Deliver nothing to a run's body until it is unpaused. Steps that run end, and what arrives waits."""
    _ask(run_id, store, as_json, "is paused", lambda each, newest: each.pause(newest))


@click.command()
@click.argument("run_id", metavar="ID")
@store_options
@json_option
def unpause(run_id: str, store: StoreOptions, as_json: bool) -> None:
    """Deliver what has arrived since a run was paused, and go on."""
    _ask(run_id, store, as_json, "goes on", lambda each, newest: each.unpause(newest))


@click.command()
@click.argument("run_id", metavar="ID")
@store_options
@json_option
def wake_up(run_id: str, store: StoreOptions, as_json: bool) -> None:
    """End the sleeps that a run waits for, as if their time had come. Deadlines are left alone."""
    _ask(run_id, store, as_json, "is woken", lambda each, newest: each.wake_up(newest))


@click.command()
@click.argument("run_id", metavar="ID")
@click.option("--from-step", metavar="STEP", help="Keep what happened before it: its number, or its name.")
@store_options
@json_option
def rerun(run_id: str, from_step: str | None, store: StoreOptions, as_json: bool) -> None:
    """Start a new run with the input of another one, and print its id.

    With --from-step, of a run that has ended, the new one goes on from there. 'everstep inspect steps ID' lists the
    steps with their numbers.
    """
    step = int(from_step) if from_step is not None and from_step.isdecimal() else from_step
    chosen = choose_store(store)
    with closing(open_store(chosen, must_exist=True)) as connection:
        found = find_run(connection, run_id, chosen.place)
        record = connection.rerun(found.run_id, from_step=step)
    write_data(sys.stdout, json.dumps(run_json(record)) if as_json else record.run_id)


# --- asking ------------------------------------------------------------------------------------------


def _ask(
    run_id: str, store: StoreOptions, as_json: bool, what: str, ask: Callable[[Connection, str], RunRecord]
) -> None:
    """Ask the run, or the newest of those it went on as, and end the command."""
    console = Console(sys.stdout, sys.stderr)
    chosen = choose_store(store)
    with closing(open_store(chosen, must_exist=True)) as connection:
        newest = connection.get(find_run(connection, run_id, chosen.place).run_id)
        record = ask(connection, newest.run_id)
    name = console.style.paint(record.run_id, "bold")
    if record.closed:
        console.say(f"run {name} is {record.shown_status} already, and is left as it is")
    else:
        look = Advice(again=store.again, app=None).inspect_run(record)
        console.say(f"run {name} {what} with its next turn. To see how it stands:", f"  {look}")
    if as_json:
        console.data(json.dumps(run_json(record)))
    raise Exit(ExitCode.DONE)


def _moment(option: str, text: str | None, now: Micros) -> datetime | None:
    found = parse_when(option, text, now)
    return None if found is None else to_datetime(max(0, found))
