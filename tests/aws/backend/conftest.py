"""Servers for the session, and credentials that are none."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

from tests.aws.servers import dynalite as dynalite_server
from tests.aws.servers.emulator import emulator

pytest.register_assert_rewrite("everstep.testing.contracts")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """moto loses committed writes when threads meet: tests that start threads run on the servers only."""
    threaded = [item for item in items if "OnMoto" in item.nodeid and _starts_threads(item)]
    if threaded:
        config.hook.pytest_deselected(items=threaded)
        items[:] = [item for item in items if item not in threaded]


def _starts_threads(item: pytest.Item) -> bool:
    source = inspect.getsource(item.function) if isinstance(item, pytest.Function) else ""
    return "race(" in source or "in_other_thread(" in source


@pytest.fixture(autouse=True, scope="session")
def credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        yield


@pytest.fixture(scope="session")
def ministack() -> Iterator[str]:
    with emulator(access_control=False) as started:
        yield started.endpoint


@pytest.fixture(scope="session")
def dynalite() -> Iterator[str]:
    with dynalite_server.dynalite() as endpoint:
        yield endpoint
