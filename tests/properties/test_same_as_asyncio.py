"""Random workflow bodies do on the engine what they do on plain asyncio.

`language.programs` draws bodies out of steps (that return, fail, or fail once and are retried), sleeps, `gather`
(with and without ``return_exceptions``), `TaskGroup`, `wait_for`, `timeout`, `wait` in all three forms with and
without a time limit, `as_completed`, `create_task` with cancellation, `shield`, `Semaphore`, `Lock`, `Queue`,
`Event`, ``try`` and clean-up that itself waits, hooks that somebody sends to, and child runs, nested at will. One
interpreter runs them on plain asyncio with virtual time (`plain`), and as a workflow (`durable`). Both must agree on
the result (values; exception types and messages), on the trace of everything that began, ended, failed or was
cancelled, in order, and on when it did, to the millisecond.

The engine runs each program three ways: warm; with its live instance thrown away after every message, so that every
turn starts with a replay from scratch; and with ``verify=True``. The three histories must be the same, turn by turn.
At the end the history is replayed once more, and checked (`testing.simulator.violations`).

Differences from plain asyncio that are meant, and invisible to these programs:

- A step that is cancelled in the turn that asked for it is never sent.
- A step in flight is not stopped when the task that awaits it is cancelled: it runs on, its outcome is recorded and
  dropped. A body sees what it sees in asyncio, at the same moment; the step's own side effects go on.
- Timers of one instant: what is due at the same microsecond has no promised order in asyncio (a heap compares due
  times only). We fire it in the order in which it was asked for. Programs with such a coincidence are left out here
  (about one in a thousand).
- `TaskGroup` and `wait` keep tasks in sets. In asyncio the order of such a set comes from memory addresses, here from
  counters. So cancellations of one instant are compared without their order.
- When the workflow returns, tasks that are left are cancelled, as `asyncio.run` does. Their clean-up may ask for
  steps, which are run before the run is closed; the result is what the workflow returned.

TEST_SCALE=20 draws twenty times as many programs; ``--hypothesis-profile=explore`` draws other ones each time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, assume, given, settings

from everstep.core.history import Turn
from tests.properties.durable import Mode, run_durable
from tests.properties.language import Node, comparable, programs
from tests.properties.plain import Coincidence, run_plain

SCALE = int(os.environ.get("TEST_SCALE", "1"))


def turns(history: Sequence[Turn]) -> list[Any]:
    """What two records of the same run have in common: everything but their writers' nonces."""
    return [(turn.number, turn.at, turn.events, turn.commands) for turn in history]


@settings(
    max_examples=500 * SCALE, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(tree=programs)
def test_same_as_asyncio(tree: Node) -> None:
    try:
        expected = run_plain(tree)
    except Coincidence:
        assume(False)
    warm, history = run_durable(tree, "warm")
    assert comparable(warm) == comparable(expected)
    modes: list[Mode] = ["cold", "verify"]
    for mode in modes:
        again, other = run_durable(tree, mode)
        assert again == warm, f"{mode} and warm differ"
        assert turns(other.turns) == turns(history.turns), f"the histories of {mode} and warm differ"
