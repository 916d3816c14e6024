"""Errors as answers: problem details (https://www.rfc-editor.org/rfc/rfc9457).

A client learns what was wrong with its request. What went wrong on our side is logged, and the client gets no more than
that: no stack trace, no name of a table or a file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from everstep.errors import (
    AttributeValidationError,
    ConfigurationError,
    EverstepError,
    HookNotFoundError,
    IdempotencyConflictError,
    SerializationError,
    StoreBusyError,
    WorkflowRunNotFoundError,
)
from everstep.web.models import Problem

logger: Final = logging.getLogger("everstep.web")

MEDIA_TYPE: Final = "application/problem+json"
PAGES: Final = "https://everstep.example/docs/errors/"
MOST_ERRORS: Final = 20

_STATUS: Final[tuple[tuple[type[EverstepError], int], ...]] = (
    (WorkflowRunNotFoundError, 404),
    (HookNotFoundError, 404),
    (IdempotencyConflictError, 409),
    (AttributeValidationError, 422),
    (SerializationError, 422),
)
_OURS: Final = "Something went wrong here, not in the request. It is in the log."

_MEANING: Final[Mapping[int, str]] = {
    400: "The request makes no sense: what should be JSON is not, or a header is wrong.",
    401: "There is no credential, or it is not good.",
    404: "What the path names is not there.",
    408: "The body did not arrive in time.",
    409: "It contradicts what is there.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "The request does not fit.",
    500: "Something went wrong on this side, and is in the log.",
    503: "The store is busy; try again.",
    504: "Nobody answered in time.",
}


def problem(
    status: int, detail: str, *, page: str | None = None, headers: Mapping[str, str] | None = None, **more: Any
) -> Response:
    """An answer that says what is wrong.

    Args:
        page: of ``docs/errors``, as the problem's type.
        more: other fields of `Problem`.
    """
    content = Problem(
        type="about:blank" if page is None else PAGES + page,
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        **more,
    )
    return Response(content.model_dump_json(exclude_none=True), status, headers=headers, media_type=MEDIA_TYPE)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How the OpenAPI document describes these answers."""
    return {status: described(status) for status in statuses}


def described(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": _MEANING[status], "content": {MEDIA_TYPE: {"schema": schema}}}


@contextmanager
def refusing(status: int = 422) -> Iterator[None]:
    """What the store says within about a wrong argument is about the request. Elsewhere it is our own mistake."""
    try:
        yield
    except ConfigurationError as error:
        raise HTTPException(status, str(error)) from error


# --- handlers ----------------------------------------------------------------------------------------


def of_ours(_request: Request, error: Exception) -> Response:
    """An error of this package: those that a client can do something about tell it what."""
    page = error.page if isinstance(error, EverstepError) else None
    if isinstance(error, StoreBusyError):
        logger.warning("the store is busy: %s", error)
        return problem(503, "The store is busy; try again.", page=page, headers={"Retry-After": "1"})
    for kind, status in _STATUS:
        if isinstance(error, kind):
            more: dict[str, Any] = {"run_id": error.run_id} if isinstance(error, IdempotencyConflictError) else {}
            return problem(status, str(error), page=page, **more)
    logger.error("request failed: %s", error, exc_info=error)
    return problem(500, _OURS)


def of_http(request: Request, error: Exception) -> Response:
    """What the router and the routes refuse: no such path, no such method, a bad request."""
    if not isinstance(error, HTTPException):
        raise TypeError(error)
    headers = error.headers
    if error.status_code == 405:  # the router names the methods of the first route only that has the path
        routes, path = request.app.state.routes, request.scope["path"]
        template = next(route.path for route in routes if route.path_regex.match(path))
        methods = (route.methods for route in routes if route.path == template)
        headers = {"Allow": ", ".join(sorted(set().union(*methods)))}
    return problem(error.status_code, error.detail, headers=headers)


def of_validation(_request: Request, error: Exception) -> Response:
    """What does not fit the models, part by part."""
    if not isinstance(error, RequestValidationError):
        raise TypeError(error)
    errors = [{"at": ".".join(map(str, each["loc"])), "message": each["msg"]} for each in error.errors()[:MOST_ERRORS]]
    detail = "; ".join(f"{each['at'] or 'body'}: {each['message']}" for each in errors)
    return problem(422, f"The request does not fit: {detail}", errors=errors)


def of_unforeseen(_request: Request, _error: Exception) -> Response:
    """Anything else. Starlette raises the error once more after this, for the server to log."""
    return problem(500, _OURS)
