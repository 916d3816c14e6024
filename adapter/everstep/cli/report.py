"""Say how a run went: the result on stdout, everything else on stderr."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from everstep.cli.console import Console
from everstep.cli.exits import ExitCode
from everstep.cli.render import error_lines, error_text, took_text
from everstep.cli.shapes import run_json
from everstep.cli.targets import APP_ATTRIBUTE
from everstep.core.history import Micros
from everstep.core.run import RunRecord, RunStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The commands to go on with, with the options that this one was given.

    Attributes:
        again: the options that make a command work on the same store.
        app: what was imported, for runs that do not remember it.
        local: whether this machine works on the runs, so that an app must be imported to go on with one.
    """

    again: Sequence[str]
    app: str | None
    local: bool = True

    def resume(self, run: RunRecord) -> str:
        app = self.app if self.local and APP_ATTRIBUTE not in run.attributes else None
        return self._command("resume", run.run_id, *(() if app is None else ("--app", app)))

    def inspect(self, run: RunRecord) -> str:
        return self._command("inspect", "steps", run.run_id)

    def inspect_run(self, run: RunRecord) -> str:
        return self._command("inspect", "run", run.run_id)

    def _command(self, *words: str) -> str:
        return shlex.join(["everstep", *words, *self.again])


def report(
    console: Console,
    run: RunRecord,
    *,
    now: Micros,
    as_json: bool,
    advice: Advice,
    quiet: bool = False,
    before: bool = False,
) -> ExitCode:
    """Show what became of a run that is closed or parked.

    Args:
        quiet: on success, nothing but the result.
        before: it had ended before this command began.
    """
    style = console.style
    if as_json:
        console.data(json.dumps(run_json(run)))
    if run.shown_status is RunStatus.COMPLETED:
        when = f"had completed before, in {took_text(run, now)}" if before else f"completed in {took_text(run, now)}"
        if not quiet:
            console.say(f"{style.paint(style.symbol('done'), 'green')} {run.workflow} {when}")
        if not as_json:
            console.data(result_text(run.result, pretty=console.out.isatty()))
        return ExitCode.DONE
    if run.shown_status is RunStatus.PARKED and run.problem is not None:
        console.say(
            f"{style.paint(style.symbol('parked'), 'magenta')} {run.workflow} is parked: it waits for other code",
            "",
            *(f"  {line}".rstrip() for line in run.problem.message.splitlines()),
            "",
            "The run is kept. When the code is fixed:",
            f"  {advice.resume(run)}",
        )
        return ExitCode.PARKED
    if run.error is not None and not as_json:
        console.say("", *(f"  {line}".rstrip() for line in error_lines(run.error)), "")
    when = f"had {run.status} before" if before else f"{run.status} after {took_text(run, now)}"
    why = f": {error_text(run.error)}" if run.error is not None else ""
    console.say(
        f"{style.paint(style.symbol('failed'), 'red')} {run.workflow} {when}{why}",
        "What its steps did:",
        f"  {advice.inspect(run)}",
    )
    return ExitCode.FAILED


def result_text(data: bytes | None, *, pretty: bool) -> str:
    """A result as JSON: indented for people, as it is stored for programs."""
    text = "null" if data is None else data.decode("utf-8", "replace")
    if not pretty:
        return text
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text
