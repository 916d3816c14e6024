"""What the steps of one attempt write to streams.

Chunks are gathered and stored in batches: when there is enough for one, when the oldest has waited for
`FLUSH_SECONDS`, and when somebody drains. Before the attempt's outcome is recorded everything is stored, so a step is
complete only when its chunks can be read; if that fails, the attempt fails.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import ContextVar
from typing import Final, Literal, TypeAlias, final

from everstep.core.streams import MAX_BATCH_BYTES, MAX_BATCH_CHUNKS, Piece, Source, check_chunk
from everstep.errors import ContextError, StoreBusyError, StreamClosedError
from everstep.ports import StreamStore
from everstep.runtime.stream_log import StreamLog

logger: Final = logging.getLogger("everstep.streams")

FLUSH_SECONDS: Final = 0.05
"""How long a chunk waits for others to be stored with."""
TRIES: Final = 4
"""How often the last chunks of an attempt are tried to be stored while the store is busy."""
FIRST_WAIT: Final = 0.1  # seconds; doubled each time

OnRetry: TypeAlias = Literal["keep", "discard"]


@final
class AttemptStreams:
    """The streams that one attempt at a step writes to. Made on the event loop that the attempt runs on.

    Args:
        source: the attempt; its execution differs from that of every other run of the step.
        executor: where batches are stored.
        is_late: whether the step's outcome is recorded already.
    """

    def __init__(self, store: StreamStore, source: Source, executor: Executor, *, is_late: Callable[[], bool]) -> None:
        self.ended = False
        self._store = store
        self._source = source
        self._executor = executor
        self._is_late = is_late
        self._loop = asyncio.get_running_loop()
        self._writers: dict[tuple[str, str], StreamWriter] = {}
        self._making = threading.Lock()

    def writer(self, run_id: str, name: str, on_retry: OnRetry) -> StreamWriter:
        """This attempt's end of a stream: the same for all who ask, so that their chunks keep their order."""
        replace = on_retry == "discard"
        with self._making:
            writer = self._writers.get((run_id, name))
            if writer is None:
                log = StreamLog(self._store, run_id, name, self._source, replace=replace, is_late=self._is_late)
                writer = self._writers[run_id, name] = StreamWriter(self, log, replace=replace)
            elif writer.replace != replace:
                raise ValueError(f"this step has opened stream {name!r} with another on_retry than {on_retry!r}")
            return writer

    def expect(self, run_id: str, name: str) -> None:
        """The step has an end whose chunks are replaceable: what earlier runs wrote goes, even if it writes nothing.

        Soon, if there was an earlier attempt, so that readers need not wait for the first chunk to be told.
        """
        if (run_id, name) not in self._writers:
            writer = self.writer(run_id, name, "discard")
            if self._source.attempt > 1:
                writer.arm()

    async def finish(self) -> None:
        """The step returned: store what is left. Raises what prevents it."""
        self.ended = True
        for writer in list(self._writers.values()):
            wait = FIRST_WAIT
            for number in range(TRIES):
                try:
                    await self.aside(writer.flush)
                    break
                except StoreBusyError:
                    if number == TRIES - 1:
                        raise
                    await asyncio.sleep(wait)
                    wait *= 2

    async def salvage(self, failure: BaseException) -> None:
        """The step raised: store what is left, if that can be done."""
        if self.ended:
            return
        try:
            await self.finish()
        except Exception as error:
            failure.add_note(f"the last chunks that the step wrote to a stream were not stored: {error}")

    def abandon(self) -> None:
        """Nobody waits for the attempt any more: what is not stored is lost, and nothing more is taken."""
        self.ended = True

    async def aside(self, call: Callable[[], None]) -> None:
        """Make a call that may block, without blocking the loop."""
        await self._loop.run_in_executor(self._executor, call)

    def soon(self, call: Callable[[], None]) -> None:
        """Have a call made after `FLUSH_SECONDS`, aside; not if the attempt has ended by then. Thread-safe."""

        def due() -> None:
            if not self.ended:
                self._executor.submit(call)

        try:
            self._loop.call_soon_threadsafe(self._loop.call_later, FLUSH_SECONDS, due)
        except RuntimeError:  # the loop is closed: the attempt was abandoned
            return


