"""Request bodies: of a limited size, in time, and JSON without surprises."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final, Generic, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from everstep.web.problems import problems

MAX_BODY_BYTES: Final = 5 * 1024 * 1024
"""Lambda takes events of up to 6 MB, and the gateway may encode a body in base64. Larger inputs belong into an object
store, with a reference to them as the input."""
READ_SECONDS: Final = 20
"""How long a body may take to arrive."""
BODY_PROBLEMS: Final = problems(400, 408, 413, 415)

M = TypeVar("M", bound=BaseModel)


class JsonBody(Generic[M]):
    """Reads a request's body as a model. A dependency of a route, whose document it also describes.

    Args:
        optional: nothing at all stands for an empty object.
        media_type: what it is called, beside ``application/json``.
    """

    def __init__(self, model: type[M], *, optional: bool = False) -> None:
        self._model = model
        self._optional = optional

    async def __call__(self, request: Request) -> M:
        content = await read_json(request, limit=limit_of(request), empty={} if self._optional else None)
        if not isinstance(content, dict):
            raise HTTPException(422, f"The body must be an object, not {_kind(content)}.")
        try:
            return self._model.model_validate(content)
        except ValidationError as error:
            raise RequestValidationError(error.errors(include_url=False)) from None

    @property
    def described(self) -> dict[str, Any]:
        """What the OpenAPI document says about it."""
        return described_body(self._model.model_json_schema(), required=not self._optional)


def described_body(schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    """What the OpenAPI document says about a body of JSON."""
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def limit_of(request: Request) -> int:
    """How many bytes a body may have."""
    return int(request.app.state.max_body)


async def read_json(request: Request, *, limit: int, empty: Any = None) -> Any:
    """The body as parsed JSON; `empty`, unless it is None, where there is none.

    Raises:
        HTTPException: 413 when it is too large (as soon as that is known), 408 when it does not arrive, 415 when it
            says that it is something else, 400 when it is not JSON.
    """
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    text = await read_body(request, limit)
    if not text and empty is not None:
        return empty
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise HTTPException(415, f"The body must be application/json, not {media_type[:100]}.")
    try:
        return json.loads(text.decode(), object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError:
        raise HTTPException(400, "The body is nested too deep.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise HTTPException(400, f"The body is not JSON: {error.msg} at {where}.") from None
    except UnicodeDecodeError:
        raise HTTPException(400, "The body is not JSON: it is not UTF-8 text.") from None
    except ValueError as error:
        raise HTTPException(400, f"The body is not JSON: {error}.") from None


async def read_body(request: Request, limit: int) -> bytes:
    """The body as it came."""
    too_large = HTTPException(413, f"The body is larger than {limit:,} bytes.", headers={"Connection": "close"})
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        waited = f"The body did not arrive within {READ_SECONDS} s."
        raise HTTPException(408, waited, headers={"Connection": "close"}) from None
    return bytes(body)


def _kind(value: Any) -> str:
    names = {list: "an array", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is given twice in one object")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
