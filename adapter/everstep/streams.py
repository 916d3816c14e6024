"""Streams: what a run's steps write while they run, and anybody reads meanwhile and afterwards."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar, get_args, overload

from everstep.assembly import current_connection
from everstep.codec.nodes import after
from everstep.codec.typed import ValueCodec
from everstep.codec.values import register_serializable
from everstep.core.ids import is_run_id
from everstep.core.replay import Replay
from everstep.core.streams import MAIN, Piece, check_name
from everstep.errors import ContextError, StoreBusyError, TypeValidationError, WorkflowRunNotFoundError
from everstep.runtime.connection import FIRST_POLL_SECONDS, LAST_POLL_SECONDS, Connection
from everstep.runtime.execute import CURRENT_STEP
from everstep.runtime.stream_reading import ChunkData, Item, Reset, StreamInfo, StreamReader, has_ended
from everstep.runtime.streams import CURRENT_STREAMS, OnRetry, StreamWriter

__all__ = ["Chunk", "Reset", "StreamInfo", "Writable", "get_writable", "read_stream"]

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
T_co = TypeVar("T_co", covariant=True)

_BUSY_IN_A_ROW: Final = 10


# --- writing -----------------------------------------------------------------------------------------


class Writable(Generic[T_contra]):
    """The writing end of a stream, for values of a type. Made by `get_writable`.

    In a step it is written to. In a workflow body it is only a handle: pass it to steps as an argument. What a step
    wrote can be read when the step is complete, and a moment after it was written.

    Several steps may write to one stream, also at once: their chunks are in one order, those of each step in its own.
    Methods whose names end in ``_sync`` are for ``def`` steps.

    Attributes:
        run_id: the run that the stream belongs to.
        namespace: the stream's name.
        on_retry: what becomes of what was written when the step is tried again.
    """

    __slots__ = ("_attempt", "_codec", "_raw", "namespace", "on_retry", "run_id")

    def __init__(self, run_id: str, *, namespace: str = MAIN, type: Any = Any, on_retry: OnRetry = "keep") -> None:
        if on_retry not in ("keep", "discard"):
            raise ValueError(f"on_retry is 'keep' or 'discard', not {on_retry!r}")
        self.run_id = run_id
        self.namespace = check_name(namespace, internal=True)
        self.on_retry: OnRetry = on_retry
        self._raw = type is bytes
        self._codec = _chunk_codec(type, namespace)
        self._attempt = CURRENT_STREAMS.get(None)
        if self._attempt is not None and on_retry == "discard":
            self._attempt.expect(run_id, namespace)

    def __repr__(self) -> str:
        return f"<stream {self.namespace!r} of {self.run_id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Writable) and self._state() == other._state()

    def __hash__(self) -> int:
        return hash(self._state())

    def with_type(self, type: Any) -> Writable[Any]:
        """The same end of the same stream, for values of another type."""
        made: Writable[Any] = Writable(self.run_id, namespace=self.namespace, type=type, on_retry=self.on_retry)
        made._attempt = self._attempt
        return made

    async def write(self, value: T_contra) -> None:
        """Write a value: one chunk. It is stored with others after a moment; waits only when there is much to store.

        Raises:
            TypeValidationError: the value does not fit the type.
            SerializationError: it cannot be stored, or is larger than 4 MiB.
            StreamClosedError: the stream was closed.
            ContextError: this is no step, or the step has ended.
        """
        writer = self._writer("write")
        if writer.put(self._piece(value)):
            await writer.attempt.aside(writer.flush)

    async def write_from(self, values: AsyncIterable[T_contra] | Iterable[T_contra]) -> None:
        """Write each of these values as it comes."""
        if isinstance(values, AsyncIterable):
            async for value in values:
                await self.write(value)
        else:
            for value in values:
                await self.write(value)

    async def drain(self) -> None:
        """Wait until everything that was written can be read. At the end of a step that is done by itself."""
        writer = self._writer("drain")
        await writer.attempt.aside(writer.flush)

    async def close(self) -> None:
        """End the stream, for all who write to it: readers end when they have read everything."""
        writer = self._writer("close")
        await writer.attempt.aside(writer.close)

    async def __aenter__(self) -> Self:
        self._writer("async with")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the stream; not after an exception, because the step may be tried again."""
        if kind is None:
            await self.close()

    # --- for steps without an event loop ---

    def write_sync(self, value: T_contra) -> None:
        """As `write`, for ``def`` steps."""
        writer = self._blocking("write_sync", "write")
        if writer.put(self._piece(value)):
            writer.flush()

    def drain_sync(self) -> None:
        """As `drain`, for ``def`` steps."""
        self._blocking("drain_sync", "drain").flush()

    def close_sync(self) -> None:
        """As `close`, for ``def`` steps."""
        self._blocking("close_sync", "close").close()

    def __enter__(self) -> Self:
        self._blocking("with", "async with")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close_sync()

    # --- how it is done ---

    def _state(self) -> tuple[str, str, str]:
        return (self.run_id, self.namespace, self.on_retry)

    def _piece(self, value: Any) -> Piece:
        if self._raw and isinstance(value, (bytes, bytearray, memoryview)):
            return Piece(bytes(value), True)
        return Piece(self._codec.encode(value), False)

    def _writer(self, call: str) -> StreamWriter:
        if Replay.current() is not None:
            raise ContextError(
                f"a stream was written to in a workflow body ({call}); there it is only a handle: pass it to a step "
                f"as an argument, and write there"
            )
        attempt = self._attempt or CURRENT_STREAMS.get(None)
        if attempt is None:
            raise ContextError(
                f"a stream was written to outside of a step ({call}); a stream is written to by a step that a workflow "
                f"runs"
            )
        return attempt.writer(self.run_id, self.namespace, self.on_retry)

    def _blocking(self, call: str, instead: str) -> StreamWriter:
        writer = self._writer(call)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return writer
        raise ContextError(f"{call} blocks, and an event loop is running here: use '{instead}' with await")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> dict[str, Any]:
        """In ``Writable[Progress]`` the annotation says the type that the handle itself does not carry."""
        schema: dict[str, Any] = {"type": "is-instance", "cls": Writable}
        parameters = get_args(source)
        if not parameters or isinstance(parameters[0], TypeVar):
            return schema
        return after(schema, lambda handle: handle.with_type(parameters[0]))


