"""Workers that die at calls of their store, and workers that race, with the run store of AWS.

The corpus, the deaths and what must hold are those of `tests.simulation`; there every call of every program is tried.
Here fewer are: they test the store, not the runtime.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from moto import mock_aws

from everstep.assembly import SystemClock, use_connection
from everstep.backends.aws import AwsClients, open_aws
from everstep.backends.memory import open_memory
from everstep.client import start_sync
from everstep.core.run import RunStatus
from everstep.ports import Unreadable
from everstep.runtime.connection import Connection
from everstep.runtime.handle import StepRunner, handle
from everstep.testing.clock import VirtualClock
from everstep.testing.oracles import chain_of, examine, outcome
from tests.aws.backend import test_programs
from tests.aws.backend.provisioned import new_resources, session
from tests.aws.backend.wire import tapped
from tests.aws.servers.emulator import reset_ministack
from tests.simulation.crashing import Trial
from tests.simulation.programs import PROGRAMS, ends_well, wf

STRIDE = 11


class AwsStore:
    """A store that can lose a process, as `tests.simulation.crashing.Store` is."""

    kind = "aws"

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.backend, _ = tapped(new_resources(None), self.clock)

    def lose(self, worker: str) -> None:
        self.backend.source.kill(worker)  # type: ignore[attr-defined]
        self.backend.source.recover(now=self.clock.now())


@pytest.mark.parametrize("program", PROGRAMS[::3], ids=lambda program: program.name)
def test_crashes(program: Any) -> None:
    with mock_aws():
        smooth = Trial(AwsStore(), None)  # type: ignore[arg-type]
        smooth.go(program)
        for call in range(1 + PROGRAMS.index(program) % STRIDE, smooth.process.calls + 1, STRIDE):
            store = AwsStore()
            trial = Trial(store, ("before", call))  # type: ignore[arg-type]
            run_id = trial.go(program)
            wrong = examine(wf, store.backend, run_id, trial.registry.bodies, disturbed=True)
            ended = outcome(chain_of(store.backend, run_id)[-1].run)
            assert not wrong, f"death before call {call} ({smooth.process.labels[call - 1]}): {wrong}"
            assert ends_well(program.name, ended, disturbed=True), f"death before call {call}: {ended}"


@pytest.mark.parametrize("duplicates", [1, 3])
def test_workers_race(ministack: str, duplicates: int) -> None:
    """Six workers, each with clients of its own, on one run; with `duplicates` each message is handled so often."""
    reset_ministack(ministack)
    resources = new_resources(ministack)
    clock, memory, count, workers = SystemClock(), open_memory(atomic_units=False), 60, 6
    lock, handled = threading.Lock(), Counter[str]()
    numbers = iter(range(1_000_000))

    def connect(number: int) -> Connection:
        backend = open_aws(resources, clock=clock, clients=AwsClients(resources, session()))
        chance = random.Random(number)
        backend = replace(backend, queue=memory.queue, source=memory.source)
        return Connection(backend, clock, entropy=chance.randbytes, chance=chance.random)

    connections = [connect(number) for number in range(workers)]
    with use_connection(connections[0]):
        run = start_sync(test_programs.fan_out, count)

    def work(number: int) -> None:
        connection, runner = connections[number], StepRunner()
        engine = connection.engine(test_programs.wf)
        while True:
            worker = f"worker-{next(numbers)}"
            memory.source.register(worker, until=1 << 62)
            deliveries = memory.source.receive(worker, limit=1, now=clock.now())
            if not deliveries:
                record = connection.backend.inspector.get_run(run.run_id)
                if record is not None and record.closed:
                    break
            for delivery in deliveries:
                assert not isinstance(delivery.message, Unreadable)
                with use_connection(connection):
                    handle(engine, delivery.message, runner, root_id=delivery.root_id, receives=delivery.receives)
                with lock:
                    handled[delivery.message_id] += 1
                    again = handled[delivery.message_id] < duplicates
                if again:
                    memory.source.kill(worker)  # type: ignore[attr-defined]
                    memory.source.recover(now=clock.now())
                else:
                    memory.source.acknowledge([delivery.message_id])
        runner.close()

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers), timeout=60))
    backend = connections[0].backend
    record = backend.inspector.get_run(run.run_id)
    assert record is not None
    assert (record.status, record.result) == (RunStatus.COMPLETED, b"%d" % sum(range(count)))
    history = backend.inspector.history(run.run_id)
    assert [turn.number for turn in history] == list(range(len(history)))
    consumed = [event.op for turn in history for event in turn.events if hasattr(event, "op")]
    assert sorted(consumed) == list(range(count))
    assert len(history) <= count
    for connection in connections:
        connection.close()
