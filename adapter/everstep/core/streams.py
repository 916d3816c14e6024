"""Streams: what is in one, and which of it counts.

A stream is a log. An entry takes up one position for each chunk in it, or one if it is a mark; positions are counted
from 0 without gaps, and an entry is never changed or removed. So the position after the last entry is the stream's
lock, as the number of the next turn is a run's: whoever stores an entry there knew everything before it.

Readers do not see positions. They see indexes: the chunks that count, numbered from 0 without gaps. The two differ
only where a `Discarded` mark took chunks out, because a step was tried again. Each such mark begins a new `View`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from everstep.errors import SerializationError

MAIN: Final = "main"
"""The name of the stream that has none."""
INTERNAL: Final = "$"
"""Names that begin with it belong to Everstep."""
MAX_NAME_LENGTH: Final = 128
MAX_CHUNK_BYTES: Final = 4 * 1024 * 1024
"""The size of one chunk, as JSON or raw. What a function answers with has room for one, in base64 too."""
MAX_BATCH_BYTES: Final = 64 * 1024
"""So much is gathered before it is stored at once; a batch is larger only by its last chunk."""
MAX_BATCH_CHUNKS: Final = 1000
LAST_POSITION: Final = 999_999_999_999

Range: TypeAlias = tuple[int, int]
"""Positions from the first number to before the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Who wrote an entry.

    Attributes:
        step: the id of the step call.
        attempt: from 1.
        execution: differs for each time the step's body was run, also within one attempt.
    """

    step: str
    attempt: int
    execution: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk: JSON text, or raw bytes."""

    data: bytes
    raw: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks:
    """Some chunks that were written together.

    Attributes:
        replaceable: they do not count any more when the step is run again.
        view: the position of the last `Discarded` before it, or 0.
    """

    source: Source
    replaceable: bool
    view: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Discarded:
    """A mark: from here on these positions do not count any more.

    Attributes:
        gaps: all of them, in order, those of earlier marks and its own among them: the last mark says everything.
        closed_by: who had closed the stream, if it still is.
    """

    source: Source
    gaps: tuple[Range, ...]
    closed_by: Source | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A mark: nothing follows, unless the step that closed the stream is run again."""

    source: Source
    view: int


Entry: TypeAlias = Chunks | Discarded | Closed


def size_of(entry: Entry) -> int:
    """How many positions it takes up."""
    return len(entry.pieces) if isinstance(entry, Chunks) else 1


def closed_by(entry: Entry) -> Source | None:
    """Who has closed the stream, if nothing follows this entry."""
    match entry:
        case Closed(source=source):
            return source
        case Discarded(closed_by=source):
            return source
        case _:
            return None


def view_at(entry: Entry, first: int) -> int:
    """The position of the last `Discarded` up to and with this entry, which begins at `first`; 0 if there is none."""
    return first if isinstance(entry, Discarded) else entry.view


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Which positions count, as the mark at `number` says; 0 is the view before any mark. (No mark is at 0.)"""

    number: int = 0
    gaps: tuple[Range, ...] = ()

    def counts(self, position: int) -> bool:
        return not any(begin <= position < end for begin, end in self.gaps)

    def index_of(self, position: int) -> int:
        """How many positions count before this one."""
        return position - sum(min(end, position) - begin for begin, end in self.gaps if begin < position)

    def position_of(self, index: int) -> int:
        """The position of the chunk with this index."""
        position = index
        for begin, end in self.gaps:
            if position < begin:
                break
            position += end - begin
        return position

    def gaps_and(self, more: Iterable[Range]) -> tuple[Range, ...]:
        """The gaps, with these ranges among them."""
        merged: list[Range] = []
        for begin, end in sorted((*self.gaps, *more)):
            if merged and begin <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((begin, end))
        return tuple(merged)

    def first_lost(self, newer: View, before: int) -> int | None:
        """The first position before this one that counts here and in the newer view does not."""
        for begin, end in newer.gaps:
            position = begin
            while position < min(end, before):
                gap = next((gap for gap in self.gaps if gap[0] <= position < gap[1]), None)
                if gap is None:
                    return position
                position = gap[1]
        return None


def check_name(name: str, *, internal: bool = False) -> str:
    """The name itself, or a ValueError. `internal` allows names that belong to Everstep."""
    if not isinstance(name, str):
        raise TypeError(f"a stream's namespace is text, not {type(name).__name__} {name!r}")
    if not 1 <= len(name) <= MAX_NAME_LENGTH or not name.isprintable():
        raise ValueError(
            f"a stream's namespace has 1 to {MAX_NAME_LENGTH} printable characters; {name[:32]!r} has {len(name)}"
        )
    if name.startswith(INTERNAL) and not internal:
        raise ValueError(f"the namespace {name!r} begins with {INTERNAL!r}, which is reserved: use another name")
    return name


def check_chunk(data: bytes, name: str) -> bytes:
    """The chunk's bytes themselves, or a `SerializationError`."""
    if len(data) > MAX_CHUNK_BYTES:
        raise SerializationError(
            f"a chunk for stream {name!r} has {len(data):,} bytes, more than the limit of {MAX_CHUNK_BYTES:,}: write "
            f"it in parts, or store it elsewhere and write a reference to it"
        )
    return data
