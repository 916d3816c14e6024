"""What the tests of the programming model share: a way to run a workflow of a throw-away app."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from everstep import Workflows
from everstep.testing import WorkflowEnvironment

T = TypeVar("T")


@pytest.fixture
def app() -> Workflows:
    return Workflows()


@pytest.fixture
def environment() -> Iterator[Callable[..., WorkflowEnvironment]]:
    """Makes environments and closes them after the test."""
    made: list[WorkflowEnvironment] = []

    def make(app: Workflows, **options: object) -> WorkflowEnvironment:
        made.append(WorkflowEnvironment(app, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.fixture
def env(app: Workflows, environment: Callable[..., WorkflowEnvironment]) -> WorkflowEnvironment:
    """The app in memory, with a virtual clock; every turn is verified by a replay from scratch."""
    return environment(app)


def do(awaitable: Coroutine[Any, Any, T]) -> T:
    """What a method of a run returns, in a test without an event loop."""
    return asyncio.run(awaitable)
