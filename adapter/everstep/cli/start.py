"""``everstep start``: start a run and leave it to a worker, or to the functions on AWS."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import click

from everstep.cli.console import Console
from everstep.cli.exits import Exit, ExitCode
from everstep.cli.options import input_options, json_option
from everstep.cli.report import Advice
from everstep.cli.run import prepare
from everstep.cli.shapes import run_json
from everstep.cli.store import AwsStore, StoreOptions, choose_store, open_store, store_options
from everstep.cli.wait import wait_and_report


@click.command()
@click.argument("target")
@input_options
@store_options
@click.option("--wait", is_flag=True, help="Wait for the end of the run and print its result.")
@json_option
def start(
    target: str,
    input_text: str | None,
    attributes: Sequence[str],
    idempotency_key: str | None,
    store: StoreOptions,
    wait: bool,
    as_json: bool,
) -> None:
    """Start a run for a worker to take up, and print its id.

    TARGET is module:workflow, or path/to/app.py:workflow. With --stack it is the functions on AWS that take it up; the
    module is imported here to check the input.

    \b
      id=$(everstep start shop:create_site --input '{"user_id": "u1"}')
      everstep start shop:create_site --input '{"user_id": "u1"}' --stack shop --wait
    """
    console = Console(sys.stdout, sys.stderr)
    console.attach()
    code = ExitCode.DONE
    try:
        prepared = prepare(target, input_text, attributes, idempotency_key)
        chosen = choose_store(store)
        connection = open_store(chosen)
        try:
            if isinstance(chosen, AwsStore):
                prepared = prepared.without_app()
            record = prepared.start(connection)
            if not wait:
                console.data(json.dumps(run_json(record)) if as_json else record.run_id)
            else:
                style = console.style
                intro = f"run {style.paint(record.run_id, 'bold')} of {style.paint(record.workflow, 'bold')}"
                advice = Advice(again=store.again, app=target, local=not isinstance(chosen, AwsStore))
                code = wait_and_report(connection, console, record, intro=intro, as_json=as_json, advice=advice)
        finally:
            connection.close()
    finally:
        console.detach()
    raise Exit(code)
