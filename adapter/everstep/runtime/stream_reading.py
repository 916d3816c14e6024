"""Reading streams: chunks by index, from anywhere, again and again without a loss or a repetition.

A chunk's *index* counts the chunks that count, from 0 without gaps. Its *id* is text that says where it stands for
good: the index, and after a point the number of the view (`everstep.core.streams`), if it is not the first. Who goes on
after an id is told by a `Reset` if chunks it may have seen were discarded since. Who goes on at a plain index means the
stream as it is now.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, assert_never, final

from everstep.codec.stream_records import decode_entry
from everstep.core.streams import INTERNAL, Chunks, Closed, Discarded, View, check_name, closed_by, size_of, view_at
from everstep.errors import ConfigurationError, WorkflowRunNotFoundError
from everstep.ports import Backend, StreamRecord, StreamStore
from everstep.runtime.stream_log import load_view

MOST_AT_ONCE: Final = 1000
PAGE_BYTES: Final = 4 * 1024 * 1024
"""Of a page: more only if its one chunk is larger."""
_RECORDS_AT_ONCE: Final = 16
_ID: Final = re.compile(r"(-1|\d{1,12})(?:\.(\d{1,12}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkData:
    """A chunk as it is stored.

    Attributes:
        index: how many chunks count before it.
        id: where it stands, for those who go on after it.
        position: in the log; no other chunk of the stream ever has it.
        raw: whether it is bytes, and not JSON text.
    """

    index: int
    id: str
    position: int
    data: bytes
    raw: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """Chunks were discarded because the step that wrote them is tried again.

    What was read with this index or a higher one does not count any more. What follows begins with this index, and has
    the chunks among them that still count once more.

    Attributes:
        id: where reading stands now, as that of a chunk.
    """

    index: int
    id: str


Item: TypeAlias = ChunkData | Reset


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInfo:
    """How a stream stands.

    Attributes:
        name: its namespace.
        tail_index: the index of the last chunk; -1 when it has none.
        closed: nothing more will come: it was closed, or its run has ended.
    """

    name: str
    tail_index: int
    closed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkPage:
    """Some chunks of a stream, in order.

    Attributes:
        items: chunks, and a `Reset` where chunks were discarded that the reader may have seen.
        last_id: what to go on after: the id of the last item, or what was asked for.
        tail_index: the index of the last chunk when the page was begun; -1 when there was none.
        done: nothing follows this page, now or later.
    """

    items: Sequence[Item]
    last_id: str
    tail_index: int
    done: bool


@final
class StreamReader:
    """Reads a stream from some point on. Synchronous; used by one thread at a time.

    Args:
        start: the index to begin with; a negative one counts from the tail (-1 is the last chunk), and stands for 0 if
            there are fewer.
        after: an id, instead of `start`: begin with what follows.

    Raises:
        ConfigurationError: `after` is not an id of this stream. Raised when something is read, if only the store knows.
    """

    def __init__(self, store: StreamStore, run_id: str, name: str, *, start: int = 0, after: str | None = None) -> None:
        self.closed = False
        self.exists = False
        self.tail_index = -1
        self.streams = store
        self._run_id = run_id
        self._name = check_name(name, internal=True)
        self._start = start
        self._seen: int | None = None
        self._opened = False
        self._over = False
        self._view = View()
        self._position = 0
        self._end = 0  # after the last index that was taken in, or seen before
        self._ready: deque[Item] = deque()
        if after is not None:
            self._start, self._seen = self._parse(after)

    @property
    def done(self) -> bool:
        """Whether the stream is closed and all of it was read."""
        return self._over and not self._ready

    @property
    def at_end(self) -> bool:
        """Whether the last `read` found all there was."""
        return not self._ready

    def read(self, limit: int = 100, *, max_bytes: int = PAGE_BYTES) -> list[Item]:
        """The next items, up to `limit` and, if there are more than one, `max_bytes` of chunks. Empty: none, for now.

        After an error it can be called again, and nothing is lost.
        """
        self.open()
        taken: list[Item] = []
        size = 0
        while len(taken) < limit:
            if not self._ready and not self._fetch():
                break
            item = self._ready[0]
            size += len(item.data) if isinstance(item, ChunkData) else 0
            if taken and size > max_bytes:
                break
            taken.append(self._ready.popleft())
        return taken

    def open(self) -> None:
        """Find the point to begin at, unless that was done."""
        if self._opened:
            return
        last = self.streams.find(self._run_id, self._name)
        if last is not None:
            self._find(last)
        elif self._seen:
            raise self._foreign(f"…{self._seen}")
        self._start = self._end = max(self._start, 0)
        self._opened = True

    def last_id(self, items: Sequence[Item]) -> str:
        """What to go on after when these were the last."""
        return items[-1].id if items else self._id(self._start - 1)

    # --- where to begin ----------------------------------------------------------------------------

    def _find(self, last: StreamRecord) -> None:
        entry = decode_entry(last.body)
        self.exists, self.closed = True, closed_by(entry) is not None
        self._view = self._load(view_at(entry, last.first))
        count = self._view.index_of(last.first + (0 if isinstance(entry, Closed) else size_of(entry)))
        self.tail_index = count - 1
        start = self._start if self._start >= 0 else max(0, count + self._start)
        told: list[Item] = []
        if self._seen is not None and self._seen != self._view.number:
            seen = self._load(self._seen)
            lost = seen.first_lost(self._view, seen.position_of(start))
            if lost is not None:
                start = seen.index_of(lost)
                told.append(Reset(index=start, id=self._id(start - 1)))
        position = self._view.position_of(start)
        if position > 0:
            holding = self.streams.find(self._run_id, self._name, position)
            position = 0 if holding is None else holding.first
        self._position, self._start, self._ready = position, start, deque(told)

    def _load(self, number: int) -> View:
        view = load_view(self.streams, self._run_id, self._name, number)
        if view is None:
            raise self._foreign(f"….{number}")
        return view

    def _parse(self, text: str) -> tuple[int, int]:
        match = _ID.fullmatch(text)
        if match is None:
            raise self._foreign(text)
        return int(match[1]) + 1, int(match[2] or 0)

    def _foreign(self, text: str) -> ConfigurationError:
        return ConfigurationError(
            f"{text[:80]!r} is not the id of a chunk of stream {self._name!r} of run {self._run_id}. Give the id of "
            f"the last chunk that was read, or an index to begin with."
        )

    def _id(self, index: int) -> str:
        return f"{index}.{self._view.number}" if self._view.number else str(index)

    # --- reading on --------------------------------------------------------------------------------

    def _fetch(self) -> bool:
        """Get more ready; False when there is nothing more."""
        while not self._ready:
            self._position = next(
                (end for begin, end in self._view.gaps if begin <= self._position < end), self._position
            )
            records = self.streams.read(self._run_id, self._name, first=self._position, limit=_RECORDS_AT_ONCE)
            if not records:
                return False
            for record in records:
                if not self._take(record):
                    break
        return True

    def _take(self, record: StreamRecord) -> bool:
        """Take in a record; False when reading goes on elsewhere than after it."""
        entry = decode_entry(record.body)
        first, end = record.first, record.first + size_of(entry)
        match entry:
            case Chunks(pieces=pieces):
                if self._view.counts(first):
                    index = self._view.index_of(first)
                    self._ready.extend(
                        ChunkData(
                            index=number,
                            id=self._id(number),
                            position=first + number - index,
                            data=piece.data,
                            raw=piece.raw,
                        )
                        for number, piece in enumerate(pieces, index)
                        if number >= self._start
                    )
                    self._end = max(self._end, index + len(pieces))
            case Closed():
                if self._view.counts(first):
                    self.closed = self._over = True
            case Discarded(gaps=gaps):
                if first > self._view.number and not self._discard(View(number=first, gaps=gaps)):
                    return False
                if first == self._view.number:
                    self.closed = self._over = entry.closed_by is not None
            case _:
                assert_never(entry)
        self._position = end
        return True

    def _discard(self, view: View) -> bool:
        """Go over to another view; False when that means to read again from the first chunk that counts no more."""
        old, self._view = self._view, view
        self.closed = self._over = False
        lost = old.first_lost(view, view.number)
        index = view.index_of(view.number if lost is None else lost)
        if lost is None or index >= self._end:  # nothing that was read
            return True
        self._start, self._end = min(self._start, index), index
        self._ready.append(Reset(index=index, id=self._id(index - 1)))
        self._position = lost
        return False


# --- one call ----------------------------------------------------------------------------------------


def read_chunks(
    backend: Backend, run_id: str, name: str, *, start: int = 0, after: str | None = None, limit: int = 100
) -> ChunkPage:
    """A page of a stream, as it is now.

    Args:
        start, after: as those of `StreamReader`.
        limit: 1 to 1000 items; a page has about 4 MB at most.

    Raises:
        WorkflowRunNotFoundError: there is neither a stream nor a run.
        ConfigurationError: limit or id make no sense.
    """
    if not 1 <= limit <= MOST_AT_ONCE:
        raise ConfigurationError(f"limit must be from 1 to {MOST_AT_ONCE}, not {limit}; the rest is on the next pages")
    reader = StreamReader(backend.streams, run_id, name, start=start, after=after)
    items = reader.read(limit)
    done = reader.done
    if not done and reader.at_end and len(items) < limit and has_ended(backend, run_id, exists=reader.exists):
        items += reader.read(limit - len(items))  # what came before the run ended
        done = reader.at_end and len(items) < limit
    return ChunkPage(items=items, last_id=reader.last_id(items), tail_index=reader.tail_index, done=done)


def stream_info(backend: Backend, run_id: str, name: str) -> StreamInfo:
    """How a stream stands; one that nobody has written to yet is empty."""
    reader = StreamReader(backend.streams, run_id, name)
    reader.open()
    closed = reader.closed or has_ended(backend, run_id, exists=reader.exists)
    return StreamInfo(name=name, tail_index=reader.tail_index, closed=closed)


def list_streams(backend: Backend, run_id: str, *, internal: bool = False) -> list[str]:
    """The names of the run's streams, without those of Everstep itself."""
    names = backend.streams.names(run_id)
    if not names:
        has_ended(backend, run_id, exists=False)
    return [name for name in names if internal or not name.startswith(INTERNAL)]


def has_ended(backend: Backend, run_id: str, *, exists: bool) -> bool:
    """Whether the run has ended, so that nothing is written any more. A run that goes on as another has ended.

    Args:
        exists: whether a stream was found; if not, a run that is not there either is a `WorkflowRunNotFoundError`.
    """
    run = backend.inspector.get_run(run_id)
    if run is None and not exists:
        raise WorkflowRunNotFoundError(run_id)
    return run is None or run.closed
