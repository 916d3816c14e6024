"""What each call costs: requests, and write units of small items. Sizes and prices as the docstrings say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from moto import mock_aws

from everstep.backends.aws import AwsClients, open_aws
from everstep.codec.stream_records import encode_entry
from everstep.core.run import Closed, Parked, RunStatus, Started, Unparked
from everstep.core.streams import Chunks, Piece, Source
from everstep.ports import Backend, FailedAttempt, RunQuery, StreamRecord
from everstep.testing.clock import VirtualClock
from everstep.testing.contracts.samples import MINUTE, NOW, entry, outgoing, problem, run_id, run_record, turn
from everstep.testing.contracts.stream_store import record
from tests.aws.backend.provisioned import new_resources, session
from tests.aws.backend.wire import Wire

RUN = run_id()
FAILED = FailedAttempt(op=0, attempt=1, started_at=NOW, ended_at=NOW, error=b"{}", retry_at=NOW)
CLOSED = Closed(at=NOW, status=RunStatus.COMPLETED, result=b"1")


def other(first: int) -> StreamRecord:
    return record(first, nonce="other")


def tokens(count: int) -> StreamRecord:
    """A batch of words, as a model writes them."""
    source = Source(step="step_1", attempt=1, execution="n0nce.7")
    pieces = tuple(Piece(b'"%s"' % b"abcdefghijklm"[n % 9 : n % 9 + 4], False) for n in range(count))
    body = encode_entry(Chunks(source=source, replaceable=False, view=0, pieces=pieces))
    return StreamRecord(first=1, nonce="mine", body=body)


@pytest.fixture
def opened() -> Iterator[tuple[Backend, Wire]]:
    with mock_aws():
        resources = new_resources(None)
        clients = AwsClients(resources, session())
        wire = Wire()
        wire.watch(clients)
        yield open_aws(resources, clock=VirtualClock(NOW), clients=clients), wire


CALLS: list[tuple[str, Callable[[Backend], Any], dict[str, int], int]] = [
    ("create", lambda b: b.runs.create(run_record(9)), {"PutItem": 1}, 2),
    ("create, refused", lambda b: b.runs.create(run_record()), {"PutItem": 1}, 2),
    ("load cold", lambda b: b.runs.load(RUN), {"Query": 1}, 0),
    ("load warm", lambda b: b.runs.load(RUN, first_turn=3), {"Query": 1}, 0),
    ("load what is not there", lambda b: b.runs.load(run_id(8)), {"Query": 1}, 0),
    ("append", lambda b: b.runs.append(RUN, turn(3)), {"PutItem": 1}, 1),
    ("append, lost", lambda b: b.runs.append(RUN, turn(1, nonce="other")), {"PutItem": 1}, 1),
    ("mark started", lambda b: b.runs.mark(RUN, Started(at=NOW)), {}, 0),
    ("mark closed", lambda b: b.runs.mark(RUN, CLOSED), {"UpdateItem": 1}, 0),
    ("mark parked", lambda b: b.runs.mark(RUN, Parked(problem=problem())), {"UpdateItem": 1}, 0),
    ("mark unparked", lambda b: b.runs.mark(RUN, Unparked()), {"UpdateItem": 1}, 0),
    ("deposit", lambda b: b.inbox.deposit(RUN, entry(5)), {"PutItem": 1}, 1),
    ("deposit again", lambda b: b.inbox.deposit(RUN, entry()), {"PutItem": 1}, 1),
    ("remove none", lambda b: b.inbox.remove(RUN, []), {}, 0),
    ("remove one", lambda b: b.inbox.remove(RUN, [entry().key]), {"DeleteItem": 1}, 0),
    ("remove 60", lambda b: b.inbox.remove(RUN, [f"{n}" for n in range(60)]), {"BatchWriteItem": 3}, 0),
    ("raise flag", lambda b: b.inbox.raise_flag(RUN, now=NOW), {"PutItem": 1}, 1),
    ("lower flag", lambda b: b.inbox.lower_flag(RUN), {"PutItem": 1}, 1),
    ("record", lambda b: b.steps.record(RUN, FAILED), {"PutItem": 1}, 1),
    ("claim", lambda b: b.steps.claim(RUN, 0, 1), {"PutItem": 1}, 1),
    ("failed attempts", lambda b: b.steps.failed_attempts(RUN), {"Query": 1}, 0),
    ("get run", lambda b: b.inspector.get_run(RUN), {"GetItem": 1}, 0),
    ("get run that has not begun", lambda b: b.inspector.get_run(run_id(1)), {"GetItem": 2}, 0),
    ("get run that is not there", lambda b: b.inspector.get_run(run_id(8)), {"GetItem": 1}, 0),
    ("history", lambda b: b.inspector.history(RUN), {"Query": 1}, 0),
    ("list", lambda b: b.inspector.list_runs(RunQuery()), {"Scan": 1, "BatchGetItem": 2}, 0),
    ("parked", lambda b: b.inspector.parked(not_by=""), {"Query": 4}, 0),
    ("send 10", lambda b: b.queue.send([outgoing(n) for n in range(10)]), {"SendMessageBatch": 1}, 0),
    ("send 11", lambda b: b.queue.send([outgoing(n) for n in range(11)]), {"SendMessageBatch": 2}, 0),
    ("send for later", lambda b: b.queue.send([outgoing(due=NOW + 16 * MINUTE)]), {"CreateSchedule": 1}, 0),
    ("discard", lambda b: b.queue.discard(["timer/x/1"]), {"DeleteSchedule": 1}, 0),
    ("append to a stream", lambda b: b.streams.append(RUN, "main", record(1)), {"PutItem": 1}, 1),
    ("append to a new stream", lambda b: b.streams.append(RUN, "new", record(0)), {"PutItem": 2}, 2),
    ("append to a stream, lost", lambda b: b.streams.append(RUN, "main", other(0)), {"PutItem": 2}, 2),
    ("append 200 chunks of 5 bytes", lambda b: b.streams.append(RUN, "main", tokens(200)), {"PutItem": 1}, 1),
    ("enter a stream", lambda b: b.streams.enter(RUN, "main", "step_1", 1), {"PutItem": 1}, 1),
    ("find the end of a stream", lambda b: b.streams.find(RUN, "main"), {"Query": 1}, 0),
    ("find a position", lambda b: b.streams.find(RUN, "main", 7), {"Query": 1}, 0),
    ("read a stream", lambda b: b.streams.read(RUN, "main", first=0, limit=16), {"Query": 1}, 0),
    ("read where nothing is", lambda b: b.streams.read(RUN, "main", first=1, limit=16), {"Query": 1}, 0),
    ("list streams", lambda b: b.streams.names(RUN), {"Query": 1}, 0),
    ("unit", lambda b: b.unit().__enter__(), {}, 0),
]


@pytest.mark.parametrize(("call", "requests", "units"), [case[1:] for case in CALLS], ids=[case[0] for case in CALLS])
def test_requests_and_write_units(
    opened: tuple[Backend, Wire], call: Callable[[Backend], Any], requests: dict[str, int], units: int
) -> None:
    backend, wire = opened
    for number in range(2):
        backend.runs.create(run_record(number))
    for number in range(3):
        backend.runs.append(RUN, turn(number))
    backend.inbox.deposit(RUN, entry())
    backend.streams.append(RUN, "main", record(0))
    wire.clear()
    call(backend)
    assert wire.requests == requests
    assert wire.put_units() == units


def test_a_list_key_does_not_change_when_a_run_closes_or_starts(opened: tuple[Backend, Wire]) -> None:
    """So that the index is written once in a run's life: a change of what is not in an index costs nothing there."""
    backend, wire = opened
    backend.runs.create(run_record())
    wire.clear()
    backend.runs.mark(RUN, CLOSED)
    [(_, given)] = wire.parameters
    changed = set(given["ExpressionAttributeNames"].values())
    assert changed == {"status", "completed", "result", "problem", "parked_pk", "parked_sk", "paused"}


def test_a_load_of_several_pages(opened: tuple[Backend, Wire]) -> None:
    backend, wire = opened
    backend.runs.create(run_record())
    incompressible = bytes(range(256)) * 1000
    from everstep.core.history import StepCompleted

    for number in range(8):
        noise = bytes((byte * (number + 3) + position // 256) % 251 for position, byte in enumerate(incompressible))
        backend.runs.append(RUN, turn(number, events=(StepCompleted(op=0, attempt=1, result=noise),)))
    backend.inbox.deposit(RUN, entry())
    wire.clear()
    snapshot = backend.runs.load(RUN)
    assert snapshot is not None
    assert [item.number for item in snapshot.turns] == list(range(8))
    assert list(snapshot.inbox) == [entry()]


def test_a_record_and_a_turn_are_within_one_unit(opened: tuple[Backend, Wire]) -> None:
    """With room for the input and outcomes of a small step."""
    backend, wire = opened
    backend.runs.create(run_record(input=b"[" + b"1" * 500 + b"]", attributes={"customer": "17"}))
    backend.runs.append(RUN, turn(commands=turn().commands * 5))
    assert wire.put_units() == 3
