"""Between API Gateway and the ASGI app. Only the API function imports this."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any, Final
from urllib.parse import unquote

from mangum import Mangum
from mangum.adapter import DEFAULT_TEXT_MIME_TYPES
from starlette.types import ASGIApp, Receive, Scope, Send

_TEXT: Final = (*DEFAULT_TEXT_MIME_TYPES, "application/problem+json")


def as_function(api: ASGIApp) -> Mangum:
    """The app, called with events of API Gateway (payload format 2.0)."""
    logging.getLogger("mangum.http").setLevel(logging.WARNING)  # its lines show the tokens in paths; the app's do not
    return Mangum(_Decoded(api), lifespan="off", text_mime_types=list(_TEXT))


class _Decoded:
    """Hands paths over as servers do, without percent signs. API Gateway passes on what the client has encoded."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, "path": unquote(scope["path"])}, receive, send)


def signed(scope: MutableMapping[str, Any]) -> bool:
    """Whether the gateway has checked the request's signature and names its sender (``AWS_IAM`` on the route).

    Asked also where the template sets that up: a route that somebody added without it stays closed.

    https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
    """
    found: Any = scope.get("aws.event")
    for name in ("requestContext", "authorizer", "iam", "userArn"):
        found = found.get(name) if isinstance(found, dict) else None
    return isinstance(found, str) and found != ""
