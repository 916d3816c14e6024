"""Wait for a run that others work on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from everstep.cli.console import Console
from everstep.cli.exits import ExitCode
from everstep.cli.report import Advice, report
from everstep.cli.signals import staged
from everstep.core.run import RunRecord
from everstep.errors import StoreBusyError
from everstep.runtime.connection import Connection, at_rest

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 2.0
"""Seconds between two looks. A look at AWS costs one or two read units."""

pause: Callable[[float], None] = time.sleep


class _Stopped(BaseException):
    """Somebody pressed Ctrl-C. Like Python's own `KeyboardInterrupt` it is none of the errors that libraries wrap: the
    signal may come in the middle of a request."""


def _stop() -> None:
    raise _Stopped


def wait_until_at_rest(connection: Connection, run_id: str, *, seconds: float | None = None) -> RunRecord:
    """Look at the run until it has ended or is parked, or the time is up; as it is then.

    A store that is busy is asked again.
    """
    length = FIRST_PAUSE
    since = time.monotonic()
    latest: RunRecord | None = None
    while True:
        try:
            latest = connection.get(run_id)
        except StoreBusyError:
            if latest is None and length >= LONGEST_PAUSE:
                raise
        left = None if seconds is None else seconds - (time.monotonic() - since)
        if latest is not None and (at_rest(latest) or (left is not None and left <= 0)):
            return latest
        pause(length if left is None else max(0.0, min(length, left)))
        length = min(length * 1.5, LONGEST_PAUSE)


def wait_and_report(
    connection: Connection, console: Console, record: RunRecord, *, intro: str, as_json: bool, advice: Advice
) -> ExitCode:
    """Say what is waited for, wait, and show what became of the run."""
    with staged([_stop]) as signals:
        try:
            console.say(intro)
            latest = wait_until_at_rest(connection, record.run_id)
        except _Stopped:
            console.say("stopped waiting; the run goes on. To see how it stands:", f"  {advice.inspect_run(record)}")
            return signals.exit_code
    return report(console, latest, now=connection.clock.now(), as_json=as_json, advice=advice)
