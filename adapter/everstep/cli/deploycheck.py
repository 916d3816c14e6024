"""``everstep deploy-check``: is all there that a deployment needs, and does a run go through it?"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any, Final

import click

from everstep.cli.checks import Check, Mark, checks
from everstep.cli.console import Console, style_of, write_data
from everstep.cli.exits import Exit, ExitCode
from everstep.cli.options import json_option
from everstep.cli.render import error_text
from everstep.cli.store import (
    AwsStore,
    StoreOptions,
    choose_store,
    named_stack,
    open_store,
    stack_option,
)
from everstep.cli.styles import Style
from everstep.cli.text import duration_text, pad
from everstep.core.run import RunRecord, RunStatus
from everstep.errors import ConfigurationError, EverstepError

ATTRIBUTE: Final = {"deploy-check": "true"}
"""Of the runs that the round trip starts, to find them by."""
_NAME_WIDTH: Final = 14
_MARKS: Final = {
    Mark.OK: ("✓", "+", "green"),
    Mark.WARNING: ("!", "!", "yellow"),
    Mark.FAILED: ("✗", "x", "red"),
    Mark.SKIPPED: ("–", "-", "dim"),
}


@click.command("deploy-check")
@stack_option
@click.option("--run", "target", metavar="TARGET", help="Also start this workflow and wait for its result.")
@click.option("--input", "-i", "input_text", metavar="JSON", help="Its arguments, as for 'everstep start'.")
@click.option(
    "--timeout",
    type=click.FloatRange(1, 3600),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the run may take.",
)
@json_option
def deploy_check(stack: str | None, target: str | None, input_text: str | None, timeout: float, as_json: bool) -> None:
    """Check what is deployed on AWS.

    Looks at the stack and all it consists of, and lets the worker start. Reads only, but for --run: that makes a round
    trip, with a run (marked by the attribute deploy-check=true) of one of your workflows, module:workflow.

    \b
      everstep deploy-check --stack shop --run app:hello --input '["Ada"]'
    """
    from everstep.cli.cloud import Cloud

    if input_text is not None and target is None:
        raise ConfigurationError("--input is for the workflow of --run, and there is none")
    console = Console(sys.stdout, sys.stderr)
    console.attach()
    try:
        trip = None if target is None else _RoundTrip(target, input_text, timeout)  # bad input shows before anything
        name = named_stack(stack)
        found: list[Check] = []
        style = style_of(console.out, os.environ)
        for check in _all(Cloud(), name, trip):
            found.append(check)
            if not as_json:
                write_data(console.out, "\n".join(_lines(check, style)))
        failed = sum(each.mark is Mark.FAILED for each in found)
        if as_json:
            write_data(console.out, json.dumps(_json(name, found)))
        elif failed:
            console.say(f"{failed} of {len(found)} checks failed")
    finally:
        console.detach()
    raise Exit(ExitCode.FAILED if failed else ExitCode.DONE)


def _all(cloud: Any, name: str, trip: _RoundTrip | None) -> Iterator[Check]:
    ready = True
    for check in checks(cloud, name):
        ready = ready and not (check.mark is Mark.FAILED and check.name in ("credentials", "stack", "outputs"))
        yield check
    if trip is None:
        text, advice = "not tried", "name one of your workflows: --run app:workflow --input JSON"
        yield Check(name="round trip", mark=Mark.SKIPPED, text=text, advice=advice)
    elif not ready:
        yield Check(name="round trip", mark=Mark.SKIPPED, text="not tried: the above comes first")
    else:
        yield trip.make(name)


class _RoundTrip:
    """A run of a workflow of the user's: from here by the queue to the worker, and back by the table."""

    def __init__(self, target: str, input_text: str | None, timeout: float) -> None:
        from everstep.cli.run import prepare

        marks = [f"{key}={value}" for key, value in ATTRIBUTE.items()]
        self._prepared = prepare(target, input_text, marks, None).without_app()
        self._timeout = timeout

    def make(self, stack: str) -> Check:
        from everstep.cli.wait import wait_until_at_rest

        try:
            store = choose_store(StoreOptions(stack=stack))
            if not isinstance(store, AwsStore):
                raise AssertionError(store)
            connection = open_store(store)
            try:
                run = self._prepared.start(connection)
                run = wait_until_at_rest(connection, run.run_id, seconds=self._timeout)
            finally:
                connection.close()
        except EverstepError as error:
            return Check(name="round trip", mark=Mark.FAILED, text=" ".join(str(error).split()))
        return self._judge(run, stack)

    def _judge(self, run: RunRecord, stack: str) -> Check:
        look = f"everstep inspect steps {run.run_id} --stack {stack}"
        text = f"{run.workflow} {run.run_id} {run.shown_status}"
        match run.shown_status:
            case RunStatus.COMPLETED:
                took = (run.completed_at or run.created_at) - run.created_at
                return Check(name="round trip", mark=Mark.OK, text=f"{text} in {duration_text(took)}")
            case RunStatus.PARKED:
                why = "" if run.problem is None else " ".join(run.problem.message.split())
                return Check(name="round trip", mark=Mark.FAILED, text=f"{text}: {why}", advice=look)
            case RunStatus.FAILED | RunStatus.CANCELLED:
                why = "" if run.error is None else f": {error_text(run.error)}"
                return Check(name="round trip", mark=Mark.FAILED, text=f"{text}{why}", advice=look)
            case RunStatus.PENDING:
                text += f" after {self._timeout:g} s: no worker took it up"
                return Check(
                    name="round trip", mark=Mark.FAILED, text=text, advice=f"the worker's log says why; {look}"
                )
            case _:
                text += f" after {self._timeout:g} s"
                advice = f"if it needs longer, give it more with --timeout; {look}"
                return Check(name="round trip", mark=Mark.FAILED, text=text, advice=advice)


# --- showing ---------------------------------------------------------------------------------------


def _lines(check: Check, style: Style) -> list[str]:
    fancy, plain, color = _MARKS[check.mark]
    mark = style.paint(fancy if style.symbols else plain, color)
    lines = [f"{mark} {pad(check.name, _NAME_WIDTH)}  {check.text}"]
    if check.advice:
        lines.append(f"  {'':{_NAME_WIDTH}}  {style.symbol('arrow')} {check.advice}")
    return lines


def _json(stack: str, found: list[Check]) -> dict[str, Any]:
    return {
        "stack": stack,
        "ok": not any(each.mark is Mark.FAILED for each in found),
        "checks": [
            {"name": each.name, "status": str(each.mark), "text": each.text, "advice": each.advice or None}
            for each in found
        ],
    }
