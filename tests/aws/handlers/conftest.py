"""Functions that are closed when a test ends, however it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.aws.handlers.functions import Deployed


@pytest.fixture
def deploy() -> Iterator[Callable[..., Deployed]]:
    made: list[Deployed] = []

    def one(*args, **kwargs) -> Deployed:
        made.append(Deployed(*args, **kwargs))
        return made[-1]

    yield one
    for deployed in made:
        deployed.close()