def _to_data(handle: Writable[Any]) -> dict[str, str]:
    return {"run": handle.run_id, "namespace": handle.namespace, "on_retry": handle.on_retry}


def _from_data(data: dict[str, Any]) -> Writable[Any]:
    return Writable(data["run"], namespace=data["namespace"], on_retry=data["on_retry"])


register_serializable(Writable, class_id="everstep.Writable", serialize=_to_data, deserialize=_from_data)


@functools.lru_cache(maxsize=256)
def _cached_codec(type: Any, what: str) -> ValueCodec:
    return ValueCodec(type, what)


def _chunk_codec(type: Any, name: str) -> ValueCodec:
    what = f"a chunk of stream {name!r}"
    try:
        return _cached_codec(type, what)
    except TypeError:  # an annotation that cannot be hashed
        return ValueCodec(type, what)


@overload
def get_writable(*, type: type[T], namespace: str | None = None, on_retry: OnRetry = "keep") -> Writable[T]: ...


@overload
def get_writable(*, type: Any = Any, namespace: str | None = None, on_retry: OnRetry = "keep") -> Writable[Any]: ...


def get_writable(*, type: Any = Any, namespace: str | None = None, on_retry: OnRetry = "keep") -> Writable[Any]:
    """The writing end of a stream of the current run. In a step, to write to; in a workflow body, to pass to steps.

    Args:
        type: of the values, checked when they are written. `bytes` are stored as they are.
        namespace: which of the run's streams, 1 to 128 printable characters; without it the main one.
        on_retry: what becomes of what a step has written when it is tried again. ``"keep"``: it stays, and the next
            attempt's chunks follow it. ``"discard"``: it is taken out, so that what is read is what one attempt wrote.
            That costs one write more for each step and stream.

    Raises:
        ContextError: outside of both.
    """
    name = MAIN if namespace is None else check_name(namespace)
    run = Replay.current()
    if run is not None:
        run_id = run.info.run_id
    else:
        step = CURRENT_STEP.get(None)
        if step is None:
            raise ContextError("get_writable() belongs in a step or in a workflow body that passes it to a step")
        run_id = step[0].run_id
    return Writable(run_id, namespace=name, type=type, on_retry=on_retry)


