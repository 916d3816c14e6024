"""Who may use the API: whoever shows a bearer token (https://www.rfc-editor.org/rfc/rfc6750). Closed by default."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable, Sequence
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from everstep.errors import EverstepError
from everstep.web.problems import problem

logger: Final = logging.getLogger("everstep.web")

SHORTEST_TOKEN: Final = 16
"""Characters. A shorter token could be guessed, and is not accepted."""


class BearerAuth:
    """Lets a request pass that has one of the tokens; asks before anything else looks at it, also at its path.

    Args:
        tokens: those that are good now. Asked at each request.
        is_open: whether a request needs no token.
        vouched: whether whoever handed the request over says who sent it; such a request needs no token.
        sign_in: what people who come with a browser get beside the refusal, if there is something for them.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Callable[[], Sequence[str]],
        is_open: Callable[[Scope], bool],
        vouched: Callable[[Scope], bool] | None = None,
        sign_in: Callable[[Scope], Response | None] = lambda _scope: None,
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._is_open = is_open
        self._vouched = vouched
        self._sign_in = sign_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # there are none
            return
        if scope["type"] == "lifespan" or self._is_open(scope) or (self._vouched is not None and self._vouched(scope)):
            await self._app(scope, receive, send)
            return
        refused = {"WWW-Authenticate": 'Bearer realm="everstep"'}
        shown = Headers(scope=scope).getlist("authorization")
        scheme, _, token = shown[0].partition(" ") if len(shown) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not token.strip():
            answer = self._sign_in(scope) or problem(
                401, "This needs a token: Authorization: Bearer …", headers=refused
            )
        else:
            try:
                known = await run_in_threadpool(self._tokens)
            except EverstepError as error:
                logger.error("the API's tokens cannot be read, nobody is let in: %s", error)
                answer = problem(503, "The service cannot check tokens at the moment.", headers={"Retry-After": "5"})
            else:
                if _is_one_of(token.strip(), known):
                    await self._app(scope, receive, send)
                    return
                refused["WWW-Authenticate"] += ', error="invalid_token"'
                answer = problem(401, "The token is not valid.", headers=refused)
        await answer(scope, receive, send)


def _is_one_of(token: str, known: Sequence[str]) -> bool:
    """In constant time: it compares digests, and with each of the tokens."""
    digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
    found = False
    for each in known:
        if len(each) >= SHORTEST_TOKEN:
            found |= hmac.compare_digest(digest, hashlib.sha256(each.encode()).digest())
    return found
