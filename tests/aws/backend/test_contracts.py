"""The contract suites on DynamoDB and SQS as moto, MiniStack and dynalite imitate them.

On moto in this process, without threads; on MiniStack whole; on dynalite, which is stricter, what needs only the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from moto import mock_aws

from everstep.backends.aws import AwsClients, AwsResources, inspector, open_aws
from everstep.ports import Backend
from everstep.testing.clock import VirtualClock
from everstep.testing.contracts import (
    HookRegistryContract,
    InboxContract,
    InspectorContract,
    MessageQueueContract,
    RunStoreContract,
    StepLogContract,
    StreamStoreContract,
)
from everstep.testing.contracts.samples import NOW
from tests.aws.backend.polling import PollingSource
from tests.aws.backend.provisioned import new_resources, session
from tests.aws.servers.emulator import reset_ministack


def _open(resources: AwsResources) -> Iterator[Backend]:
    clients = AwsClients(resources, session())
    backend = open_aws(resources, clock=VirtualClock(NOW), clients=clients)
    yield replace(backend, source=PollingSource(backend, clients, resources))
    backend.close()


class OnMoto:
    only_table = True

    @pytest.fixture
    def backend(self) -> Iterator[Backend]:
        with mock_aws():
            yield from _open(new_resources(None, only_table=self.only_table))


class OnMinistack:
    only_table = True

    @pytest.fixture
    def backend(self, ministack: str) -> Iterator[Backend]:
        reset_ministack(ministack)
        yield from _open(new_resources(ministack, only_table=self.only_table))


class OnDynalite:
    @pytest.fixture
    def backend(self, dynalite: str) -> Iterator[Backend]:
        yield from _open(new_resources(dynalite, only_table=True))


class SqsMessageQueueContract(MessageQueueContract):
    """What a standard queue cannot promise is left out: it delivers by its own clock, and keeps no duplicates out."""

    test_send_drops_what_is_waiting = None  # type: ignore[assignment]
    test_send_drops_what_is_being_worked_on = None  # type: ignore[assignment]
    test_senders_of_the_same_message_send_one = None  # type: ignore[assignment]
    test_nothing_is_delivered_before_it_is_due = None  # type: ignore[assignment]
    test_discard_takes_back = None  # type: ignore[assignment]


class TestRunStoreOnMoto(OnMoto, RunStoreContract):
    only_table = False  # its suite needs more than the table


class TestInboxOnMoto(OnMoto, InboxContract): ...


class TestHookRegistryOnMoto(OnMoto, HookRegistryContract): ...


class TestStepLogOnMoto(OnMoto, StepLogContract): ...


class TestStreamStoreOnMoto(OnMoto, StreamStoreContract):
    only_table = False  # its suite needs more than the table


class TestInspectorOnMoto(OnMoto, InspectorContract): ...


class TestMessageQueueOnMoto(OnMoto, SqsMessageQueueContract):
    only_table = False  # its suite needs more than the table


class TestRunStoreOnMinistack(OnMinistack, RunStoreContract):
    only_table = False  # its suite needs more than the table


class TestInboxOnMinistack(OnMinistack, InboxContract): ...


class TestHookRegistryOnMinistack(OnMinistack, HookRegistryContract): ...


class TestStepLogOnMinistack(OnMinistack, StepLogContract): ...


class TestStreamStoreOnMinistack(OnMinistack, StreamStoreContract):
    only_table = False  # its suite needs more than the table


class TestInspectorOnMinistack(OnMinistack, InspectorContract): ...


class ManyRuns:
    """Lists as they are made of a table that is too large for one Scan, though with fewer empty days at the end."""

    @pytest.fixture(autouse=True)
    def days(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inspector, "FEW", 1)
        monkeypatch.setattr(inspector, "EMPTY_DAYS", 2)


class TestInspectorOfManyRunsOnMinistack(ManyRuns, OnMinistack, InspectorContract): ...


class TestInspectorOfManyRunsOnDynalite(ManyRuns, OnDynalite, InspectorContract): ...


class TestMessageQueueOnMinistack(OnMinistack, SqsMessageQueueContract):
    only_table = False  # its suite needs more than the table


class TestRunStoreOnDynalite(OnDynalite, RunStoreContract):
    test_append_keeps_large_turns = None  # type: ignore[assignment]  # there is no S3


class TestInboxOnDynalite(OnDynalite, InboxContract): ...


class TestHookRegistryOnDynalite(OnDynalite, HookRegistryContract): ...


class TestStepLogOnDynalite(OnDynalite, StepLogContract): ...


class TestInspectorOnDynalite(OnDynalite, InspectorContract): ...


class TestStreamStoreOnDynalite(OnDynalite, StreamStoreContract):
    test_append_keeps_large_records = None  # type: ignore[assignment]  # there is no S3
