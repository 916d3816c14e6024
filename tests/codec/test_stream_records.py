"""The stored entries of streams: written, read, damaged, of another version."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everstep.codec.stream_records import decode_entry, encode_entry
from everstep.core.streams import Chunks, Closed, Discarded, Entry, Piece, Source
from everstep.errors import SerializationError

number = st.integers(0, 2**40)
sources = st.builds(Source, step=st.text(max_size=9), attempt=number, execution=st.text(max_size=9))
content = st.binary(max_size=30) | st.sampled_from([b"", b"null", b"[", b"\n", b"zlib:x", b"x" * 3000])
entries: st.SearchStrategy[Entry] = st.one_of(
    st.builds(
        Chunks,
        source=sources,
        replaceable=st.booleans(),
        view=number,
        pieces=st.lists(st.builds(Piece, content, st.booleans()), max_size=6).map(tuple),
    ),
    st.builds(
        Discarded,
        source=sources,
        gaps=st.lists(st.tuples(number, number), max_size=4).map(tuple),
        closed_by=st.none() | sources,
    ),
    st.builds(Closed, source=sources, view=number),
)
SOURCE = Source(step="step_1", attempt=2, execution="n0nce.7")


@settings(max_examples=200, deadline=None)
@given(entry=entries)
def test_round_trip(entry: Entry) -> None:
    assert decode_entry(encode_entry(entry)) == entry


def test_the_stored_form() -> None:
    pieces = (Piece(b"true", False), Piece(b'{"ok":true}', False), Piece(b"bytes", True))
    assert encode_entry(Chunks(source=SOURCE, replaceable=True, view=9, pieces=pieces)) == (
        b'[1,"ch","step_1",2,"n0nce.7",1,9,[4,11,-6]]\ntrue{"ok":true}bytes'
    )
    assert encode_entry(Discarded(source=SOURCE, gaps=((1, 4), (7, 9)), closed_by=None)) == (
        b'[1,"di","step_1",2,"n0nce.7",[[1,4],[7,9]],null]\n'
    )
    assert encode_entry(Closed(source=SOURCE, view=0)) == b'[1,"cl","step_1",2,"n0nce.7",0]\n'


def test_many_small_chunks_compress_together() -> None:
    pieces = tuple(Piece(b'{"type":"text-delta","delta":"word %d"}' % n, False) for n in range(500))
    stored = encode_entry(Chunks(source=SOURCE, replaceable=False, view=0, pieces=pieces))
    assert len(stored) < sum(len(piece.data) for piece in pieces) / 5


@settings(max_examples=200, deadline=None)
@given(entry=entries, data=st.data())
def test_damage_is_told_from_what_was_stored(entry: Entry, data: st.DataObject) -> None:
    raw = encode_entry(entry)
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]
    with pytest.raises(SerializationError, match="damaged|format"):
        decode_entry(cut)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]\n",
        b"{}\n",
        b"[1]\n",
        b'[1,"cl","s",1,"e",0]',
        b'[1,"cl","s",1,"e",0]\nrest',
        b'["1","cl","s",1,"e",0]\n',
        b'[1,"ch","s",1,"e",0,0,[3]]\n12345',
        b'[1,"di","s",1,"e",[[1]],null]\n',
        b'[1,"cl","s",1]\n',
    ],
)
def test_nonsense(raw: bytes) -> None:
    with pytest.raises(SerializationError, match="damaged"):
        decode_entry(raw)


@pytest.mark.parametrize("raw", [b'[2,"ch","s",1,"e",0]\n', b'[1,"xx","s",1,"e",0]\n'])
def test_a_newer_version(raw: bytes) -> None:
    with pytest.raises(SerializationError, match="written by a newer version"):
        decode_entry(raw)
