"""The stored entries of streams.

An entry is one line of compact JSON, a newline, and the chunks one after the other, sealed as a whole
(`everstep.codec.envelope`), so that many small chunks compress together::

    [1,"ch","step_01…_3",1,"n0nce.7",0,0,[4,11,-6]]
    true{"ok":true}bytes

The array has the version, a code, the source (step, attempt, execution) and what belongs to the code:

====== ===============================================================================================
``ch`` chunks: whether they are replaceable, the view, the size of each (of a raw one as -1 - size)
``di`` discarded: the gaps, and the source that had closed the stream, or null
``cl`` closed: the view
====== ===============================================================================================

Codes and the order of fields are for ever, as in `everstep.codec.records`.
"""

from __future__ import annotations

from typing import Any, Final, assert_never

from everstep.codec.envelope import seal, unseal
from everstep.codec.jsontext import make_scanner, write
from everstep.core.streams import Chunks, Closed, Discarded, Entry, Piece, Source
from everstep.errors import SerializationError

__all__ = ["VERSION", "decode_entry", "encode_entry"]

VERSION: Final = 1

_scan: Final = make_scanner()


def encode_entry(entry: Entry) -> bytes:
    source = [entry.source.step, entry.source.attempt, entry.source.execution]
    match entry:
        case Chunks(replaceable=replaceable, view=view, pieces=pieces):
            sizes = [-1 - len(piece.data) if piece.raw else len(piece.data) for piece in pieces]
            head = [VERSION, "ch", *source, int(replaceable), view, sizes]
            return seal(b"".join([write(head).encode(), b"\n", *(piece.data for piece in pieces)]))
        case Discarded(gaps=gaps, closed_by=by):
            closed = None if by is None else [by.step, by.attempt, by.execution]
            head = [VERSION, "di", *source, [list(gap) for gap in gaps], closed]
        case Closed(view=view):
            head = [VERSION, "cl", *source, view]
        case _:
            assert_never(entry)
    return seal(write(head).encode() + b"\n")


def decode_entry(data: bytes) -> Entry:
    """The entry of bytes made by `encode_entry`.

    Raises:
        SerializationError: the bytes are damaged, or a newer version of Everstep wrote them.
    """
    plain = unseal(data)
    try:
        line, newline, content = plain.partition(b"\n")
        version, code, *fields = _scan(line.decode())
        if not newline or type(version) is not int:
            raise ValueError("it has no header")
        if version > VERSION or code not in ("ch", "di", "cl"):
            raise SerializationError(
                f"stored stream entry has format {version}, code {code!r:.40}, which this version of Everstep does not "
                f"know: it was written by a newer version. Upgrade everstep in this process"
            )
        return _entry(code, fields, content)
    except (ValueError, TypeError, RecursionError) as error:
        raise SerializationError(
            f"stored stream entry is damaged ({len(data)} bytes, beginning with {plain[:40]!r}): {str(error)[:200]}. "
            f"Restore it from a backup, or check that nothing but Everstep wrote it"
        ) from error


def _entry(code: str, fields: list[Any], content: bytes) -> Entry:
    step, attempt, execution, *rest = fields
    source = Source(step=step, attempt=attempt, execution=execution)
    if code == "ch":
        replaceable, view, sizes = rest
        pieces = []
        at = 0
        for size in sizes:
            end = at + (size if size >= 0 else -1 - size)
            pieces.append(Piece(content[at:end], size < 0))
            at = end
        if at != len(content):
            raise ValueError(f"{len(content)} bytes of chunks where {at} should be")
        return Chunks(source=source, replaceable=bool(replaceable), view=view, pieces=tuple(pieces))
    if content:
        raise ValueError(f"{len(content)} bytes too many")
    if code == "cl":
        [view] = rest
        return Closed(source=source, view=view)
    gaps, closed = rest
    return Discarded(
        source=source,
        gaps=tuple((begin, end) for begin, end in gaps),
        closed_by=None if closed is None else Source(step=closed[0], attempt=closed[1], execution=closed[2]),
    )