CURRENT_STREAMS: Final[ContextVar[AttemptStreams]] = ContextVar("everstep_streams")
"""Of the running step."""


@final
class StreamWriter:
    """An attempt's end of one stream. Thread-safe; `flush` and `close` block."""

    def __init__(self, attempt: AttemptStreams, log: StreamLog, *, replace: bool) -> None:
        self.replace = replace
        self.attempt = attempt
        self._log = log
        self._gathered: list[Piece] = []
        self._size = 0
        self._armed = False
        self._closing = False
        self._untold: Exception | None = None
        self._gathering = threading.Lock()  # held for moments
        self._storing = threading.Lock()  # held while batches are stored, one after the other
        self._batch: tuple[str, list[Piece]] | None = None
        self._close_nonce = log.nonce()

    def put(self, piece: Piece) -> bool:
        """Take a chunk; say whether there is enough for a batch, so that the caller is to `flush`."""
        check_chunk(piece.data, self._log.name)
        with self._gathering:
            self._check()
            self._gathered.append(piece)
            self._size += len(piece.data)
            full = self._size >= MAX_BATCH_BYTES or len(self._gathered) >= MAX_BATCH_CHUNKS
        if not full:
            self.arm()
        return full

    def flush(self) -> None:
        """Store all that was taken.

        After a `StoreBusyError` it can be tried again. After any other error what was taken is dropped: who wrote it
        has been told.
        """
        with self._storing:
            try:
                untold, self._untold = self._untold, None
                if untold is not None:
                    raise untold
                self._flush()
            except StoreBusyError:
                raise
            except Exception:
                self._drop()
                raise

    def close(self) -> None:
        """Store all that was taken, and that nothing follows."""
        with self._gathering:
            self._check()
            self._closing = True
        self.flush()

    def _check(self) -> None:
        untold, self._untold = self._untold, None
        if untold is not None:
            raise untold
        if self.attempt.ended:
            raise ContextError(
                f"the step that opened stream {self._log.name!r} has ended. Write before it returns; tasks and threads "
                f"of its own that write must end before it does."
            )
        if self._closing:
            raise StreamClosedError(self._log.run_id, self._log.name)

    def arm(self) -> None:
        """Have it flushed soon."""
        with self._gathering:
            armed, self._armed = self._armed, True
        if not armed:
            self.attempt.soon(self._flush_quietly)

    def _flush_quietly(self) -> None:
        """What the timer does."""
        with self._gathering:
            self._armed = False
        try:
            self.flush()
        except StoreBusyError as busy:
            logger.warning("chunks for stream %r wait, the store is busy: %s", self._log.name, busy)
            self.arm()
        except Exception as error:
            self._untold = error

    def _flush(self) -> None:
        log = self._log
        to_write = self._batch is not None or bool(self._gathered) or self._closing
        if not to_write and not self.replace:
            return
        log.open(to_write=to_write)
        while not log.superseded:
            if log.needs_mark:
                log.append_mark()
                continue
            if self._batch is None:
                self._batch = self._take()
            if self._batch is not None:
                if log.append_chunks(*self._batch):
                    self._batch = None
            elif not self._closing or log.append_close(self._close_nonce):
                return
        self._drop()

    def _take(self) -> tuple[str, list[Piece]] | None:
        """The next batch, and its nonce."""
        with self._gathering:
            size = count = 0
            for piece in self._gathered[:MAX_BATCH_CHUNKS]:
                size += len(piece.data)
                count += 1
                if size >= MAX_BATCH_BYTES:
                    break
            batch, self._gathered = self._gathered[:count], self._gathered[count:]
            self._size -= size
        return (self._log.nonce(), batch) if batch else None

    def _drop(self) -> None:
        with self._gathering:
            self._gathered, self._size = [], 0
        self._batch = None
