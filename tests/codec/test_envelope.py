from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep.codec import envelope
from everstep.codec.envelope import seal, unseal
from everstep.errors import SerializationError


@given(st.binary(max_size=3000) | st.text(min_size=1000).map(lambda text: json.dumps(text).encode()))
def test_round_trip(plain: bytes) -> None:
    assert unseal(seal(plain)) == plain


@pytest.mark.parametrize("text", [b"null", b"true", b"false", b"{}", b"[1]", b'"zlib:"', b"-1", b"0.5", b""])
def test_small_json_stays_readable(text: bytes) -> None:
    assert seal(text) == text == unseal(text)


@pytest.mark.parametrize("plain", [b"zlib:x", b"raw:x", b"x", b"\xff", b"nul", b" 1", b"truex"])
def test_bytes_that_are_not_json_are_marked(plain: bytes) -> None:
    assert seal(plain) == b"raw:" + plain
    assert unseal(seal(plain)) == plain


def test_large_payloads_shrink_when_it_helps() -> None:
    text = b'"' + b"a" * 5000 + b'"'
    assert seal(text).startswith(b"zlib:")
    assert len(seal(text)) < 100
    noise = b"[" + bytes(range(256)) * 4
    hard = b'"' + zlib.compress(noise * 7) * 30
    assert unseal(seal(hard)) == hard


def test_a_payload_that_expands_without_end() -> None:
    bomb = b"zlib:" + zlib.compress(b"1" * (envelope.MAX_PAYLOAD_BYTES + 1), 1)
    with pytest.raises(SerializationError, match="would expand beyond the limit of 67,108,864 bytes"):
        unseal(bomb)


def test_too_large_to_write() -> None:
    with pytest.raises(SerializationError, match=r"larger than the limit.*store the data elsewhere"):
        seal(bytes(envelope.MAX_PAYLOAD_BYTES + 1))


@pytest.mark.parametrize("data", [b"zlib:", b"zlib:xyz", b"\x00abc", b"zlib", b"ZLIB:x", b"t"])
def test_damaged(data: bytes) -> None:
    with pytest.raises(SerializationError, match="damaged"):
        unseal(data)


def test_cut_short_or_followed_by_something() -> None:
    sealed = seal(b'"' + b"a" * 5000 + b'"')
    for data in (sealed[:-3], sealed + b"x"):
        with pytest.raises(SerializationError, match="cut short or have something after"):
            unseal(data)


def test_format_of_a_newer_version() -> None:
    with pytest.raises(SerializationError, match=r"format 'zstd'.*written by a newer version. Upgrade everstep"):
        unseal(b"zstd:\x01\x02")
