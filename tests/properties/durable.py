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
from collections import deque
from collections.abc import Awaitable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal

import everstep
from everstep import RetryPolicy, Workflows, get_step_metadata
from everstep.assembly import use_connection
from everstep.backends.memory import open_memory
from everstep.client import start_sync
from everstep.core.history import HookReceived, Micros
from everstep.core.messages import ExecuteStep, Message
from everstep.errors import HookNotFoundError
from everstep.ports import Backend, HookClaim, RunQuery, Unreadable
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

    def hook(self, payloads: list[tuple[int, int]]) -> AbstractAsyncContextManager[Awaitable[int]]:
        return everstep.create_hook(type=int, metadata=[[ms, payload] for ms, payload in payloads])

    def child(self, tree: Node) -> Awaitable[Any]:
        return child(json.dumps(tree))


@wf.workflow
async def program(tree: str) -> str:
    return await Interpreter(DurablePlatform()).main(json.loads(tree))


@wf.workflow
async def child(tree: str) -> Any:
    return await Interpreter(DurablePlatform()).run(json.loads(tree))


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
    pending: list[tuple[Micros, int, str, str, Message | HookReceived]] = []
    claimed = seen_claims(backend)
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
            if isinstance(message, HookReceived):
                send(connection, message_id, message.payload)
                continue
            handle(engine, message, RUNNER, root_id=root_id)
            backend.source.acknowledge([message_id])
            while claimed:
                hook = claimed.popleft()
                for ms, payload in json.loads(hook.metadata or b""):
                    received = HookReceived(op=hook.op, key="", payload=b"%d" % payload)
                    heapq.heappush(pending, (clock.now() + ms * 1000, next(order), hook.token, "", received))
            if mode == "cold":
                engine.live.clear()
        else:
            raise AssertionError(f"it does not end within {MESSAGES} messages")
    engine.live.clear()
    histories = [History.read(backend, each.run_id) for each in backend.inspector.list_runs(RunQuery(limit=1000)).runs]
    for each in histories:
        wrong = violations(each)
        assert not wrong, wrong
    history = next(each for each in histories if each.run.run_id == run.run_id)
    kind, found = outcome(history.run)
    assert kind == "completed", (kind, found)
    assert replay(wf, history) == found
    return found, history


def seen_claims(backend: Backend) -> deque[HookClaim]:
    """The hooks as they are opened: whoever is to send to them learns of it at once."""
    seen: deque[HookClaim] = deque()
    claim = backend.hooks.claim

    def claim_and_tell(hook: HookClaim) -> HookClaim | None:
        if backend.hooks.find(hook.token) is None:
            seen.append(hook)
        return claim(hook)

    backend.hooks.claim = claim_and_tell  # type: ignore[method-assign, assignment]
    return seen


def send(connection: Connection, token: str, payload: bytes) -> None:
    try:
        connection.resume_hook(token, payload)
    except HookNotFoundError:  # it has been closed
        pass


def _duration(message: Message) -> Micros:
    if not isinstance(message, ExecuteStep):
        return 0
    ms: int = json.loads(message.input)["ms"]
    return ms * 1000
