"""``everstep start``: start a run and leave it to a worker."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import click

from everstep.cli.console import Console
from everstep.cli.options import db_options, input_options, json_option, open_store
from everstep.cli.run import prepare
from everstep.cli.shapes import run_json


@click.command()
@click.argument("target")
@input_options
@db_options
@json_option
def start(
    target: str,
    input_text: str | None,
    attributes: Sequence[str],
    idempotency_key: str | None,
    db: str | None,
    synchronous: str | None,
    as_json: bool,
) -> None:
    """Start a run for a worker to take up, and print its id.

    TARGET is module:workflow, or path/to/app.py:workflow.

    \b
      id=$(everstep start shop:create_site --input '{"user_id": "u1"}')
    """
    console = Console(sys.stdout, sys.stderr)
    console.attach()
    try:
        prepared = prepare(target, input_text, attributes, idempotency_key)
        connection = open_store(db, synchronous)
        try:
            record = prepared.start(connection)
        finally:
            connection.close()
        console.data(json.dumps(run_json(record)) if as_json else record.run_id)
    finally:
        console.detach()
