"""Limits that hold for every backend."""

from __future__ import annotations

from typing import Final

from everstep.errors import SerializationError

MAX_PAYLOAD_BYTES: Final = 64 * 1024 * 1024
"""The size of one argument list or one result, as JSON, before compression."""


def check_size(data: bytes, what: str) -> bytes:
    """The payload itself, or a `SerializationError` that says whose it is."""
    if len(data) > MAX_PAYLOAD_BYTES:
        raise SerializationError(
            f"{what} is {len(data):,} bytes as JSON, more than the limit of {MAX_PAYLOAD_BYTES:,}: store the data "
            f"elsewhere (a file, an object store) in a step, and pass a reference to it"
        )
    return data


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8. File names that are not hold lone surrogates, which cannot."""
    return text.isascii() or text.encode("utf-8", "ignore").decode() == text
