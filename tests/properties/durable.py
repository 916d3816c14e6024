"""The engine, with time that is exact: a step's outcome arrives when its virtual duration is over, to the microsecond.

The driver leases every message as soon as it is sent and handles it at its moment: a step's message when the step
would be over, everything else when it is due. So `handle` (the path of short-lived invocations) finds the clock where
plain asyncio would have it.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
from collections.abc import Awaitable, Iterable
from typing import Any, Literal

import everstep
from everstep import RetryPolicy, Workflows, get_step_metadata
from everstep.assembly import use_connection
from everstep.backends.memory import open_memory
from everstep.client import start_sync
from everstep.core.history import Micros
from everstep.core.messages import ExecuteStep, Message
from everstep.ports import Unreadable
from everstep.runtime.connection import Connection
from everstep.runtime.handle import StepRunner, handle
from everstep.testing.clock import VirtualClock
from everstep.testing.history import History, replay
from everstep.testing.oracles import FOREVER, outcome, violations
from tests.properties.language import RETRY_SECONDS, Interpreter, Node

Mode = Literal["warm", "cold", "verify"]
MESSAGES = 20_000

wf = Workflows()


@wf.step
async def work(number: int, ms: int) -> int:
    return number


@wf.step
def work_in_thread(number: int, ms: int) -> int:
    return number


@wf.step(max_retries=0)
async def fail(number: int, ms: int) -> int:
    raise ValueError(f"step {number}")


@wf.step(retry=RetryPolicy(first_delay=RETRY_SECONDS, jitter="none"))
async def flaky(number: int, ms: int) -> int:
    if get_step_metadata().attempt == 1:
        raise ConnectionError("not yet")
    return number


STEPS = {"work": work, "thread": work_in_thread, "fail": fail, "flaky": flaky}


class DurablePlatform:
    def step(self, kind: str, number: int, ms: int) -> Awaitable[int]:
        return STEPS[kind](number, ms)

    def sleep(self, seconds: float) -> Awaitable[None]:
        return everstep.sleep(seconds)

    def as_completed(self, aws: list[Any]) -> Iterable[Awaitable[Any]]:
        return everstep.as_completed(aws)


@wf.workflow
async def program(tree: str) -> str:
    return await Interpreter(DurablePlatform()).main(json.loads(tree))


RUNNER = StepRunner()


def run_durable(tree: Node, mode: Mode) -> tuple[str, History]:
    """The program's outcome and trace, and its history.

    Args: mode: with the live instance kept warm, thrown away after every message, or replayed at every turn by the
    engine.
    """
    clock, chance, order = VirtualClock(), random.Random(0), itertools.count()
    backend = open_memory(atomic_units=False)
    connection = Connection(backend, clock, entropy=chance.randbytes, chance=chance.random)
    engine = connection.engine(wf, verify=mode == "verify")
    pending: list[tuple[Micros, int, str, str, Message]] = []
    with use_connection(connection):
        run = start_sync(program, json.dumps(tree))
        backend.source.register("driver", until=FOREVER)
        for _ in range(MESSAGES):
            for sent in backend.source.receive("driver", limit=10_000, now=FOREVER - 1):
                assert not isinstance(sent.message, Unreadable)
                moment = max(sent.due, clock.now()) + _duration(sent.message)
                heapq.heappush(pending, (moment, next(order), sent.message_id, sent.root_id, sent.message))
            if not pending:
                break
            moment, _, message_id, root_id, message = heapq.heappop(pending)
            clock.set(moment)
            handle(engine, message, RUNNER, root_id=root_id)
            backend.source.acknowledge([message_id])
            if mode == "cold":
                engine.live.clear()
        else:
            raise AssertionError(f"it does not end within {MESSAGES} messages")
    engine.live.clear()
    history = History.read(backend, run.run_id)
    wrong = violations(history)
    assert not wrong, wrong
    kind, found = outcome(history.run)
    assert kind == "completed", (kind, found)
    assert replay(wf, history) == found
    return found, history


def _duration(message: Message) -> Micros:
    if not isinstance(message, ExecuteStep):
        return 0
    ms: int = json.loads(message.input)["ms"]
    return ms * 1000
