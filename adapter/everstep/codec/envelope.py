"""What surrounds a payload in the store: nothing, compression, and one day encryption.

A sealed payload is either JSON text as it is, or a format name, a colon and the content::

    {"amount": 12}          JSON text
    zlib:<deflated text>    at least a tenth smaller than the text
    raw:<bytes>             bytes that are not JSON text

Format names are lower-case letters, digits and ``-``. JSON text never looks like that. An encryption format wraps an
already sealed payload, so that compression comes before encryption; the name ``aes256gcm`` is kept for it.
"""

from __future__ import annotations

import re
import zlib
from typing import Final

from everstep.core.limits import MAX_PAYLOAD_BYTES
from everstep.errors import SerializationError

__all__ = ["COMPRESS_FROM", "MAX_PAYLOAD_BYTES", "seal", "unseal"]

"""The largest payload that is written or read, before compression."""

COMPRESS_FROM: Final = 1024
"""Payloads below this many bytes stay readable. A store that bills by the kilobyte charges them one unit anyway."""

_LEVEL: Final = 3
_JSON_FIRST: Final = frozenset(b'{["-0123456789')
_JSON_WORDS: Final = frozenset((b"null", b"true", b"false", b""))
_FORMAT: Final = re.compile(rb"([a-z][a-z0-9-]{0,31}):")


def seal(plain: bytes) -> bytes:
    """The form of a payload that is stored.

    Raises:
        SerializationError: it is larger than `MAX_PAYLOAD_BYTES`.
    """
    size = len(plain)
    if size < COMPRESS_FROM:
        return plain if (plain and plain[0] in _JSON_FIRST) or plain in _JSON_WORDS else b"raw:" + plain
    if size > MAX_PAYLOAD_BYTES:
        raise SerializationError(
            f"a payload of {size:,} bytes is larger than the limit of {MAX_PAYLOAD_BYTES:,}: store the data elsewhere "
            f"(a file, an object store) in a step, and pass a reference to it"
        )
    packed = zlib.compress(plain, _LEVEL)
    if len(packed) + 5 <= size * 9 // 10:
        return b"zlib:" + packed
    return plain if plain[0] in _JSON_FIRST else b"raw:" + plain


def unseal(data: bytes) -> bytes:
    """The payload in its stored form back to what was sealed.

    Raises:
        SerializationError: it is damaged, would expand beyond `MAX_PAYLOAD_BYTES`, or has an unknown format.
    """
    if (data and data[0] in _JSON_FIRST) or data in _JSON_WORDS:
        return data
    if data.startswith(b"zlib:"):
        return _inflate(data)
    if data.startswith(b"raw:"):
        return data[4:]
    named = _FORMAT.match(data)
    if named is None:
        raise SerializationError(
            f"stored payload is damaged: {len(data)} bytes that begin with {data[:16]!r} are neither JSON text nor a "
            f"known format. Restore it from a backup, or check that nothing but Everstep wrote it"
        )
    raise SerializationError(
        f"stored payload has the format {named[1].decode()!r}, which this version of Everstep does not know: it was "
        f"written by a newer version. Upgrade everstep in this process"
    )


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data[5:], MAX_PAYLOAD_BYTES + 1)
    except zlib.error as error:
        raise SerializationError(
            f"stored payload is damaged: {len(data)} bytes of format 'zlib' do not decompress ({error}). Restore it "
            f"from a backup"
        ) from error
    if len(plain) > MAX_PAYLOAD_BYTES:
        raise SerializationError(
            f"stored payload of {len(data):,} bytes would expand beyond the limit of {MAX_PAYLOAD_BYTES:,} bytes. "
            f"Everstep writes no such payload: check who wrote it"
        )
    if not inflater.eof or inflater.unused_data:
        raise SerializationError(
            f"stored payload is damaged: its {len(data)} bytes of format 'zlib' are cut short or have something after "
            f"them. Restore it from a backup"
        )
    return plain
