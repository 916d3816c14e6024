"""What streams do, whatever they are stored in: a class of tests for each backend to subclass."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pytest

from everstep import (
    Chunk,
    ContextError,
    Reset,
    RetryPolicy,
    Run,
    SerializationError,
    StreamClosedError,
    StreamInfo,
    TypeValidationError,
    WorkflowRunFailedError,
    WorkflowRunNotFoundError,
    Workflows,
    Writable,
    continue_as_new,
    get_run,
    get_step_metadata,
    get_writable,
    read_stream,
    sleep,
    start,
)
from everstep.assembly import use_connection
from everstep.core.streams import MAX_BATCH_BYTES, MAX_CHUNK_BYTES
from everstep.errors import ConfigurationError, StoreBusyError, StoreError
from everstep.ports import Backend
from everstep.runtime.connection import Connection
from everstep.runtime.handle import StepRunner, handle
from everstep.runtime.stream_reading import ChunkData
from everstep.testing import WorkflowEnvironment
from everstep.testing.clock import VirtualClock
from everstep.testing.environment import WORKER
from everstep.testing.watching import Crash, Hook, Moment, watched

T = TypeVar("T")
Make = Callable[..., WorkflowEnvironment]
NOW = RetryPolicy(first_delay=0)


async def gathered(values: AsyncIterable[T]) -> list[T]:
    return [value async for value in values]


def values_of(run: Run[Any], **options: Any) -> list[Any]:
    return asyncio.run(gathered(run.readable(**options)))


def applied(items: list[Any], to: list[Any] | None = None) -> list[Any]:
    """What a reader has who keeps a list, cuts it at each reset and goes on at each index."""
    kept = [] if to is None else list(to)
    for item in items:
        if isinstance(item, Reset):
            del kept[item.index :]
        else:
            assert item.index == len(kept)
            kept.append(item.value)
    return kept


@dataclass
class Progress:
    done: int
    of: int


@dataclass
class Order:
    name: str
    out: Writable[str]


class Gate:
    """Lets a step in a worker's loop and a test in another wait for each other, once for each number."""

    def __init__(self) -> None:
        self._events: dict[int, threading.Event] = {}

    def _event(self, number: int) -> threading.Event:
        return self._events.setdefault(number, threading.Event())

    def open(self, number: int) -> None:
        self._event(number).set()

    async def passed(self, number: int) -> None:
        assert await asyncio.to_thread(self._event(number).wait, 30)


