"""The corpus: one workflow for each thing a body can do, each with one result whatever the schedule.

Times are far apart (a step takes no virtual time; timeouts are a day, retries that must lose against one wait ten
days), so that minutes of delay and skew cannot change a result. What depends on the order of arrival is sorted.
"""

from __future__ import annotations

from tests.simulation import alone, together
from tests.simulation.alone import queue, retries, semaphore, sequence, sleeper, wf

__all__ = ["EXPECTED", "PROGRAMS", "ends_well", "queue", "retries", "semaphore", "sequence", "sleeper", "wf"]

EXPECTED = alone.EXPECTED | together.EXPECTED
"""How each ends, under any schedule."""

PROGRAMS = [wf.workflows[name] for name in EXPECTED]


def ends_well(name: str, ended: tuple[str, object], *, disturbed: bool) -> bool:
    """Whether a run of the program ended as it must; a step that must not be repeated may have been interrupted."""
    interrupted = name == "once" and disturbed and str(ended[1]).startswith("StepInterruptedError: ")
    return ended == EXPECTED[name] or interrupted
