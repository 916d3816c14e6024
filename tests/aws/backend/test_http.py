"""The HTTP API over DynamoDB, SQS and S3."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from everstep.ports import Backend
from everstep.testing.clock import VirtualClock
from tests.aws.backend.provisioned import new_resources
from tests.aws.backend.wire import tapped
from tests.aws.servers.emulator import reset_ministack
from tests.web.behaviour import ApiBehaviour

pytestmark = pytest.mark.slow


class TestHttpOnMinistack(ApiBehaviour):
    @pytest.fixture
    def backend(self, ministack: str, clock: VirtualClock) -> Iterator[Backend]:
        reset_ministack(ministack)
        backend, _ = tapped(new_resources(ministack), clock)
        yield backend
        backend.close()
