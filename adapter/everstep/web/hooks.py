"""Look hooks up by their tokens, and send them payloads."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from everstep.hooks import encode_payload, payload_classes
from everstep.web import models
from everstep.web.bodies import BODY_PROBLEMS, described_body, limit_of, read_json
from everstep.web.problems import problems
from everstep.web.runs import Key, checked_key
from everstep.web.schemas import schema_of
from everstep.web.serving import Served
from everstep.web.shapes import hook_of

HOOKS_PATH: Final = "/v1/hooks/"
RESUME: Final = "/resume"
Token = Annotated[str, Path(description="The hook's token, percent-encoded.")]


def is_resume(method: str, path: str) -> bool:
    """Whether a request is to resume a hook."""
    return method == "POST" and path.startswith(HOOKS_PATH) and path.endswith(RESUME)


def routes(served: Served) -> APIRouter:
    router = APIRouter(tags=["hooks"])
    connection = served.connection

    @router.post(
        HOOKS_PATH + "{token:path}" + RESUME,
        summary="Resume a hook",
        status_code=202,
        response_model=models.Resumed,
        response_description="The payload is stored.",
        responses={**BODY_PROBLEMS, **problems(404)},
        openapi_extra=described_body({"description": "The payload, of whatever form the hook takes."}),
    )
    async def resume_hook(request: Request, token: Token, key: Key = None) -> models.Resumed:
        """The body is the payload. Where the hook has a class for payloads, it must fit that.

        With an `Idempotency-Key` it may be repeated: the run sees the first payload with the same key.
        """
        resume_id = checked_key(request, key) or connection.entropy(8).hex()
        payload = await read_json(request, limit=limit_of(request))
        return await run_in_threadpool(_resume, served, token, payload, resume_id)

    @router.get(
        HOOKS_PATH + "{token:path}", summary="Look a hook up", response_model=models.Hook, responses=problems(404)
    )
    def find_hook(token: Token) -> models.Hook:
        """404: no run has an open hook with this token."""
        claim = connection.find_hook(token)
        known = payload_classes(claim.kind)
        return hook_of(claim, connection.public_url, schema_of(known[0]) if known else None)

    return router


def _resume(served: Served, token: str, payload: Any, resume_id: str) -> models.Resumed:
    connection = served.connection
    data = encode_payload(connection.find_hook(token).kind, payload)
    claim = connection.resume_hook(token, data, resume_id=resume_id)
    return models.Resumed(run_id=claim.run_id, resume_id=resume_id)
