"""``everstep hooks`` and ``everstep resume-hook``: what runs wait for others to send, and sending it."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing

import click

from everstep.cli.console import Console, style_of, width_if_terminal, write_data
from everstep.cli.options import json_option, parse_json
from everstep.cli.render import operations_table
from everstep.cli.runids import find_run
from everstep.cli.shapes import operation_json
from everstep.cli.store import StoreOptions, choose_store, open_store, store_options
from everstep.cli.targets import load_app
from everstep.core.timeline import HookView, timeline
from everstep.errors import WorkflowRunNotFoundError
from everstep.hooks import encode_payload


@click.command()
@click.argument("run_id", metavar="ID")
@store_options
@json_option
def hooks(run_id: str, store: StoreOptions, as_json: bool) -> None:
    """The hooks and webhooks of a run, with their tokens. Whoever knows a token can use it."""
    chosen = choose_store(store)
    with closing(open_store(chosen, must_exist=True)) as connection:
        now = connection.clock.now()
        found = find_run(connection, run_id, chosen.place)
        snapshot = connection.backend.runs.load(found.run_id)
        if snapshot is None:
            raise WorkflowRunNotFoundError(found.run_id)
        events = [entry.event for entry in snapshot.inbox]
        views = timeline(snapshot.turns, (), events, run_id=found.run_id, now=now, closed_at=snapshot.run.completed_at)
    opened = [view for view in views if isinstance(view, HookView)]
    if as_json:
        shown = {"run_id": found.run_id, "hooks": [operation_json(view) for view in opened]}
        write_data(sys.stdout, json.dumps(shown, indent=2 if sys.stdout.isatty() else None))
    elif opened:
        style, width = style_of(sys.stdout, os.environ), width_if_terminal(sys.stdout)
        write_data(sys.stdout, "\n".join(operations_table(opened, now=now, style=style, width=width)))
    else:
        Console(sys.stdout, sys.stderr).say("the run has opened no hook" + ("" if snapshot.run.closed else " yet"))


@click.command()
@click.argument("token")
@click.argument("payload", metavar="JSON", default="null")
@click.option("--resume-id", metavar="ID", help="Of several payloads with the same one the run sees the first.")
@click.option("--app", metavar="APP", help="Module or file with the payload's class, to check the payload against.")
@store_options
@json_option
def resume_hook(
    token: str, payload: str, resume_id: str | None, app: str | None, store: StoreOptions, as_json: bool
) -> None:
    """Send a payload to the run that waits under a token. It is stored when this ends.

    JSON may be @FILE, which reads a file, or -, which reads stdin. Without it, null is sent.

    \b
      everstep resume-hook order-17 '{"approved": true}'
    """
    _, value = parse_json("JSON", payload)
    if app is not None:
        load_app(app)
    console = Console(sys.stdout, sys.stderr)
    with closing(open_store(choose_store(store), must_exist=True)) as connection:
        data = encode_payload(connection.find_hook(token).kind, value)
        claim = connection.resume_hook(token, data, resume_id=resume_id)
    console.say(f"sent to run {console.style.paint(claim.run_id, 'bold')} of {claim.workflow}")
    if as_json:
        console.data(json.dumps({"run_id": claim.run_id, "workflow": claim.workflow, "payload": claim.kind or None}))
