"""``everstep cost``: measure what a run of a workflow takes on AWS, and what that costs by list price."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from everstep.cli.console import Console
from everstep.cli.exits import Exit, ExitCode
from everstep.cli.options import json_option
from everstep.cli.render import counted, error_text
from everstep.cli.run import prepare
from everstep.cli.shapes import error_json
from everstep.cli.styles import Style
from everstep.cli.text import table
from everstep.cli.watch import warn
from everstep.core.run import RunStatus
from everstep.errors import ConfigurationError

if TYPE_CHECKING:
    from everstep.costs.trial import Measured

MILLION: Final = 1_000_000

_WORDS: Final[Mapping[str, str]] = {
    "dynamodb.write": "DynamoDB write request units",
    "dynamodb.read": "DynamoDB read request units",
    "sqs.request": "SQS requests",
    "lambda.request": "Lambda invocations",
    "lambda.arm64": "Lambda GB-seconds",
    "scheduler.invocation": "EventBridge schedules",
    "s3.put": "S3 PUT requests",
    "s3.get": "S3 GET requests",
}
_ALWAYS: Final = frozenset(
    {"dynamodb.write", "dynamodb.read", "sqs.request", "lambda.request", "lambda.arm64", "scheduler.invocation"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Assumed:
    """What cannot be measured here."""

    memory_mb: int
    overhead_ms: float
    cold: bool


@click.command()
@click.argument("target")
@click.option(
    "--input",
    "-i",
    "input_text",
    metavar="JSON",
    help="Arguments: an object (by name) or an array (by position). @FILE reads a file, - reads stdin.",
)
@click.option("--memory", type=click.IntRange(128, 10240), default=512, show_default=True, help="Of the worker, in MB.")
@click.option(
    "--overhead",
    type=click.FloatRange(0, 60_000),
    default=25.0,
    show_default=True,
    help="Billed milliseconds of an invocation beside your steps: an assumption.",
)
@click.option("--cold", is_flag=True, help="As if no process ever saw a run twice: with the reads that takes.")
@json_option
def cost(target: str, input_text: str | None, memory: int, overhead: float, cold: bool, as_json: bool) -> None:
    """Measure what a workflow would cost on AWS.

    Runs it once, here, on an emulated AWS: THE STEPS REALLY RUN, and what they do is done. Sleeps are skipped. Counts
    what AWS would bill, by its rules and from real sizes, and multiplies it with list prices. Nothing is kept, and AWS
    is not asked.

    TARGET is module:workflow, or path/to/app.py:workflow. Needs pip install 'everstep[aws,cost]'.

    \b
      everstep cost shop:create_site --input '{"user_id": "u1"}'
    """
    assumed = _Assumed(memory_mb=memory, overhead_ms=overhead, cold=cold)
    console = Console(sys.stdout, sys.stderr)
    console.attach()
    try:
        prepared = prepare(target, input_text, (), None).without_app()
        warn(console, prepared.warnings)
        try:
            from everstep.costs.trial import measure
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "botocore":
                raise ConfigurationError(
                    "this measures the aws backend, which needs boto3: pip install 'everstep[aws,cost]'"
                ) from error
            raise
        found = measure(prepared.workflow.app, prepared.start, entropy=os.urandom, chance=random.random, cold=cold)
        if not found.run.closed and found.run.problem is None:
            console.say("the run waits for somebody outside, a hook's payload, say: measured up to there")
        if as_json:
            console.data(json.dumps(_json(found, assumed)))
        else:
            console.data("\n".join(_lines(found, assumed, console.style if console.out.isatty() else Style())))
    finally:
        console.detach()
    raise Exit(_code(found))


def _code(found: Measured) -> ExitCode:
    match found.run.shown_status:
        case RunStatus.FAILED | RunStatus.CANCELLED:
            return ExitCode.FAILED
        case RunStatus.PARKED:
            return ExitCode.PARKED
        case _:
            return ExitCode.DONE


def _quantities(found: Measured, assumed: _Assumed) -> dict[str, float]:
    """Of one run, by names of the price book, in the order they are shown in."""
    measured = dict(found.usage.quantities)
    seconds = found.invocations * assumed.overhead_ms / 1000 + found.step_seconds
    measured["lambda.arm64"] = seconds * assumed.memory_mb / 1024
    return {name: measured.get(name, 0.0) for name in _WORDS if name in _ALWAYS or measured.get(name)}


def _lines(found: Measured, assumed: _Assumed, style: Style) -> list[str]:
    from everstep.costs import prices

    quantities = _quantities(found, assumed)
    dollars = {name: prices.PRICES[name].of(quantity) * MILLION for name, quantity in quantities.items()}
    total = sum(dollars.values())
    rows = [[_WORDS[name], _number(quantity), f"{dollars[name]:,.3f}"] for name, quantity in quantities.items()]
    rows.append(["in all", "", f"{total:,.3f}"])
    sums = f"${total:,.2f} for a million runs"
    if found.steps:
        sums += f", ${total / found.steps:,.2f} for a million steps (a run has {found.steps})"
    lines = table(["BILLED FOR A RUN", "UNITS", "$ PER MILLION RUNS"], rows, right=frozenset({1, 2}))
    head = (
        f"{found.run.workflow} {found.run.shown_status}: {counted(found.steps, 'step')} in "
        f"{counted(found.attempts, 'attempt')}, {counted(found.invocations, 'invocation')}"
    )
    if found.run.error is not None:
        head += f"; {error_text(found.run.error)}"
    if found.run.problem is not None and not found.run.closed:
        head += f"; {' '.join(found.run.problem.message.split())}"
    caches = "no process had seen the run before" if assumed.cold else "one process had the run in memory (see --cold)"
    lambda_time = (
        f"Lambda's time is assumed: {assumed.overhead_ms:g} ms for each invocation at {assumed.memory_mb} MB (arm64), "
        f"and {found.step_seconds * 1000:,.0f} ms that the steps took here."
    )
    price_list = (
        f"List prices of {prices.REGION}, {prices.CHECKED.isoformat()}. Not in them: free tiers, storage, logs, the "
        f"HTTP API, empty receives of an idle queue."
    )
    return [
        head,
        "",
        style.paint(lines[0], "bold"),
        *lines[1:],
        "",
        f"{sums}.",
        f"Units were counted from the requests, by AWS's rules; {caches}.",
        lambda_time,
        price_list,
    ]


def _json(found: Measured, assumed: _Assumed) -> dict[str, Any]:
    from everstep.costs import prices

    quantities = _quantities(found, assumed)
    dollars = {name: prices.PRICES[name].of(quantity) * MILLION for name, quantity in quantities.items()}
    total = sum(dollars.values())
    return {
        "workflow": found.run.workflow,
        "status": str(found.run.shown_status),
        "error": error_json(found.run.error),
        "problem": None if found.run.closed or found.run.problem is None else found.run.problem.message,
        "steps": found.steps,
        "attempts": found.attempts,
        "invocations": found.invocations,
        "schedules": found.schedules,
        "units": quantities,
        "dollars_per_million_runs": {**dollars, "total": total},
        "dollars_per_million_steps": total / found.steps if found.steps else None,
        "requests": dict(found.usage.requests),
        "assumed": {"memory_mb": assumed.memory_mb, "overhead_ms": assumed.overhead_ms, "cold": assumed.cold},
        "measured_step_seconds": found.step_seconds,
        "prices": {"region": prices.REGION, "date": prices.CHECKED.isoformat()},
    }


def _number(quantity: float) -> str:
    return f"{quantity:,.0f}" if quantity == int(quantity) else f"{quantity:,.4g}"
