"""One log line for each request. What is secret in a path, a token, is not in it; queries are left out altogether."""

from __future__ import annotations

import logging
import time
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from everstep.web.hooks import HOOKS_PATH
from everstep.webhooks import WEBHOOK_PATH

logger: Final = logging.getLogger("everstep.web")

_PLAIN: Final = ("/v1/runs", "/v1/manifest", "/health", "/docs", "/openapi.json")
"""Paths that have no secrets in them. Of any other path only the beginning is shown."""
_LONGEST: Final = 200


class AccessLog:
    """Logs method, path, status and duration of each request when its answer has been sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            took = (time.perf_counter() - begun) * 1000
            logger.info("%s %s %s in %.0f ms", scope["method"], shown(scope["path"]), status or "-", took)


def shown(path: str) -> str:
    """A path as it may be logged."""
    if not any(path == plain or path.startswith(plain + "/") for plain in _PLAIN):
        known = next((known for known in (WEBHOOK_PATH, HOOKS_PATH) if path.startswith(known)), "/")
        path = known + ("…" if len(path) > len(known) else "")
    return "".join(character if character.isprintable() else "?" for character in path[:_LONGEST])
