"""What a durable execution engine is expected to do, case by case.

The cases restate a public conformance suite for another engine (Apache-2.0), in our words and on our API; case 2-3 is
``test_2_3_…``. What that suite calls a *child context* is here a function in the body or a run of its own, its
*wait for condition* a loop of a step and a sleep, its *map* tasks under a semaphore. It runs steps within an
invocation; here each step is a message, so the numbers of turns and messages are our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from moto import mock_aws

from everstep import Workflows
from everstep.assembly import connect_sqlite
from everstep.testing import VirtualClock, WorkflowEnvironment
from tests.aws.backend.provisioned import new_resources
from tests.aws.backend.wire import tapped
from tests.behaviour.places import InMemory, OnSqlite, Place


@pytest.fixture
def app() -> Workflows:
    return Workflows()


@pytest.fixture
def place(request: pytest.FixtureRequest, app: Workflows) -> Iterator[Place]:
    kind = getattr(request, "param", "memory")
    if kind == "sqlite":
        connection = connect_sqlite(request.getfixturevalue("tmp_path") / "runs.db")
        yield OnSqlite(app, connection)
        connection.close()
    elif kind == "aws":
        clock = VirtualClock()
        with mock_aws():
            backend, _ = tapped(new_resources(None), clock)
            with WorkflowEnvironment(app, backend=backend, clock=clock) as env:
                yield InMemory(env)
    else:
        with WorkflowEnvironment(app) as env:
            yield InMemory(env)


@pytest.fixture(params=["function", "run"])
def context(request: pytest.FixtureRequest, app: Workflows) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declares a child context: a plain function of the body, or a workflow, whose call is a run of its own."""
    return app.workflow if request.param == "run" else lambda function: function
