"""Streams in DynamoDB: the behaviour of every backend, racing writers, what it costs, and how streams expire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from moto import mock_aws

from everstep import Workflows, get_writable
from everstep.backends.aws import AwsClients, open_aws
from everstep.core.run import Closed, RunStatus
from everstep.core.streams import Piece, Source
from everstep.ports import Backend
from everstep.runtime.stream_log import StreamLog
from everstep.runtime.stream_reading import ChunkData, StreamReader
from everstep.testing import WorkflowEnvironment
from everstep.testing.clock import VirtualClock
from everstep.testing.contracts.samples import NOW, race, run_id, run_record
from tests.aws.backend.provisioned import new_resources, session
from tests.aws.backend.wire import Wire, lose_answers, table_units, tapped
from tests.aws.servers.emulator import reset_ministack
from tests.streams.behaviour import StreamBehaviour, values_of

RUN = run_id()
DAY = 86_400


class TestStreamsOnMinistack(StreamBehaviour):
    @pytest.fixture
    def backend(self, ministack: str, clock: VirtualClock) -> Iterator[Backend]:
        reset_ministack(ministack)
        backend, _ = tapped(new_resources(ministack), clock)
        yield backend
        backend.close()


def test_racing_writers_append_without_gaps(ministack: str) -> None:
    reset_ministack(ministack)
    resources = new_resources(ministack)
    backends = [
        open_aws(resources, clock=VirtualClock(NOW), clients=AwsClients(resources, session())) for _ in range(4)
    ]

    def write(number: int) -> None:
        source = Source(step=f"step_{number}", attempt=1, execution=f"{number}")
        log = StreamLog(backends[number % 4].streams, RUN, "main", source, replace=number % 2 == 0)
        log.open(to_write=True)
        for batch in range(10):
            nonce = log.nonce()
            pieces = [Piece(b"[%d,%d,%d]" % (number, batch, chunk), False) for chunk in range(3)]
            while not log.append_chunks(nonce, pieces):
                pass

    race(8, write)
    items = StreamReader(backends[0].streams, RUN, "main").read(1000)
    assert [item.index for item in items] == list(range(240))
    texts = [item.data for item in items if isinstance(item, ChunkData)]
    for number in range(8):
        mine = [text for text in texts if text.startswith(b"[%d," % number)]
        assert mine == [b"[%d,%d,%d]" % (number, batch, chunk) for batch in range(10) for chunk in range(3)]
    for start in range(0, 240, 7):
        again = StreamReader(backends[1].streams, RUN, "main", start=start).read(1000)
        assert [item.data for item in again if isinstance(item, ChunkData)] == texts[start:]
    for backend in backends:
        backend.close()


@pytest.fixture
def place() -> Iterator[tuple[Backend, Wire]]:
    with mock_aws():
        yield tapped(new_resources(None), VirtualClock())


@pytest.mark.parametrize("on_retry", ["keep", "discard"])
def test_a_batch_is_one_write(place: tuple[Backend, Wire], on_retry: Any) -> None:
    """Nothing for each chunk. A new stream costs one more, and so does a step whose chunks are replaceable."""
    backend, wire = place
    app = Workflows()

    @app.step
    async def talk(chunks: int) -> None:
        out = get_writable(on_retry=on_retry)
        await out.write_from(range(chunks))

    @app.workflow
    async def body(chunks: int) -> None:
        for _ in range(3):
            await talk(chunks)

    with WorkflowEnvironment(app, backend=backend, verify=False) as env:
        for chunks in (1, 300):
            wire.clear()
            run = env.start(body, chunks)
            env.run_until_idle()
            writes = [given["Item"] for name, given in wire.parameters if name == "PutItem"]
            of_stream = [item for item in writes if item["pk"]["S"].startswith("stream#")]
            listed = [item for item in writes if item["sk"]["S"].startswith("stream#")]
            noted = [item for item in of_stream if item["sk"]["S"].startswith("step#")]
            assert len(listed) == 1
            assert len(noted) == (3 if on_retry == "discard" else 0)
            assert len(of_stream) - len(noted) == 3
            assert sum(table_units(item) for item in of_stream) == 3 + len(noted)  # 300 small chunks compress to 1 KB
            assert wire.requests["Query"] - 1 == 3  # the end of the stream, once for each step; and the run, cold
            assert values_of(run) == list(range(chunks)) * 3


def test_a_reader_that_waits_costs_one_query(place: tuple[Backend, Wire]) -> None:
    backend, wire = place
    log = StreamLog(backend.streams, RUN, "main", Source(step="step_1", attempt=1, execution="1"), replace=False)
    log.open(to_write=True)
    for number in range(100):
        assert log.append_chunks(log.nonce(), [Piece(b"%d" % number, False)] * 10)
    wire.clear()
    reader = StreamReader(backend.streams, RUN, "main", start=995)
    assert [item.data for item in reader.read() if isinstance(item, ChunkData)] == [b"99"] * 5
    assert wire.take() == {"Query": 4}  # the end, the record that holds index 995, what follows, and that that is all
    for _ in range(3):
        assert reader.read() == []
    assert wire.take() == {"Query": 3}


def test_a_lost_answer_stores_nothing_twice() -> None:
    with mock_aws():
        resources = new_resources(None)
        clients = AwsClients(resources, session())
        backend = open_aws(resources, clock=VirtualClock(NOW), clients=clients)
        log = StreamLog(backend.streams, RUN, "main", Source(step="step_1", attempt=1, execution="1"), replace=True)
        log.open(to_write=True)
        lost = lose_answers(clients, "PutItem", times=2)  # the entry in the list and the record
        assert log.append_chunks(log.nonce(), [Piece(b"1", False)])
        assert log.append_close(log.nonce())
        assert lost["PutItem"] == 2
        reader = StreamReader(backend.streams, RUN, "main")
        assert [item.data for item in reader.read() if isinstance(item, ChunkData)] == [b"1"]
        assert reader.done


def test_streams_expire_with_their_run() -> None:
    with mock_aws():
        resources = new_resources(None, retention_days=30)
        clients = AwsClients(resources, session())
        backend = open_aws(resources, clock=VirtualClock(NOW), clients=clients)
        backend.runs.create(run_record())
        for name in ("main", "ü / #"):
            source = Source(step="step_1", attempt=1, execution="1")
            log = StreamLog(backend.streams, RUN, name, source, replace=True)
            log.open(to_write=True)
            log.append_chunks(log.nonce(), [Piece(b"1", False)])
            log.append_close(log.nonce())

        def expiries() -> dict[str, set[int]]:
            found: dict[str, set[int]] = {}
            for item in clients.call("dynamodb", "Scan", TableName=resources.table)["Items"]:
                found.setdefault(item["pk"]["S"], set()).add(int(item.get("expires_at", {"N": "0"})["N"]))
            return found

        written = {f"stream#{RUN}#main", f"stream#{RUN}#ü / #"}
        far = NOW // 1_000_000 + (30 + 730) * DAY  # should the run never close
        assert {pk: times for pk, times in expiries().items() if pk in written} == {pk: {far} for pk in written}
        backend.runs.mark(RUN, Closed(at=NOW, status=RunStatus.COMPLETED, result=b"1"))
        soon = NOW // 1_000_000 + 30 * DAY
        assert {pk: times for pk, times in expiries().items() if pk in written} == {pk: {soon} for pk in written}
        assert expiries()[f"run#{RUN}"] == {soon, soon + 3 * DAY}


def test_many_large_records_are_read_page_by_page(ministack: str) -> None:
    """A Query returns 1 MB at most."""
    reset_ministack(ministack)
    resources = new_resources(ministack)
    backend = open_aws(resources, clock=VirtualClock(NOW), clients=AwsClients(resources, session()))
    log = StreamLog(backend.streams, RUN, "main", Source(step="step_1", attempt=1, execution="1"), replace=False)
    log.open(to_write=True)
    for number in range(40):
        assert log.append_chunks(log.nonce(), [Piece(b"%02d" % number + bytes(range(256)) * 400, True)])
    reader = StreamReader(backend.streams, RUN, "main")
    found: list[bytes] = []
    while items := reader.read(7):
        found += [item.data[:2] for item in items if isinstance(item, ChunkData)]
    assert found == [b"%02d" % number for number in range(40)]
    backend.close()
