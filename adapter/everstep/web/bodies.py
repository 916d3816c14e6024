"""Request bodies: of a limited size, and JSON without surprises."""

from __future__ import annotations

import json
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request

MAX_BODY_BYTES: Final = 5 * 1024 * 1024
"""Lambda takes events of up to 6 MB, and the gateway may encode a body in base64. Larger inputs belong into an object
store, with a reference to them as the input."""


async def read_json(request: Request, *, limit: int = MAX_BODY_BYTES) -> Any:
    """The body as parsed JSON.

    Raises:
        HTTPException: 413 when it is too large (as soon as that is known), 415 when it says that it is something else,
            400 when it is not JSON.
    """
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise HTTPException(415, f"The body must be application/json, not {media_type[:100]}.")
    text = await _read(request, limit)
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError:
        raise HTTPException(400, "The body is nested too deep.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise HTTPException(400, f"The body is not JSON: {error.msg} at {where}.") from None
    except UnicodeDecodeError:
        raise HTTPException(400, "The body is not JSON: it is not UTF-8 text.") from None
    except ValueError as error:
        raise HTTPException(400, f"The body is not JSON: {error}.") from None


async def _read(request: Request, limit: int) -> bytes:
    too_large = HTTPException(413, f"The body is larger than {limit:,} bytes.")
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is given twice in one object")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
