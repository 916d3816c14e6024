"""The HTTP API: one ASGI app, the same under Mangum on Lambda and under a server on one machine.

=================================== ==================================================================
module                              routes
=================================== ==================================================================
`runs`                              start, list, status, input, result, published values
`control`                           cancel, terminate, wake up, pause, unpause, resume, rerun, attributes
`history`                           turns, operations
`hooks`                             look up, resume
`webhooks`                          requests from anybody who knows a webhook's address
`streams`                           what steps write while they run
`service`                           health, manifest
`pages`                             the page that shows all of this, and the OpenAPI document
=================================== ==================================================================

Who may use it is decided before anything else looks at a request (`auth`). Every error is a problem (`problems`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Scope

from everstep.app import Workflows
from everstep.errors import EverstepError
from everstep.runtime.connection import Connection
from everstep.web import control, history, hooks, pages, runs, service, streams, webhooks
from everstep.web.access import AccessLog
from everstep.web.auth import BearerAuth
from everstep.web.bodies import MAX_BODY_BYTES
from everstep.web.openapi import describe
from everstep.web.origins import Origins
from everstep.web.problems import of_http, of_ours, of_unforeseen, of_validation
from everstep.web.serving import HOLD_SECONDS, Served, only_known
from everstep.webhooks import MAX_BODY_BYTES as MAX_WEBHOOK_BYTES
from everstep.webhooks import WEBHOOK_PATH

MAX_BINARY_BYTES: Final = 4 * 1024 * 1024
"""Of an answer that is not text. Lambda answers with up to 6 MB, and such an answer is encoded in base64."""


def create_api(
    app: Workflows,
    connection: Connection,
    *,
    tokens: Callable[[], Sequence[str]],
    vouched: Callable[[Scope], bool] | None = None,
    max_body: int = MAX_BODY_BYTES,
    max_answer: int = MAX_BINARY_BYTES,
    open_hooks: bool = False,
    origins: Sequence[str] = (),
    live: bool = False,
    hold: float = HOLD_SECONDS,
    stopping: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """The ASGI app.

    Args:
        tokens: bearer tokens that are good now, asked at each request. When it returns none, nobody is let in.
        vouched: whether a gateway in front says who sent a request, so that it needs no token.
        max_body: bytes that a body may have, of a request and of an answer.
        max_answer: bytes that a workflow may answer a caller of a webhook with.
        open_hooks: whether a hook's token is all it takes to resume it.
        origins: whose pages may use the API from a browser.
        live: whether an answer reaches its reader while it is written; behind Lambda none does.
        hold: seconds that a caller is held at most, who waits for something.
        stopping: whether the server is about to stop, so that nobody is to be held any longer.
    """
    served = Served(
        app=app,
        connection=connection,
        max_body=max_body,
        max_webhook=MAX_WEBHOOK_BYTES,
        max_answer=max_answer,
        live=live,
        hold=hold,
        stopping=stopping,
    )
    api = FastAPI(
        title="Everstep",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    routers = [each.routes(served) for each in (runs, control, history, hooks, webhooks, streams, service)]
    routers.append(pages.routes(lambda: describe(api, open_hooks=open_hooks)))
    for router in routers:
        strict = [] if router.tags == ["webhooks"] else [Depends(only_known)]
        api.include_router(router, dependencies=strict)
    api.state.max_body = max_body
    api.state.routes = [route for router in routers for route in router.routes]
    api.router.routes.append(webhooks.any_method(served))
    api.add_exception_handler(EverstepError, of_ours)
    api.add_exception_handler(HTTPException, of_http)
    api.add_exception_handler(RequestValidationError, of_validation)
    api.add_exception_handler(Exception, of_unforeseen)

    def is_open(scope: Scope) -> bool:
        path = scope["path"]
        return (
            path == "/health"
            or path.startswith(WEBHOOK_PATH)
            or (open_hooks and hooks.is_resume(scope["method"], path))
        )

    api.add_middleware(BearerAuth, tokens=tokens, is_open=is_open, vouched=vouched, sign_in=pages.sign_in)
    if origins:
        api.add_middleware(Origins, origins=origins)
    api.add_middleware(AccessLog)  # the one that was added last comes first
    return api
