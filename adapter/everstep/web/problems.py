"""Errors as answers: problem details (https://www.rfc-editor.org/rfc/rfc9457).

A client learns what was wrong with its request. What went wrong on our side is logged, and the client gets a reference
and no more: no stack trace, no name of a table or a file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from everstep.errors import (
    AttributeValidationError,
    EverstepError,
    IdempotencyConflictError,
    SerializationError,
    StoreBusyError,
    WorkflowRunNotFoundError,
)

logger: Final = logging.getLogger("everstep.web")

MEDIA_TYPE: Final = "application/problem+json"
PAGES: Final = "https://everstep.example/docs/errors/"

_STATUS: Final[tuple[tuple[type[EverstepError], int], ...]] = (
    (WorkflowRunNotFoundError, 404),
    (IdempotencyConflictError, 409),
    (AttributeValidationError, 422),
    (SerializationError, 422),
)
_OURS: Final = "Something went wrong here, not in the request. It is in the log."


def problem(
    status: int, detail: str, *, page: str | None = None, headers: Mapping[str, str] | None = None, **more: Any
) -> Response:
    """An answer that says what is wrong.

    Args:
        page: of ``docs/errors``, as the problem's type.
    """
    content = {
        "type": "about:blank" if page is None else PAGES + page,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **more,
    }
    return Response(json.dumps(content), status, headers=headers, media_type=MEDIA_TYPE)


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


def of_http(_request: Request, error: Exception) -> Response:
    """What the router and the routes refuse: no such path, no such method, a bad request."""
    if not isinstance(error, HTTPException):
        raise TypeError(error)
    return problem(error.status_code, error.detail, headers=error.headers)


def of_unforeseen(_request: Request, _error: Exception) -> Response:
    """Anything else. Starlette raises the error once more after this, for the server to log."""
    return problem(500, _OURS)
