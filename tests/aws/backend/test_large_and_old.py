"""Payloads that go to S3, lists of many days, parked runs, retention, and what a cold start imports."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from moto import mock_aws

from everstep.backends.aws import AwsClients, AwsResources, inspector, open_aws
from everstep.core.history import CompleteRun, StepCompleted
from everstep.core.run import Closed, Parked, RunStatus
from everstep.errors import SerializationError
from everstep.ports import Backend, FailedAttempt, InboxEntry, RunQuery
from everstep.testing.clock import VirtualClock
from everstep.testing.contracts.samples import MINUTE, NOW, SECOND, entry, problem, run_id, run_record, turn
from tests.aws.backend.provisioned import new_resources, session
from tests.aws.backend.wire import Wire
from tests.aws.servers.emulator import reset_ministack

RUN = run_id()
DAY = 24 * 60 * MINUTE
NOISE = random.Random(1).randbytes(1_500_000)
"""Does not become smaller by compression."""


class Opened:
    def __init__(self, resources: AwsResources) -> None:
        self.resources = resources
        self.clients = AwsClients(resources, session())
        self.wire = Wire()
        self.wire.watch(self.clients)
        self.clock = VirtualClock(NOW)
        self.backend = self.again()

    def again(self) -> Backend:
        """As another process opens it, which remembers nothing."""
        return open_aws(self.resources, clock=self.clock, clients=self.clients)

    def items(self) -> dict[str, Any]:
        found = self.clients.client("dynamodb").scan(TableName=self.resources.table, ConsistentRead=True)["Items"]
        return {item["sk"]["S"]: item for item in found}

    def objects(self) -> list[str]:
        found = self.clients.client("s3").list_objects_v2(Bucket=self.resources.bucket)
        return [each["Key"] for each in found.get("Contents", [])]


@pytest.fixture(params=["moto", "ministack"])
def opened(request: pytest.FixtureRequest) -> Iterator[Opened]:
    if request.param == "moto":
        with mock_aws():
            yield Opened(new_resources(None))
    else:
        endpoint = request.getfixturevalue("ministack")
        reset_ministack(endpoint)
        yield Opened(new_resources(endpoint))


# --- large -----------------------------------------------------------------------------------------


def test_a_large_turn(opened: Opened) -> None:
    large = turn(commands=(CompleteRun(result=NOISE),))
    assert opened.backend.runs.append(RUN, large) is True
    assert opened.wire.take() == {"PutObject": 1, "PutItem": 1}
    assert opened.backend.runs.append(RUN, large) is True
    assert opened.backend.runs.append(RUN, replace(large, nonce="other")) is False
    assert list(opened.again().inspector.history(RUN)) == [large]
    assert len(opened.objects()) == 2  # the loser's is left, and nothing refers to it
    assert all(key.startswith(f"{RUN}/turn-0-") for key in opened.objects())
    assert opened.again().inspector.get_run(RUN) is None


def test_a_turn_of_exactly_the_limit(opened: Opened) -> None:
    for number, size in enumerate((349_000, 351_000)):
        opened.backend.runs.append(RUN, turn(number, commands=(CompleteRun(result=NOISE[:size]),)))
    assert [item["body"].keys() for item in opened.items().values()] == [{"B"}, {"S"}]


def test_a_large_record(opened: Opened) -> None:
    record = run_record(input=NOISE, attributes={f"key-{n}": "語" * 80 for n in range(64)})
    assert opened.backend.runs.create(record) is True
    opened.backend.runs.append(RUN, turn())
    opened.backend.runs.mark(RUN, Parked(problem=replace(problem(), message="語" * 100_000)))
    closed = Closed(at=NOW, status=RunStatus.FAILED, result=NOISE[:79_000], error=NOISE[::-1])
    opened.backend.runs.mark(RUN, closed)
    assert len(opened.objects()) == 2
    expected = replace(
        record, status=RunStatus.FAILED, started_at=NOW, completed_at=NOW, result=closed.result, error=closed.error
    )
    again = opened.again()
    assert again.inspector.get_run(RUN) == expected
    assert list(again.inspector.list_runs(RunQuery()).runs) == [expected]
    snapshot = again.runs.load(RUN)
    assert snapshot is not None
    assert snapshot.run == expected


def test_large_entries_and_errors(opened: Opened) -> None:
    opened.backend.runs.create(run_record())
    large = InboxEntry(key="k", event=StepCompleted(op=0, attempt=1, result=NOISE))
    assert opened.backend.inbox.deposit(RUN, large) is True
    assert opened.backend.inbox.deposit(RUN, large) is False
    failed = FailedAttempt(op=0, attempt=1, started_at=NOW, ended_at=NOW, error=NOISE, retry_at=NOW)
    opened.backend.steps.record(RUN, failed)
    snapshot = opened.again().runs.load(RUN)
    assert snapshot is not None
    assert list(snapshot.inbox) == [large]
    assert list(opened.again().steps.failed_attempts(RUN)) == [failed]


def test_a_missing_or_damaged_object(opened: Opened) -> None:
    opened.backend.runs.append(RUN, turn(commands=(CompleteRun(result=NOISE),)))
    [key] = opened.objects()
    s3, bucket = opened.clients.client("s3"), opened.resources.bucket
    s3.put_object(Bucket=bucket, Key=key, Body=b"other")
    with pytest.raises(SerializationError, match="is damaged: its 5 bytes are not those"):
        opened.backend.inspector.history(RUN)
    s3.delete_object(Bucket=bucket, Key=key)
    with pytest.raises(SerializationError, match=f"object '{key}' is missing in bucket '{bucket}'"):
        opened.backend.inspector.history(RUN)


def test_long_and_strange_keys(opened: Opened) -> None:
    opened.backend.runs.create(run_record())
    entries = [entry(0, key="k" * 2000), entry(1, key="k" * 1999 + "l"), entry(2, key="a#b/ü"), entry(3, key="x\udce9")]
    for each in entries:
        assert opened.backend.inbox.deposit(RUN, each) is True
        assert opened.backend.inbox.deposit(RUN, each) is False
    snapshot = opened.backend.runs.load(RUN)
    assert snapshot is not None
    assert list(snapshot.inbox)[:3] == entries[:3]
    opened.backend.inbox.remove(RUN, [each.key for each in snapshot.inbox])
    snapshot = opened.backend.runs.load(RUN)
    assert snapshot is not None
    assert list(snapshot.inbox) == []


def test_a_load_reads_no_claims_flags_and_failed_attempts(opened: Opened) -> None:
    opened.backend.runs.create(run_record())
    opened.backend.steps.claim(RUN, 0, 1)
    opened.backend.inbox.raise_flag(RUN, now=NOW)
    opened.backend.steps.record(
        RUN, FailedAttempt(op=0, attempt=1, started_at=NOW, ended_at=NOW, error=b"{}", retry_at=NOW)
    )
    for number in range(3):
        opened.backend.runs.append(RUN, turn(number))
    opened.backend.inbox.deposit(RUN, entry())
    answer = []
    opened.clients.client("dynamodb").meta.events.register(
        "after-call.dynamodb.Query", lambda parsed, **_: answer.append(parsed)
    )
    for first, keys in ((0, ["turn#00000000", "turn#00000001", "turn#00000002"]), (2, ["turn#00000002"]), (9, [])):
        answer.clear()
        snapshot = opened.backend.runs.load(RUN, first_turn=first)
        assert snapshot is not None
        assert (snapshot.run.status, snapshot.run.started_at) == (RunStatus.RUNNING, NOW)
        [parsed] = answer
        assert [item["sk"]["S"] for item in parsed["Items"]] == [*keys, "zin#step/0", "zrun"]
        assert parsed["ScannedCount"] == len(keys) + 2


# --- lists -----------------------------------------------------------------------------------------


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """A table too large for a Scan of its list, as far as the inspector knows: 12 runs in 24 days."""
    monkeypatch.setattr(inspector, "FEW", 1)
    monkeypatch.setattr(inspector, "EMPTY_DAYS", 10)
    with mock_aws():
        yield _filled(Opened(new_resources(None)))


def _filled(opened: Opened) -> Opened:
    for number in range(12):
        created_at = NOW - number * 2 * DAY + number
        opened.backend.runs.create(
            run_record(number, created_at=created_at, start_at=created_at, workflow=f"w{number % 2}")
        )
    opened.wire.clear()
    return opened


def test_a_list_of_many_days(many: Opened) -> None:
    page = many.backend.inspector.list_runs(RunQuery())
    assert [run.run_id for run in page.runs] == [run_id(number) for number in range(12)]
    assert page.cursor is None


@pytest.mark.parametrize("size", [1, 5, 11, 12])
def test_pages_of_many_days(many: Opened, size: int) -> None:
    query = RunQuery(limit=size, workflow="w1" if size == 5 else None)
    seen: list[str] = []
    while True:
        page = many.backend.inspector.list_runs(query)
        seen += [run.run_id for run in page.runs]
        if page.cursor is None:
            break
        assert len(page.runs) == size
        query = replace(query, cursor=page.cursor)
    assert seen == [run_id(number) for number in range(12) if size != 5 or number % 2]


def test_a_list_between_times(many: Opened) -> None:
    page = many.backend.inspector.list_runs(RunQuery(created_from=NOW - 7 * DAY, created_before=NOW - 2 * DAY + 1))
    assert [run.run_id for run in page.runs] == [run_id(2), run_id(3)]
    assert many.wire.requests["Query"] <= 4 * 8
    page = many.backend.inspector.list_runs(RunQuery(created_from=NOW - 3650 * DAY, created_before=NOW - 3640 * DAY))
    assert (list(page.runs), page.cursor) == ([], None)


def test_the_first_page_costs_little(many: Opened) -> None:
    """A day with enough runs is not left; here one day is empty between two runs."""
    many.backend.inspector.list_runs(RunQuery(limit=1))
    assert many.wire.requests["Query"] <= 4 * 6
    assert many.wire.requests["BatchGetItem"] <= 8


def test_the_work_of_a_page_is_bounded(many: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspector, "MOST_WORK", 100)
    query = RunQuery(workflow="none", created_from=NOW - 30 * DAY)
    pages = 0
    while True:
        many.wire.clear()
        page = many.backend.inspector.list_runs(query)
        assert list(page.runs) == []
        pages += 1
        if page.cursor is None:
            break
        query = replace(query, cursor=page.cursor)
    assert pages > 1


def test_a_list_ends_after_a_long_time_without_runs(many: Opened) -> None:
    created_at = NOW - 60 * DAY
    many.backend.runs.create(run_record(99, created_at=created_at, start_at=created_at))
    assert len(many.backend.inspector.list_runs(RunQuery()).runs) == 12
    assert len(many.backend.inspector.list_runs(RunQuery(created_from=created_at)).runs) == 13


def test_a_run_created_by_a_clock_that_is_ahead(many: Opened) -> None:
    many.backend.runs.create(run_record(99, created_at=NOW + DAY, start_at=NOW + DAY))
    page = many.backend.inspector.list_runs(RunQuery(limit=2))
    assert [run.run_id for run in page.runs] == [run_id(99), run_id(0)]


# --- retention -------------------------------------------------------------------------------------


def test_without_retention_nothing_expires(opened: Opened) -> None:
    _live(opened.backend)
    assert not any("expires_at" in item for item in opened.items().values())


def test_everything_of_a_closed_run_expires_and_the_record_last(opened: Opened) -> None:
    opened.resources = replace(opened.resources, retention_days=30)
    backend = opened.again()
    backend.runs.create(run_record())
    backend.runs.append(RUN, turn())
    assert not any("expires_at" in item for item in opened.items().values())
    _live(backend)
    seconds = NOW // SECOND + 30 * 86_400
    expire = {sk: int(item["expires_at"]["N"]) for sk, item in opened.items().items()}
    assert expire == dict.fromkeys(expire, seconds) | {"zrun": seconds + 3 * 86_400}
    assert set(expire) == {"claim#0#1", "flag", "turn#00000000", "zin#step/0", "zrun"}
    run = backend.inspector.get_run(RUN)
    assert run is not None
    assert run.closed
    backend.inbox.deposit(RUN, entry(1))  # too late: nobody will consume it
    assert int(opened.items()["zin#step/1"]["expires_at"]["N"]) == seconds + 2 * 365 * 86_400


def test_what_was_closed_and_does_not_expire_is_seen_to_when_it_is_read(opened: Opened) -> None:
    _live(opened.backend)  # as where whoever closed it came no further
    opened.resources = replace(opened.resources, retention_days=30)
    backend = opened.again()
    opened.wire.clear()
    for _ in range(2):
        snapshot = backend.runs.load(RUN)
        assert snapshot is not None
        assert snapshot.run.closed
    assert opened.wire.take() == {"Query": 3, "UpdateItem": 5}  # once
    assert all("expires_at" in item for item in opened.items().values())


def _live(backend: Backend) -> None:
    backend.runs.create(run_record())
    backend.runs.append(RUN, turn())
    backend.steps.claim(RUN, 0, 1)
    backend.inbox.raise_flag(RUN, now=NOW)
    backend.inbox.deposit(RUN, entry())
    for _ in range(2):
        backend.runs.mark(RUN, Closed(at=NOW, status=RunStatus.COMPLETED))


# --- start times -----------------------------------------------------------------------------------


def test_who_has_not_seen_a_run_start_reads_it_off_its_first_turn(opened: Opened) -> None:
    opened.backend.runs.create(run_record())
    opened.backend.runs.append(RUN, turn(at=NOW + 7))
    expected = run_record(status=RunStatus.RUNNING, started_at=NOW + 7)
    opened.wire.clear()
    again = opened.again()
    assert again.inspector.get_run(RUN) == expected
    assert opened.wire.take() == {"GetItem": 2}
    assert again.inspector.get_run(RUN) == expected
    assert opened.wire.take() == {"GetItem": 1}
    assert list(opened.again().inspector.list_runs(RunQuery(status=RunStatus.RUNNING)).runs) == [expected]
    opened.again().runs.mark(RUN, Closed(at=NOW + 9, status=RunStatus.COMPLETED))  # by who has not seen it either
    assert opened.again().inspector.get_run(RUN) == replace(expected, status=RunStatus.COMPLETED, completed_at=NOW + 9)


# --- cold start ------------------------------------------------------------------------------------

COLD = """
import sys
from everstep.backends.aws import AwsClients, AwsResources, open_aws
names = dict.fromkeys(("table", "queue_arn", "bucket", "schedule_group", "scheduler_role_arn"), "x")
clients = AwsClients(AwsResources(**names, queue_url="https://x/1/q", region="eu-central-1"))
open_aws(clients._resources, clock=None, clients=clients)
assert clients._clients == {}, "clients are made when they are used"
clients.client("dynamodb"), clients.client("sqs")
print(sorted(name for name in ("boto3", "s3transfer", "sqlite3", "pydantic", "click") if name in sys.modules))
"""


def test_what_a_cold_start_imports() -> None:
    done = subprocess.run([sys.executable, "-c", COLD], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