# --- reading -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk(Generic[T_co]):
    """A chunk that was read.

    Attributes:
        index: how many chunks come before it; from 0 without gaps.
        id: says where it stands for good, also when chunks are discarded later: go on with ``after=id``.
    """

    index: int
    id: str
    value: T_co


def read_stream(
    run_id: str, name: str | None = None, *, type: Any = Any, start_index: int = 0
) -> AsyncGenerator[Any, None]:
    """The values of a run's stream, as `Run.readable` gives them.

    Args:
        name: its namespace; without it the main one.
    """
    _refuse_body()
    if not is_run_id(run_id):
        raise WorkflowRunNotFoundError(run_id)
    return read_values(current_connection(), run_id, name, type=type, start=start_index)


def read_values(
    connection: Connection, run_id: str, name: str | None, *, type: Any, start: int
) -> AsyncGenerator[Any, None]:
    """The values of a stream: each chunk once, also those that are discarded after they were read."""
    items = follow(connection, run_id, name, start=start)
    return _each_once(items, _decoder(type, run_id, name))


def read_bytes(connection: Connection, run_id: str, name: str | None, *, start: int) -> AsyncGenerator[bytes, None]:
    """The chunks of a stream as bytes: as they were written, or the JSON text of a value."""
    return _each_once(follow(connection, run_id, name, start=start), lambda chunk: chunk.data)


def read_items(
    connection: Connection, run_id: str, name: str | None, *, type: Any, start: int, after: str | None
) -> AsyncGenerator[Chunk[Any] | Reset, None]:
    """The chunks of a stream with their places, and what tells of discarded ones."""
    return _placed(follow(connection, run_id, name, start=start, after=after), _decoder(type, run_id, name))


def follow(
    connection: Connection, run_id: str, name: str | None, *, start: int = 0, after: str | None = None
) -> AsyncGenerator[Item, None]:
    """What a stream holds and what is to come, until it is closed, or its run has ended and everything is read."""
    _refuse_body()
    reader = StreamReader(connection.backend.streams, run_id, name or MAIN, start=start, after=after)
    return _follow(connection, reader, run_id)


async def _follow(connection: Connection, reader: StreamReader, run_id: str) -> AsyncGenerator[Item, None]:
    poll, busy, ended = FIRST_POLL_SECONDS, 0, False
    while True:
        items: list[Item] = []
        try:
            items = await asyncio.to_thread(reader.read)
            if not items and not reader.done:
                if ended:
                    return
                ended = await asyncio.to_thread(has_ended, connection.backend, run_id, exists=reader.exists)
                if ended:
                    continue  # what came before it ended
            busy = 0
        except StoreBusyError:
            busy += 1
            if busy == _BUSY_IN_A_ROW:
                raise
        for item in items:
            yield item
        if reader.done:
            return
        if items:
            poll = FIRST_POLL_SECONDS
        elif connection.step_forward is None or not await asyncio.to_thread(connection.step_forward):
            await asyncio.sleep(poll)
            poll = min(poll * 1.5, LAST_POLL_SECONDS)


async def _each_once(items: AsyncGenerator[Item, None], decode: Callable[[ChunkData], T]) -> AsyncGenerator[T, None]:
    last = -1
    async with aclosing(items):
        async for item in items:
            if isinstance(item, ChunkData) and item.position > last:
                last = item.position
                yield decode(item)


async def _placed(
    items: AsyncGenerator[Item, None], decode: Callable[[ChunkData], Any]
) -> AsyncGenerator[Chunk[Any] | Reset, None]:
    async with aclosing(items):
        async for item in items:
            yield item if isinstance(item, Reset) else Chunk(index=item.index, id=item.id, value=decode(item))


def _decoder(type: Any, run_id: str, name: str | None) -> Callable[[ChunkData], Any]:
    what = f"a chunk of stream {name or MAIN!r} of run {run_id}"
    codec = ValueCodec(type, what)
    takes_bytes = type in (bytes, Any, object)

    def decode(chunk: ChunkData) -> Any:
        if not chunk.raw:
            return codec.decode(chunk.data)
        if not takes_bytes:
            raise TypeValidationError(
                f"{what} is raw bytes, and {type!r} was asked for: read it with type=bytes or readable_bytes()"
            )
        return chunk.data

    return decode


def _refuse_body() -> None:
    if Replay.current() is not None:
        raise ContextError("a stream was read in a workflow body, where a replay cannot repeat it: read it in a step")
