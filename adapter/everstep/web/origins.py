"""Requests from pages of other origins (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol). Off by default.

Webhooks take no part in it: how their requests are answered is up to the workflow.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from everstep.web.problems import problem
from everstep.webhooks import WEBHOOK_PATH


class Origins(CORSMiddleware):
    """Lets pages of these origins use the API, with a token that they were given."""

    def __init__(self, app: ASGIApp, *, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST", "PATCH"),
            allow_headers=("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"),
            expose_headers=("Location", "Retry-After", "Stream-Done", "Stream-Last-Id", "Stream-Reset"),
            max_age=600,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(WEBHOOK_PATH):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        return problem(answer.status_code, bytes(answer.body).decode() + ".", headers={"Vary": "Origin"})
