"""Run ids: ``wrun_`` and a ULID (https://github.com/ulid/spec), or 128 bits derived from what the run is for."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from everstep.core.history import Micros

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32
_RUN_ID: Final = re.compile(r"wrun_[0-7][0-9A-HJKMNP-TV-Z]{25}")
ENTROPY_BYTES: Final = 10


def _base32(number: int) -> str:
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def new_run_id(now: Micros, entropy: bytes) -> str:
    """A fresh run id: 48 bits of milliseconds, then ten bytes of randomness. Sorts by time."""
    milliseconds = now // 1000 & (1 << 48) - 1
    return "wrun_" + _base32(milliseconds << 80 | int.from_bytes(entropy[:ENTROPY_BYTES], "big"))


def derived_run_id(kind: str, *parts: str) -> str:
    """The run id that follows from an idempotency key, or from another run. The same parts give the same id."""
    text = "\x00".join((kind, *parts))
    return "wrun_" + _base32(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big"))


def child_run_id(parent: str, number: int) -> str:
    """The id of a run's child of this number."""
    return derived_run_id("child", parent, str(number))


def is_run_id(text: str) -> bool:
    """Whether the text has the form of a run id."""
    return _RUN_ID.fullmatch(text) is not None
