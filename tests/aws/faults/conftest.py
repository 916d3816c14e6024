"""MiniStack, microburst in front of it, and functions that reach the one through the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from everstep import Workflows
from tests.aws.faults.functions import Functions
from tests.aws.faults.proxy import Proxy
from tests.aws.servers import microburst as proxies
from tests.aws.servers.emulator import emulator


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
def microburst(ministack: str) -> Iterator[Proxy]:
    with proxies.microburst(ministack) as endpoint:
        proxy = Proxy(endpoint)
        proxy.warm_up()
        yield proxy


@pytest.fixture
def proxy(microburst: Proxy) -> Iterator[Proxy]:
    microburst.clear()
    yield microburst
    microburst.clear()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK does not wait between its tries."""
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture
def deploy(ministack: str) -> Iterator[Callable[..., Functions]]:
    """Deploy an app whose functions reach AWS at this endpoint."""
    made: list[Functions] = []

    def one(app: Workflows, endpoint: str = ministack, *, retention_days: int = 0) -> Functions:
        made.append(Functions(app, ministack, endpoint, retention_days=retention_days))
        return made[-1]

    yield one
    for functions in made:
        functions.close()
