"""Webhooks: requests of any method become payloads of the hook that has the token.

The token is in the path, and nothing else is asked for. A token that nobody has, or that belongs to a hook that is no
webhook, is answered with 404 and nothing at all.
"""

from __future__ import annotations

import logging
from http import HTTPMethod
from typing import Final
from urllib.parse import parse_qs

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from everstep.errors import HookNotFoundError
from everstep.ports import HookClaim
from everstep.web.bodies import read_body
from everstep.web.problems import described, problem, problems
from everstep.web.serving import Served
from everstep.webhooks import (
    REQUEST_CODEC,
    RESPONSE_CODEC,
    WEBHOOK_PATH,
    Answer,
    WebhookRequest,
    WebhookResponse,
)

logger: Final = logging.getLogger("everstep.web")

PATH: Final = WEBHOOK_PATH + "{token:path}"
_METHODS: Final = tuple(method for method in HTTPMethod if method not in (HTTPMethod.CONNECT, HTTPMethod.TRACE))
"""That the document describes; others are taken too."""
_OURS: Final = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade"})
"""Headers of a response that belong to the connection, and are for the server to set."""
_BODILESS: Final = frozenset({204, 205, 304})
_GONE: Final = 3.0
"""Seconds between two looks whether the caller is still there."""


def routes(served: Served) -> APIRouter:
    router = APIRouter(tags=["webhooks"])

    async def webhook(token: str, request: Request) -> Response:
        """A request of any method is a payload for the workflow that opened the webhook. It needs no credential."""
        return await _answer(served, request)

    for method in _METHODS:
        router.add_api_route(
            PATH,
            webhook,
            methods=[method],
            summary=f"Send a {method} request to a webhook",
            operation_id=f"webhook_{method.lower()}",
            status_code=202,
            response_class=Response,
            response_description="It is stored. Or whatever response the workflow has chosen for its callers.",
            responses={
                "default": {"description": "Whatever response the workflow has chosen for its callers."},
                404: {"description": "There is no such webhook. The body is empty."},
                **problems(408, 413),
                504: described(504) | {"description": "The workflow has not answered its caller in time."},
            },
        )
    return router


def any_method(served: Served) -> Route:
    """The route for methods that the document does not name."""
    return Route(PATH, _Endpoint(served), include_in_schema=False)


class _Endpoint:
    def __init__(self, served: Served) -> None:
        self._served = served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await _answer(self._served, Request(scope, receive, send))
        await response(scope, receive, send)


async def _answer(served: Served, request: Request) -> Response:
    token = request.path_params["token"]
    try:
        claim = await run_in_threadpool(served.connection.find_hook, token)
        if not claim.webhook:
            return Response(status_code=404)
        asked = await _request(served, request, claim)
        await run_in_threadpool(_deposit, served, token, asked)
    except HookNotFoundError:
        return Response(status_code=404)
    if claim.answer is not None:
        return _response(served, request, RESPONSE_CODEC.decode(claim.answer))
    return await _wait(served, request, asked)


async def _request(served: Served, request: Request, claim: HookClaim) -> WebhookRequest:
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return WebhookRequest(
        request_id=served.connection.entropy(16).hex(),
        run_id=claim.run_id,
        method=request.method,
        path=request.url.path,
        headers=headers,
        query=parse_qs(request.url.query, keep_blank_values=True),
        body=await read_body(request, served.max_webhook),
    )


def _deposit(served: Served, token: str, asked: WebhookRequest) -> None:
    served.connection.resume_hook(token, REQUEST_CODEC.encode(asked), resume_id=asked.request_id)


async def _wait(served: Served, request: Request, asked: WebhookRequest) -> Response:
    """Hold the caller until a step answers."""
    answer, looked = Answer(served.connection, asked), 0.0
    async for passed in served.moments(served.hold):
        found = await run_in_threadpool(answer.look)
        if found is not None:
            return _response(served, request, found)
        if answer.over:
            return problem(504, "The workflow has ended without an answer.")
        if passed - looked > _GONE:
            looked = passed
            if await request.is_disconnected():
                break
    return problem(504, f"The workflow has not answered within {served.hold:g} s. It has the request, and may go on.")


def _response(served: Served, request: Request, answer: WebhookResponse) -> Response:
    if len(answer.body) > served.max_answer:
        logger.error("a webhook's response has %d bytes, and %d can be answered", len(answer.body), served.max_answer)
        return problem(500, "The workflow's answer is too large for this server.")
    headers = {name: value for name, value in answer.headers.items() if name.lower() not in _OURS}
    body = b"" if request.method == "HEAD" or answer.status in _BODILESS else answer.body
    return Response(body, answer.status, headers)
