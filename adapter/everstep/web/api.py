"""The routes.

==== ========================== ===========================================================================
verb path                       what
==== ========================== ===========================================================================
GET  ``/health``                the function answers; needs no token, touches nothing
POST ``/v1/runs``               start a run: ``{"workflow": …, "input": {…} or […], "attributes": {…},
                                "start_at": …}``; header ``Idempotency-Key``
GET  ``/v1/runs/{id}``          how it stands
GET  ``/v1/runs/{id}/result``   its outcome; with ``?wait=20`` waits up to so many seconds for it; 202 when
                                there is none yet
==== ========================== ===========================================================================

A client that follows a run that went on as another (continue-as-new) gets the newest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import FastAPI, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from everstep.app import MAX_KEY_LENGTH, Workflow, Workflows
from everstep.core.attributes import check_attributes
from everstep.core.durations import When, duration_micros
from everstep.core.ids import is_run_id
from everstep.core.run import RunRecord, RunStatus
from everstep.errors import EverstepError, WorkflowRunNotFoundError
from everstep.runtime.connection import LAST_POLL_SECONDS, Connection, at_rest
from everstep.web.auth import BearerAuth
from everstep.web.bodies import MAX_BODY_BYTES, read_json
from everstep.web.problems import of_http, of_ours, of_unforeseen, problem
from everstep.web.shapes import outcome_json, run_shape

MAX_WAIT_SECONDS: Final = 20
"""An HTTP API of API Gateway gives up after 30."""

RunId = Annotated[str, Path(alias="run_id", max_length=100)]


class StartRequest(BaseModel):
    """The body of a start."""

    model_config = ConfigDict(extra="forbid", strict=True)

    workflow: str
    input: dict[str, Any] | list[Any] = Field(default_factory=dict)
    attributes: dict[str, str] = Field(default_factory=dict)
    start_at: str | float | None = None


def create_api(
    app: Workflows,
    connection: Connection,
    *,
    tokens: Callable[[], Sequence[str]],
    vouched: Callable[[Scope], bool] | None = None,
    max_body: int = MAX_BODY_BYTES,
) -> FastAPI:
    """The ASGI app.

    Args:
        tokens: bearer tokens that are good now, asked at each request. When it returns none, nobody is let in.
        vouched: whether a gateway in front says who sent a request, so that it needs no token.
        max_body: bytes that a body may have, of a request and of an answer.
    """
    api = FastAPI(title="Everstep", docs_url=None, redoc_url=None)
    api.add_middleware(BearerAuth, tokens=tokens, open_paths=("/health",), vouched=vouched)
    api.add_exception_handler(EverstepError, of_ours)
    api.add_exception_handler(HTTPException, of_http)
    api.add_exception_handler(RequestValidationError, _of_validation)
    api.add_exception_handler(Exception, of_unforeseen)

    @api.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @api.post("/v1/runs", status_code=201)
    async def start(
        request: Request, idempotency_key: Annotated[str | None, Header(alias="Idempotency-Key")] = None
    ) -> Response:
        if len(request.headers.getlist("idempotency-key")) > 1:
            raise HTTPException(400, "The header Idempotency-Key is given twice.")
        key = None if idempotency_key is None else _key(idempotency_key)
        asked = await _start_request(request, max_body)
        run = await run_in_threadpool(_start, app, connection, asked, key)
        return JSONResponse(run_shape(run), 201, headers={"Location": f"/v1/runs/{run.run_id}"})

    @api.get("/v1/runs/{run_id}")
    async def status(run_id: RunId) -> Response:
        return JSONResponse(run_shape(await _read(connection, run_id)))

    @api.get("/v1/runs/{run_id}/result")
    async def result(run_id: RunId, wait: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS)] = 0) -> Response:
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        while True:
            run = await _read(connection, run_id)
            if at_rest(run) or loop.time() + LAST_POLL_SECONDS > until:
                break
            await asyncio.sleep(LAST_POLL_SECONDS)
        answer = outcome_json(run)
        if len(answer) > max_body:
            raise HTTPException(422, f"The result has {len(answer):,} bytes, more than this API answers with.")
        if run.closed and run.status is not RunStatus.CONTINUED:
            return Response(answer, media_type="application/json")
        return Response(answer, 202, headers={"Retry-After": "1"}, media_type="application/json")

    return api


# --- reading requests --------------------------------------------------------------------------------


async def _start_request(request: Request, max_body: int) -> StartRequest:
    body = await read_json(request, limit=max_body)
    if not isinstance(body, dict):
        raise HTTPException(422, 'The body must be an object, such as {"workflow": "greet", "input": {"name": "Ada"}}.')
    try:
        return StartRequest.model_validate(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from None


def _key(text: str) -> str:
    """The header's value, with or without the quotes that the draft standard asks for."""
    key = text[1:-1] if len(text) >= 2 and text[0] == text[-1] == '"' else text
    if not (1 <= len(key) <= MAX_KEY_LENGTH and key.isprintable()):
        raise HTTPException(400, f"The header Idempotency-Key has 1 to {MAX_KEY_LENGTH} printable characters.")
    return key


def _start_at(value: str | float | None) -> When | None:
    """A moment (ISO 8601 with an offset) or a duration ("1h 30m", or seconds)."""
    if value is None:
        return None
    try:
        if isinstance(value, str) and value[:4].isdigit() and value[4:5] == "-":
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is None:
                raise ValueError("it has no offset from UTC, such as Z or +01:00")
            return moment
        duration_micros(value)
    except ValueError as error:
        raise HTTPException(422, f"start_at: {error}") from None
    return value


def _of_validation(_request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise TypeError(error)
    errors = [{"at": ".".join(map(str, each["loc"])), "message": each["msg"]} for each in error.errors()[:20]]
    detail = "; ".join(f"{each['at'] or 'body'}: {each['message']}" for each in errors)
    return problem(422, f"The request does not fit: {detail}", errors=errors)


# --- doing what they ask -----------------------------------------------------------------------------


def _start(app: Workflows, connection: Connection, asked: StartRequest, key: str | None) -> RunRecord:
    workflow = _workflow(app.workflows, asked.workflow)
    attributes = check_attributes(asked.attributes)
    start_at = _start_at(asked.start_at)
    try:
        data = workflow.encode_json(asked.input)
    except TypeError as error:  # the names or the number of arguments
        raise HTTPException(422, f"input: {error}") from None
    return connection.start(workflow.name, data, attributes=attributes, idempotency_key=key, start_at=start_at)


def _workflow(workflows: Mapping[str, Workflow[Any, Any]], name: str) -> Workflow[Any, Any]:
    found = workflows.get(name)
    if found is None:
        raise HTTPException(404, f"There is no workflow {name[:200]!r}.")
    return found


async def _read(connection: Connection, run_id: str) -> RunRecord:
    if not is_run_id(run_id):
        raise WorkflowRunNotFoundError(run_id)
    return await run_in_threadpool(connection.get, run_id)
