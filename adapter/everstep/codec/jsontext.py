"""Compact JSON text at the speed of the C encoder and scanner of the standard library.

`json.dumps` and `json.loads` build an encoder or guess the character set on every call, which costs more than the
work itself for small values. Here encoder and scanner are made once.
"""

from __future__ import annotations

import json
import json.encoder
from collections.abc import Callable
from json.encoder import encode_basestring as quote
from json.encoder import encode_basestring_ascii as quote_ascii
from typing import Any, NoReturn

__all__ = ["make_scanner", "quote", "quote_ascii", "write"]


def _make_writer() -> Callable[[Any], str]:
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # not CPython
        return json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")).encode
    # markers, default, string encoder, indent, key separator, item separator, sort_keys, skipkeys, allow_nan
    encode: Any = make(None, _unknown, quote, None, ":", ",", False, False, False)

    def write(value: Any) -> str:
        return "".join(encode(value, 0))

    return write


def _unknown(value: object) -> NoReturn:
    raise TypeError(f"{type(value).__name__} is not a JSON type")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


write = _make_writer()
"""The compact text of a value made of exact JSON types only. Non-finite floats raise ValueError.

Ints of more digits than the interpreter converts raise ValueError too. Cycles are not checked: the caller does.
"""


def make_scanner(object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Callable[[str], Any]:
    """A function from JSON text without surrounding space to its value. Raises ValueError or RecursionError."""
    decoder: Any = json.JSONDecoder(object_hook=object_hook, parse_constant=_no_constant)
    scan = decoder.scan_once

    def read(text: str) -> Any:
        try:
            value, end = scan(text, 0)
        except StopIteration as stop:
            raise ValueError(f"no JSON value at character {stop.value}") from None
        if end != len(text):
            raise ValueError(f"text goes on after the JSON value, at character {end}")
        return value

    return read