class StreamBehaviour:
    @pytest.fixture
    def backend(self) -> Iterator[Backend]:
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> VirtualClock:
        return VirtualClock()

    @pytest.fixture
    def app(self) -> Workflows:
        return Workflows()

    @pytest.fixture
    def make(self, app: Workflows, backend: Backend, clock: VirtualClock) -> Make:
        """Makes environments on the one store; with a hook, that of a process that is watched."""

        def make(hook: Hook | None = None, **options: Any) -> WorkflowEnvironment:
            seen = replace(backend if hook is None else watched(backend, hook), close=lambda: None)
            return WorkflowEnvironment(app, backend=seen, clock=clock, **options)

        return make

    # --- writing and reading -----------------------------------------------------------------------

    def test_what_a_step_writes_is_read_in_order(self, app: Workflows, make: Make) -> None:
        @app.step
        async def count(upto: int) -> int:
            out = get_writable(type=int)
            for number in range(upto):
                await out.write(number)
            return upto

        @app.workflow
        async def body() -> int:
            return await count(5) + await count(3)

        with make() as env:
            run = env.start(body)
            assert run.wait() == 8
            assert values_of(run, type=int) == [0, 1, 2, 3, 4, 0, 1, 2]
            assert asyncio.run(gathered(read_stream(run.run_id, start_index=6))) == [1, 2]
            assert asyncio.run(run.stream_info()) == StreamInfo(name="main", tail_index=7, closed=True)
            assert asyncio.run(run.list_streams()) == ["main"]

    def test_a_def_step_writes_too(self, app: Workflows, make: Make) -> None:
        @app.step
        def count(out: Writable[int]) -> None:
            for number in range(2500):
                out.write_sync(number)
            out.drain_sync()
            with get_writable(type=str, namespace="log") as log:
                log.write_sync("done")

        @app.workflow
        async def body() -> None:
            await count(get_writable())

        with make() as env:
            run = env.start(body)
            env.run_until_closed(run)
            assert values_of(run) == list(range(2500))
            assert values_of(run, namespace="log") == ["done"]

    def test_values_are_typed(self, app: Workflows, make: Make) -> None:
        @app.step
        async def work(out: Writable[Progress]) -> None:
            await out.write(Progress(1, 2))
            with pytest.raises(TypeValidationError, match="a chunk of stream 'progress'"):
                await out.write("half")  # type: ignore[arg-type]
            await out.write_from([Progress(2, 2)])

        @app.workflow
        async def body() -> None:
            await work(get_writable(type=Progress, namespace="progress"))

        with make() as env:
            run = env.start(body)
            run.wait()
            assert values_of(run, namespace="progress") == [{"done": 1, "of": 2}, {"done": 2, "of": 2}]
            assert values_of(run, namespace="progress", type=Progress) == [Progress(1, 2), Progress(2, 2)]
            with pytest.raises(TypeValidationError, match=f"a chunk of stream 'progress' of run {run.run_id}"):
                values_of(run, namespace="progress", type=int)

    def test_bytes_are_stored_as_they_are(self, app: Workflows, make: Make) -> None:
        blobs = [b"", b"zlib:\x00\xff", b"[1]", bytes(range(256)) * 300, b"\n"]

        @app.step
        async def work() -> None:
            async def source() -> Any:
                for blob in blobs:
                    yield blob

            out = get_writable(type=bytes)
            await out.write_from(source())
            await out.write(bytearray(b"array"))  # type: ignore[arg-type]
            await out.with_type(str).write("text")

        @app.workflow
        async def body() -> None:
            await work()

        with make() as env:
            run = env.start(body)
            run.wait()
            assert asyncio.run(gathered(run.readable_bytes())) == [*blobs, b"array", b'"text"']
            assert values_of(run, type=bytes, start_index=0)[:5] == blobs
            assert values_of(run)[-2:] == [b"array", "text"]
            with pytest.raises(TypeValidationError, match="is raw bytes"):
                values_of(run, type=str)

    def test_chunks_can_be_read_while_the_step_runs(self, app: Workflows, make: Make, backend: Backend) -> None:
        """Without a drain: the reader waits for the first, and the step for the reader."""
        gate = Gate()

        @app.step
        async def talk() -> None:
            out = get_writable(type=int)
            for number in range(3):
                await out.write(number)
                await gate.passed(number)

        @app.workflow
        async def body() -> None:
            await talk()

        async def read(run: Run[None]) -> list[int]:
            seen: list[int] = []
            async for value in run.readable():
                seen.append(value)
                gate.open(value)
            return seen

        with make() as env:
            run = env.start(body)
            with beside(env, run):
                assert asyncio.run(read(outside(backend, run))) == [0, 1, 2]

    def test_a_reader_waits_for_what_comes(self, app: Workflows, make: Make) -> None:
        @app.step
        async def talk(number: int) -> None:
            await get_writable().write(number)

        @app.workflow
        async def body() -> None:
            for number in range(3):
                await talk(number)
                await sleep("1 day")

        with make() as env:
            run = env.start(body)
            assert values_of(run) == [0, 1, 2]  # the reader itself moves the environment on
            assert asyncio.run(run.status()) == "completed"

    def test_writers_at_once_keep_their_own_order(self, app: Workflows, make: Make) -> None:
        @app.step
        async def talk(who: int) -> None:
            out = get_writable()
            for number in range(20):
                await out.write([who, number])
                if number % 3 == 0:
                    await out.drain()

        @app.workflow
        async def body() -> None:
            await asyncio.gather(*(talk(who) for who in range(8)))

        with make() as env:
            run = env.start(body)
            run.wait()
            items = asyncio.run(gathered(run.chunks()))
        assert [item.index for item in items] == list(range(160))
        for who in range(8):
            assert [item.value[1] for item in items if item.value[0] == who] == list(range(20))  # type: ignore[union-attr]

    def test_tasks_of_a_step_share_its_stream(self, app: Workflows, make: Make) -> None:
        @app.step
        async def talk() -> None:
            async def one(who: int) -> None:
                out = get_writable()
                for number in range(50):
                    await out.write([who, number, "x" * 400])

            await asyncio.gather(*(one(who) for who in range(10)))

        @app.workflow
        async def body() -> None:
            await talk()

        with make() as env:
            run = env.start(body)
            run.wait()
            values = values_of(run)
        assert len(values) == 500
        for who in range(10):
            assert [number for of, number, _ in values if of == who] == list(range(50))

    # --- where to begin ----------------------------------------------------------------------------

    def test_reading_begins_at_every_index(self, app: Workflows, make: Make, backend: Backend) -> None:
        @app.step
        async def talk(begin: int, end: int) -> None:
            out = get_writable()
            for number in range(begin, end):
                await out.write(number)
                if number % 3 == 0:
                    await out.drain()

        @app.workflow
        async def body() -> None:
            await talk(0, 5)
            await talk(5, 12)

        with make() as env:
            run = env.start(body)
            run.wait()
            for begin in range(-15, 15):
                assert values_of(run, start_index=begin) == list(range(12))[begin:]
            items = asyncio.run(gathered(run.chunks()))
            assert items == [Chunk(index=number, id=f"{number}", value=number) for number in range(12)]
            for number, item in enumerate(items):
                assert asyncio.run(gathered(run.chunks(after=item.id))) == items[number + 1 :]
            for size in (1, 2, 5, 12, 100):
                pages: list[Any] = []
                done = False
                while not done:
                    page = env.connection.read_chunks(run.run_id, "main", len(pages), size)
                    assert len(page.items) <= size
                    assert page.tail_index == 11
                    pages += [item.data for item in page.items if isinstance(item, ChunkData)]
                    done = page.done
                assert pages == [b"%d" % number for number in range(12)]

    def test_the_tail_of_a_stream_that_grows(self, app: Workflows, make: Make) -> None:
        @app.step
        async def talk(number: int) -> None:
            await get_writable().write(number)

        @app.workflow
        async def body() -> None:
            for number in range(6):
                await talk(number)

        async def follow(run: Run[None]) -> list[int]:
            return await gathered(run.readable(start_index=-2))

        with make() as env:
            run = env.start(body)
            env.run_until_idle(lambda: env.connection.read_chunks(run.run_id, "main").tail_index == 3)
            assert asyncio.run(run.stream_info()) == StreamInfo(name="main", tail_index=3, closed=False)
            assert asyncio.run(follow(run)) == [2, 3, 4, 5]

    def test_wrong_places(self, app: Workflows, make: Make) -> None:
        @app.step
        async def talk() -> None:
            await get_writable().write(1)

        @app.workflow
        async def body() -> None:
            await talk()

        with make() as env:
            run = env.start(body)
            run.wait()
            for wrong in ("", "x", "-2", "1.", "0.7", "9" * 13, "0.0.0"):
                with pytest.raises(ConfigurationError, match="is not the id of a chunk of stream 'main'"):
                    asyncio.run(gathered(run.chunks(after=wrong)))
            for limit in (0, 1001):
                with pytest.raises(ConfigurationError, match="limit must be from 1 to 1000"):
                    env.connection.read_chunks(run.run_id, "main", 0, limit)
            unknown = get_run("wrun_01ARZ3NDEKTSV4RRFFQ69G5FAV")
            for ask in (
                lambda: gathered(unknown.readable()),
                lambda: gathered(unknown.chunks(start_index=-3)),
                unknown.stream_info,
                unknown.list_streams,
            ):
                with pytest.raises(WorkflowRunNotFoundError):
                    asyncio.run(ask())
            with pytest.raises(WorkflowRunNotFoundError):
                read_stream("nonsense")

    # --- closing -----------------------------------------------------------------------------------

    def test_a_closed_stream_ends_before_its_run(self, app: Workflows, make: Make) -> None:
        @app.step
        async def talk() -> None:
            async with get_writable() as out:
                await out.write(1)

        @app.workflow
        async def body() -> None:
            await talk()
            await sleep("1 day")

        with make() as env:
            run = env.start(body)
            assert values_of(run) == [1]
            assert asyncio.run(run.status()) == "running"
            assert asyncio.run(run.stream_info()) == StreamInfo(name="main", tail_index=0, closed=True)
            assert asyncio.run(run.stream_info(namespace="other")) == StreamInfo(
                name="other", tail_index=-1, closed=False
            )
            assert values_of(run, namespace="other") == []  # ends with the run

    def test_nothing_is_written_after_a_close(self, app: Workflows, make: Make) -> None:
        @app.step
        async def close() -> None:
            out = get_writable()
            await out.write(1)
            await out.close()
            with pytest.raises(StreamClosedError):
                await out.write(2)
            await get_writable(namespace="empty").close()

        @app.step
        async def write(namespace: str) -> None:
            await get_writable(namespace=namespace).write(3)

        @app.step
        async def close_again() -> None:
            await get_writable().close()

        @app.workflow
        async def body() -> str:
            await close()
            await close_again()
            with pytest.raises(StreamClosedError) as refused:
                await write("main")
            assert refused.value.stream == "main"
            await write("main")
            return ""

        with make() as env:
            run = env.start(body)
            with pytest.raises(WorkflowRunFailedError, match="stream 'main' of run wrun_.* is closed") as caught:
                run.wait()
            assert isinstance(caught.value.__cause__, StreamClosedError)
            assert values_of(run) == [1]
            assert values_of(run, namespace="empty") == []
            assert asyncio.run(run.list_streams()) == ["empty", "main"]

    def test_a_step_that_handles_the_refusal_goes_on(self, app: Workflows, make: Make) -> None:
        @app.step
        async def close() -> None:
            await get_writable().close()

        @app.step
        async def write() -> str:
            out = get_writable()
            await out.write(1)
            try:
                await out.drain()
            except StreamClosedError:
                return "closed"
            return "open"

        @app.workflow
        async def body() -> str:
            await close()
            return await write()

        with make() as env:
            assert env.run(body) == "closed"

    @pytest.mark.parametrize("on_retry", ["keep", "discard"])
    def test_a_step_that_closed_may_write_again_when_it_is_tried_again(
        self, app: Workflows, make: Make, on_retry: Any
    ) -> None:
        @app.step(retry=NOW)
        async def talk() -> None:
            attempt = get_step_metadata().attempt
            async with get_writable(on_retry=on_retry) as out:
                await out.write(attempt)
            if attempt < 3:
                raise ValueError("once more")

        @app.workflow
        async def body() -> None:
            await talk()

        with make() as env:
            run = env.start(body)
            env.run_until_closed(run)
            assert values_of(run) == ([1, 2, 3] if on_retry == "keep" else [3])
            assert asyncio.run(run.stream_info()) == StreamInfo(
                name="main", tail_index=2 if on_retry == "keep" else 0, closed=True
            )

    def test_an_exception_does_not_close(self, app: Workflows, make: Make) -> None:
        @app.step(retry=NOW)
        async def talk() -> None:
            async with get_writable() as out:
                await out.write(get_step_metadata().attempt)
                if get_step_metadata().attempt == 1:
                    raise ValueError("once more")

        @app.workflow
        async def body() -> None:
            await talk()

        with make() as env:
            run = env.start(body)
            env.run_until_closed(run)
            assert values_of(run) == [1, 2]

    # --- failing and trying again ------------------------------------------------------------------

    def test_a_step_that_fails_loses_nothing(self, app: Workflows, make: Make) -> None:
        @app.step(max_retries=0)
        async def talk() -> None:
            out = get_writable()
            await out.write("drained")
            await out.drain()
            await out.write("not drained")
            raise ValueError("no")

        @app.workflow
        async def body() -> None:
            await talk()

        with make() as env:
            run = env.start(body)
            with pytest.raises(WorkflowRunFailedError):
                run.wait()
            assert values_of(run) == ["drained", "not drained"]

    def test_kept_chunks_are_followed_by_those_of_the_next_attempt(self, app: Workflows, make: Make) -> None:
        @app.step(retry=NOW)
        async def talk() -> None:
            attempt = get_step_metadata().attempt
            await get_writable().write_from([attempt * 10, attempt * 10 + 1])
            if attempt < 3:
                raise ValueError("once more")

        @app.workflow
        async def body() -> None:
            await talk()

        with make() as env:
            run = env.start(body)
            env.run_until_closed(run)
            assert values_of(run) == [10, 11, 20, 21, 30, 31]

    def test_discarded_chunks_are_replaced(self, app: Workflows, make: Make) -> None:
        """Between the chunks of others, which stay."""

        @app.step
        async def other(name: str) -> None:
            await get_writable(on_retry="discard").write(name)

        @app.step(retry=RetryPolicy(first_delay="1h", cap="1 day", jitter="none"))
        async def talk() -> None:
            attempt = get_step_metadata().attempt
            out = get_writable(on_retry="discard")
            for number in range(attempt):
                await out.write(attempt * 10 + number)
            if attempt < 3:
                raise ValueError("once more")

        @app.workflow
        async def body() -> None:
            async def others() -> None:
                for number in range(1, 5):
                    await sleep("1h")
                    await other(f"other {number}")

            await other("first")
            await asyncio.gather(talk(), others())
            await other("last")

        with make() as env:
            run = env.start(body)
            live = asyncio.run(gathered(run.chunks()))
            final = asyncio.run(gathered(run.chunks()))
            expected = ["first", "other 1", "other 2", "other 3", 30, 31, 32, "other 4", "last"]
            assert sorted(map(str, expected)) == sorted(str(item.value) for item in final)  # type: ignore[union-attr]
            assert [item.index for item in final] == list(range(9))
            assert sum(isinstance(item, Reset) for item in live) == 2
            kept = [item.value for item in final]  # type: ignore[union-attr]
            assert applied(live) == kept
            for number, item in enumerate(live):  # whenever the connection is lost: gone on after the last id
                more = asyncio.run(gathered(run.chunks(after=item.id)))
                assert applied(more, applied(live[: number + 1])) == kept
            for begin in range(-10, 10):
                assert values_of(run, start_index=begin) == kept[begin:]
            assert asyncio.run(run.stream_info()) == StreamInfo(name="main", tail_index=8, closed=True)

    def test_a_reader_of_values_gets_each_chunk_once(self, app: Workflows, make: Make) -> None:
        @app.step
        async def other() -> None:
            await get_writable().write("other")

        @app.step(retry=RetryPolicy(first_delay="1h", cap="1 day", jitter="none"))
        async def talk() -> None:
            await get_writable(on_retry="discard").write(get_step_metadata().attempt)
            if get_step_metadata().attempt == 1:
                raise ValueError("once more")

        @app.workflow
        async def body() -> None:
            async def later() -> None:
                await sleep("30 min")
                await other()

            await asyncio.gather(talk(), later())

        with make() as env:
            run = env.start(body)
            assert values_of(run) == [1, "other", 2]
            assert values_of(run) == ["other", 2]

    def test_an_attempt_that_writes_nothing_discards_too(self, app: Workflows, make: Make) -> None:
        @app.step(retry=NOW)
        async def talk(out: Writable[int]) -> None:
            if get_step_metadata().attempt == 1:
                await out.write(1)
                raise ValueError("once more")

        @app.workflow
        async def body() -> None:
            await talk(get_writable(on_retry="discard"))

        with make() as env:
            run = env.start(body)
            env.run_until_closed(run)
            assert values_of(run) == []

    def test_a_closed_stream_stays_closed_when_chunks_are_discarded(self, app: Workflows, make: Make) -> None:
        """By a step that is tried again after another has closed the stream, and so cannot write."""

        @app.step(retry=RetryPolicy(first_delay="1h", cap="1 day"))
        async def talk() -> None:
            await get_writable(on_retry="discard").write(get_step_metadata().attempt)
            if get_step_metadata().attempt == 1:
                raise ValueError("once more")

        @app.step
        async def close() -> None:
            async with get_writable() as out:
                await out.write("end")

        @app.workflow
        async def body() -> None:
            talking = asyncio.ensure_future(talk())
            await close()
            with pytest.raises(StreamClosedError):
                await talking

        with make() as env:
            run = env.start(body)
            run.wait()
            assert values_of(run) == ["end"]
            assert asyncio.run(run.stream_info()) == StreamInfo(name="main", tail_index=0, closed=True)

    @pytest.mark.parametrize("on_retry", ["keep", "discard"])
    def test_a_worker_dies_between_chunks_and_outcome(
        self, app: Workflows, make: Make, backend: Backend, on_retry: Any
    ) -> None:
        """The message is delivered again, and the same attempt runs once more."""
        bodies: list[int] = []

        @app.step
        async def talk() -> None:
            bodies.append(get_step_metadata().attempt)
            await get_writable(on_retry=on_retry).write_from([len(bodies) * 10, len(bodies) * 10 + 1])

        @app.workflow
        async def body() -> None:
            await talk()

        dying = [True]

        def die(moment: Moment, call: str, args: tuple[Any, ...], _: Any) -> None:
            if moment == "after" and call == "streams.append" and dying:
                dying.clear()
                raise Crash

        with make(die) as env:
            run = env.start(body)
            with pytest.raises(Crash):
                env.run_until_idle()
        lose_worker(backend, env)
        with make() as env:
            env.run_until_idle()
            again = get_run(run.run_id)
            again.wait()
            assert bodies == [1, 1]
            assert values_of(again) == ([10, 11, 20, 21] if on_retry == "keep" else [20, 21])

    def test_a_lost_answer_writes_nothing_twice(self, app: Workflows, make: Make) -> None:
        """The store took the batch, but who wrote it was not told."""

        @app.step
        async def talk() -> None:
            out = get_writable(on_retry="discard")
            for number in range(10):
                await out.write(number)
                while True:
                    try:
                        await out.drain()
                        break
                    except StoreBusyError:
                        continue

        @app.workflow
        async def body() -> None:
            await talk()
            await talk()

        lost: Counter[str] = Counter()

        def lose(moment: Moment, call: str, args: tuple[Any, ...], _: Any) -> None:
            if call in ("streams.append", "streams.enter", "streams.find"):
                lost[moment + call] += 1
                if lost[moment + call] % 3 == 1:
                    raise StoreBusyError("no answer")

        with make(lose) as env:
            run = env.start(body)
            run.wait()
        with make() as env:
            assert values_of(get_run(run.run_id)) == [*range(10), *range(10)]

    def test_a_drain_that_fails_fails_the_attempt(self, app: Workflows, make: Make) -> None:
        @app.step(retry=NOW)
        async def talk() -> int:
            await get_writable().write(get_step_metadata().attempt)
            return get_step_metadata().attempt

        @app.workflow
        async def body() -> int:
            return await talk()

        broken = [StoreError("the disk is full"), StoreError("still"), *[StoreBusyError("busy")] * 2]

        def fail(moment: Moment, call: str, args: tuple[Any, ...], _: Any) -> None:
            if moment == "before" and call == "streams.append" and broken:
                raise broken.pop(0)

        with make(fail) as env:
            run = env.start(body)
            assert run.wait() == 3  # two attempts failed; the third was patient with a busy store
            assert values_of(run) == [3]
            attempts = env.connection.backend.steps.failed_attempts(run.run_id)
            assert [b"the disk is full" in attempts[0].error, b"still" in attempts[1].error] == [True, True]

    def test_what_a_quiet_flush_finds_is_told(self, app: Workflows, make: Make) -> None:
        failed = threading.Event()

        @app.step(max_retries=0)
        async def talk() -> None:
            out = get_writable()
            await out.write(1)
            assert await asyncio.to_thread(failed.wait, 30)
            while True:
                await out.write(2)
                await asyncio.sleep(0.001)

        @app.workflow
        async def body() -> None:
            await talk()

        def fail(moment: Moment, call: str, args: tuple[Any, ...], _: Any) -> None:
            if moment == "before" and call == "streams.append" and not failed.is_set():
                failed.set()
                raise StoreError("the disk is full")

        with make(fail) as env, pytest.raises(WorkflowRunFailedError, match="the disk is full"):
            env.run(body)

    def test_runs_of_one_attempt_that_overlap_leave_one_of_them(
        self, app: Workflows, make: Make, backend: Backend
    ) -> None:
        """As when a message is delivered twice: both write at once, and what is read is one of them, whole."""
        both = threading.Barrier(2, timeout=30)
        who = threading.local()

        @app.step
        async def talk() -> None:
            out = get_writable(on_retry="discard")
            name = who.name
            for number in range(5):
                await out.write([name, number])
                await out.drain()
                await asyncio.to_thread(both.wait)

        @app.workflow
        async def body() -> None:
            await talk()

        with make() as env:
            run = env.start(body)
            env.step()
            source = backend.source
            source.register("twin", until=1 << 62)
            [delivery] = source.receive("twin", limit=1, now=env.clock.now())

            def execute(number: int) -> None:
                who.name = number
                runner = StepRunner()
                with use_connection(env.connection):
                    handle(env.connection.engine(app), delivery.message, runner, root_id=run.run_id)  # type: ignore[arg-type]
                runner.close()

            with ThreadPoolExecutor(2) as pool:
                list(pool.map(execute, range(2)))
            source.acknowledge([delivery.message_id])
            env.run_until_idle()
            values = values_of(run)
        assert values in ([[name, number] for number in range(5)] for name in range(2))

    def test_a_late_duplicate_changes_nothing(self, app: Workflows, make: Make, backend: Backend) -> None:
        """The step's message comes once more when its outcome is recorded, and nothing tells that it is not new."""
        bodies: list[int] = []

        @app.step
        async def talk() -> None:
            bodies.append(1)
            await get_writable(on_retry="discard").write(len(bodies))

        @app.step
        async def other() -> None:
            await get_writable().write("other")

        @app.workflow
        async def body() -> None:
            await talk()
            await other()
            await sleep("1 day")

        with make() as env:
            run = env.start(body)
            env.step()
            source = backend.source
            source.register("twin", until=1 << 62)
            [delivery] = source.receive("twin", limit=1, now=env.clock.now())
            source.release("twin", [delivery.message_id])
            env.run_until_idle(lambda: len(env.history(run).turns) == 3)
            runner = StepRunner()
            with use_connection(env.connection):
                handle(env.engine, delivery.message, runner, root_id=run.run_id)  # type: ignore[arg-type]
            runner.close()
            assert values_of(run) == [1, "other"]
        assert len(bodies) == 2

    def test_a_function_that_went_on_is_ignored(self, app: Workflows, make: Make) -> None:
        """Its attempt took too long and was given up; the next one is done when it comes back to write."""
        go_on, over = threading.Event(), threading.Event()
        said: list[str] = []

        @app.step(timeout=0.2, retry=NOW)
        def talk(out: Writable[str]) -> None:
            out.write_sync(f"attempt {get_step_metadata().attempt}")
            if get_step_metadata().attempt == 1:
                assert go_on.wait(30)
                try:
                    out.write_sync("late")
                except ContextError as error:
                    said.append(str(error))
                over.set()

        @app.workflow
        async def body() -> None:
            await talk(get_writable(on_retry="discard"))

        with make() as env:
            run = env.start(body)
            run.wait()
            go_on.set()
            assert over.wait(30)
            assert values_of(run) == ["attempt 2"]
        assert "has ended" in said[0]

    # --- handles -----------------------------------------------------------------------------------

    def test_a_handle_goes_where_values_go(self, app: Workflows, make: Make, clock: VirtualClock) -> None:
        @app.step
        async def bare(out) -> Any:
            await out.write("bare")
            return out

        @app.step
        async def within(order: Order) -> None:
            await order.out.write(order.name)

        @app.workflow
        async def body() -> str:
            out = get_writable(type=str, namespace="log")
            again = await bare(out)
            assert again == out
            assert hash(again) == hash(out)
            assert again != get_writable()
            await within(Order("within", again))
            return repr(again)

        @app.workflow
        async def other(out: Writable[str]) -> None:
            await bare(out)

        async def program(run: Run[str]) -> None:
            out = Writable[str](run.run_id, namespace="log")
            await (await start(other, out)).return_value()

        with make(verify=True) as env:
            run = env.start(body)
            assert run.wait() == f"<stream 'log' of {run.run_id}>"
            asyncio.run(program(run))  # a step of another run
            assert values_of(run, namespace="log") == ["bare", "within", "bare"]

    def test_streams_belong_to_the_run_that_wrote_them(self, app: Workflows, make: Make) -> None:
        """A handle of a run that went on as a new one reads that of its own id, and ends with it."""

        @app.step
        async def talk(number: int) -> str:
            await get_writable().write(number)
            return get_step_metadata().run_id

        @app.workflow
        async def body(number: int = 0) -> str:
            run_id = await talk(number)
            if number < 2:
                continue_as_new(number + 1)
            return run_id

        with make() as env:
            run = env.start(body)
            assert values_of(run) == [0]
            newest = run.wait()
            assert values_of(run) == [0]
            assert values_of(get_run(newest)) == [2]

    def test_internal_streams_are_not_listed(self, app: Workflows, make: Make) -> None:
        @app.step
        async def talk() -> None:
            await get_writable().write(1)
            await Writable[int](get_step_metadata().run_id, namespace="$system").write(2)

        @app.workflow
        async def body() -> None:
            await talk()

        with make() as env:
            run = env.start(body)
            run.wait()
            assert asyncio.run(run.list_streams()) == ["main"]
            assert asyncio.run(run.list_streams(internal=True)) == ["$system", "main"]
            assert values_of(run, namespace="$system") == [2]

    # --- what is refused ---------------------------------------------------------------------------

    def test_a_body_has_only_a_handle(self, app: Workflows, make: Make) -> None:
        said: list[str] = []

        @app.workflow
        async def body() -> None:
            out = get_writable()
            for call in (out.write(1), out.write_from([1]), out.drain(), out.close(), out.__aenter__()):
                with pytest.raises(ContextError, match="in a workflow body .* pass it to a step") as caught:
                    await call
                said.append(str(caught.value))
            for blocking in (lambda: out.write_sync(1), out.drain_sync, out.close_sync, out.__enter__):
                with pytest.raises(ContextError, match="in a workflow body"):
                    blocking()
            with pytest.raises(ContextError, match="body"):
                read_stream("wrun_01ARZ3NDEKTSV4RRFFQ69G5FAV")

        with make() as env:
            env.run(body)
        assert "(write)" in said[0]

    def test_outside_of_steps(self, app: Workflows, make: Make) -> None:
        with pytest.raises(ContextError, match="belongs in a step or in a workflow body"):
            get_writable()
        with pytest.raises(ContextError, match="outside of a step"):
            asyncio.run(Writable[int]("wrun_01ARZ3NDEKTSV4RRFFQ69G5FAV").write(1))

    def test_a_step_that_has_ended_writes_no_more(self, app: Workflows, make: Make) -> None:
        kept: list[Writable[int]] = []

        @app.step
        async def talk() -> None:
            kept.append(get_writable(type=int))
            await kept[0].write(1)

        @app.workflow
        async def body() -> None:
            await talk()

        with make() as env:
            run = env.start(body)
            run.wait()
            with pytest.raises(ContextError, match="the step that opened stream 'main' has ended"):
                asyncio.run(kept[0].write(2))
            assert values_of(run) == [1]

    def test_blocking_calls_do_not_block_a_loop(self, app: Workflows, make: Make) -> None:
        @app.step
        async def talk() -> None:
            out = get_writable()
            for call in (lambda: out.write_sync(1), out.drain_sync, out.close_sync, out.__enter__):
                with pytest.raises(ContextError, match="blocks, and an event loop is running here: use"):
                    call()

        @app.workflow
        async def body() -> None:
            await talk()

        with make() as env:
            env.run(body)

    def test_limits(self, app: Workflows, make: Make) -> None:
        @app.step
        async def talk() -> None:
            for wrong in ("", "x" * 129, "tab\t", "\ud800", "$own"):
                with pytest.raises(ValueError, match="namespace"):
                    get_writable(namespace=wrong)
            with pytest.raises(TypeError, match="is text, not int 7"):
                get_writable(namespace=7)  # type: ignore[call-overload]
            with pytest.raises(ValueError, match="'keep' or 'discard'"):
                get_writable(on_retry="drop")  # type: ignore[call-overload]
            out = get_writable(type=bytes, namespace="ü" * 128)
            with pytest.raises(SerializationError, match="has 4,194,305 bytes, more than the limit of 4,194,304"):
                await out.write(b"x" * (MAX_CHUNK_BYTES + 1))
            await out.write(b"y" * MAX_CHUNK_BYTES)
            await out.write(b"z")
            with pytest.raises(ValueError, match="another on_retry"):
                await get_writable(namespace="ü" * 128, on_retry="discard").write(1)

        @app.workflow
        async def body() -> None:
            await talk()

        with make() as env:
            run = env.start(body)
            run.wait()
            found = asyncio.run(gathered(run.readable_bytes(namespace="ü" * 128)))
            assert [(len(chunk), chunk[:1]) for chunk in found] == [(MAX_CHUNK_BYTES, b"y"), (1, b"z")]
            page = env.connection.read_chunks(run.run_id, "ü" * 128, 0, 100)
            assert [len(page.items), page.done] == [1, False]

    # --- what it costs -----------------------------------------------------------------------------

    @pytest.mark.parametrize("on_retry", ["keep", "discard"])
    def test_writes_are_for_batches_not_for_chunks(self, app: Workflows, make: Make, on_retry: Any) -> None:
        @app.step
        async def talk(chunks: int, size: int) -> None:
            out = get_writable(type=str, on_retry=on_retry)
            for _ in range(chunks):
                await out.write("x" * size)

        @app.workflow
        async def body(chunks: int, size: int) -> None:
            await talk(chunks, size)

        calls: Counter[str] = Counter()

        def count(moment: Moment, call: str, args: tuple[Any, ...], _: Any) -> None:
            if moment == "before" and call.startswith("streams."):
                calls[call] += 1

        entered = {"streams.enter": 1} if on_retry == "discard" else {}
        with make(count) as env:
            for chunks, size, batches in [(1, 10, 1), (500, 10, 1), (5000, 10, 5), (100, 64 * 100, 10)]:
                assert size * chunks // MAX_BATCH_BYTES < batches
                calls.clear()
                run = env.start(body, chunks, size)
                env.run_until_closed(run)
                # a timer may cut a batch short where the machine is slow
                assert batches <= calls.pop("streams.append") <= batches + 5
                assert calls == {"streams.find": 1, **entered}

    def test_steps_that_write_nothing_cost_nothing(self, app: Workflows, make: Make) -> None:
        @app.step
        async def quiet() -> None:
            get_writable()

        @app.workflow
        async def body() -> None:
            await quiet()

        calls: list[str] = []
        with make(lambda _, call, *__: calls.append(call)) as env:
            env.run(body)
        assert [call for call in calls if call.startswith("streams.")] == []


# --- helpers -----------------------------------------------------------------------------------------


def outside(backend: Backend, run: Run[T]) -> Run[T]:
    """The run as another process sees it, which only reads."""
    connection = Connection(backend, VirtualClock(), entropy=lambda size: b"\0" * size, chance=lambda: 0.5)
    return Run(run.run_id, connection=connection, decode=lambda data: data)


@contextmanager
def beside(env: WorkflowEnvironment, run: Run[Any]) -> Iterator[None]:
    """Work on the run in another thread until it is closed."""
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(env.run_until_closed, run)
        yield
        working.result(timeout=30)


def lose_worker(backend: Backend, env: WorkflowEnvironment) -> None:
    """The process of the environment is dead: what it held is delivered again."""
    if hasattr(backend.source, "kill"):
        backend.source.kill(WORKER)
    else:
        backend.source._locks.close()  # type: ignore[attr-defined]
        backend.source.register("bob", until=1 << 62)
    backend.source.recover(now=env.clock.now())
