"""Start runs, list them, and learn how they stand and what came of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, TypeAlias

from fastapi import APIRouter, Depends, Header, Query
from pydantic import AwareDatetime, BeforeValidator
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from everstep.app import MAX_KEY_LENGTH, Workflow
from everstep.core.attributes import check_attributes
from everstep.core.durations import When, duration_micros, to_micros
from everstep.core.run import RunRecord, RunStatus
from everstep.ports import RunQuery
from everstep.runtime.connection import at_rest
from everstep.web import models
from everstep.web.bodies import BODY_PROBLEMS, JsonBody
from everstep.web.problems import problems, refusing
from everstep.web.serving import RunId, Served, Wait
from everstep.web.shapes import outcome_json, run_of, value_of

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description=f"1 to {MAX_KEY_LENGTH} printable characters. The same request with the same key counts once.",
        json_schema_extra={"minLength": 1, "maxLength": MAX_KEY_LENGTH, "pattern": "^[!#-~]([ -~]*[!#-~])?$"},
    ),
]


def _iso(text: object) -> object:
    """Numbers are no moments."""
    if isinstance(text, str) and not re.match(r"\d{4}-\d\d-\d\d[Tt ]", text):
        raise ValueError("a moment is written as in 2030-01-31T12:00:00Z")
    return text


Moment: TypeAlias = Annotated[AwareDatetime, BeforeValidator(_iso)]
_START: Final = JsonBody(models.StartRun)
_LOCATION: Final = {"Location": {"description": "The run.", "schema": {"type": "string"}}}


def routes(served: Served) -> APIRouter:
    router = APIRouter(tags=["runs"])
    connection = served.connection

    @router.post(
        "/v1/runs",
        summary="Start a run",
        status_code=201,
        response_model=models.Run,
        responses={201: {"headers": _LOCATION}, **BODY_PROBLEMS, **problems(404, 409)},
        openapi_extra=_START.described,
    )
    def start_run(
        request: Request, response: Response, asked: Annotated[models.StartRun, Depends(_START)], key: Key = None
    ) -> models.Run:
        """It is durable when this answers. 404: the app has no such workflow. 409: the key belongs to another input."""
        key = checked_key(request, key)
        run = _start(served, asked, key)
        response.headers["Location"] = f"/v1/runs/{run.run_id}"
        return run_of(run, chained=True)

    @router.get("/v1/runs", summary="List runs", response_model=models.RunList)
    def list_runs(
        workflow: Annotated[str | None, Query(description="Only runs of this workflow.")] = None,
        status: Annotated[RunStatus | None, Query(description="Only runs in this status.")] = None,
        created_from: Annotated[Moment | None, Query(description="Created at this moment or later.")] = None,
        created_before: Annotated[Moment | None, Query(description="Created before.")] = None,
        attribute: Annotated[
            list[str], Query(description="Only runs with it: `key=value`. May be given several times.")
        ] = [],  # noqa: B006 - FastAPI copies it
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        cursor: Annotated[str | None, Query(description="From the previous page.")] = None,
    ) -> models.RunList:
        """Newest first. All conditions must hold. A page may be short and still have a cursor."""
        query = RunQuery(
            workflow=workflow,
            status=status,
            created_from=None if created_from is None else _micros("created_from", created_from),
            created_before=None if created_before is None else _micros("created_before", created_before),
            attributes=_attributes(attribute),
            cursor=cursor or None,
            limit=limit,
        )
        with refusing():
            page = connection.backend.inspector.list_runs(query)
        return models.RunList(runs=[run_of(run) for run in page.runs], cursor=page.cursor)

    @router.get("/v1/runs/{run_id}", summary="Get a run", response_model=models.Run, responses=problems(404))
    def get_run(
        run_id: RunId,
        follow: Annotated[
            bool, Query(description="Of a run that went on as another (continue-as-new): the newest of the chain.")
        ] = True,
    ) -> models.Run:
        return run_of(served.run(run_id, follow=follow), chained=follow)

    @router.get(
        "/v1/runs/{run_id}/input",
        summary="Get a run's input",
        response_model=models.Input,
        responses=problems(404),
    )
    def get_input(run_id: RunId) -> models.Input:
        run = served.run(run_id, follow=False)
        _check_answer(served, run.input, "input")
        return models.Input(run_id=run.run_id, input=value_of(run.input))

    @router.get(
        "/v1/runs/{run_id}/result",
        summary="Get a run's result",
        response_model=models.Outcome,
        responses={
            200: {"description": "It has ended: `result`, `error` or `reason`."},
            202: {"description": "It has no outcome yet, or is parked.", "model": models.Outcome},
            **problems(404),
        },
    )
    async def get_result(run_id: RunId, wait: Wait = 0) -> Response:
        """Answers when the run has ended or is parked, or the time is up. A run that went on as another: the newest."""
        run = await run_in_threadpool(served.run, run_id)
        async for _ in served.moments(min(wait, served.hold)):
            run = await run_in_threadpool(served.run, run_id)
            if at_rest(run):
                break
        answer = outcome_json(run)
        _check_answer(served, answer, "result")
        if run.closed and run.status is not RunStatus.CONTINUED:
            return Response(answer, media_type="application/json")
        return Response(answer, 202, headers={"Retry-After": "1"}, media_type="application/json")

    @router.get(
        "/v1/runs/{run_id}/published",
        summary="Get published values",
        response_model=models.Published,
        responses=problems(404),
    )
    def get_published(run_id: RunId) -> models.Published:
        """What the workflow has published (`publish`), without waking it. A run that went on as another: the newest."""
        run = served.run(run_id)
        found = connection.backend.inspector.published(run.run_id)
        return models.Published(run_id=run.run_id, values={name: value_of(value) for name, value in found.items()})

    return router


# --- reading requests --------------------------------------------------------------------------------


def checked_key(request: Request, key: str | None) -> str | None:
    """The header ``Idempotency-Key``, with or without the quotes that the draft standard asks for."""
    if len(request.headers.getlist("idempotency-key")) > 1:
        raise HTTPException(400, "The header Idempotency-Key is given twice.")
    if key is None:
        return None
    bare = key[1:-1] if len(key) >= 2 and key[0] == key[-1] == '"' else key
    if not (1 <= len(bare) <= MAX_KEY_LENGTH and bare.isprintable()):
        raise HTTPException(400, f"The header Idempotency-Key has 1 to {MAX_KEY_LENGTH} printable characters.")
    return bare


def _attributes(pairs: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise HTTPException(422, f"attribute: it is key=value, not {pair[:100]!r}.")
        if found.setdefault(key, value) != value:
            raise HTTPException(422, f"attribute: {key[:100]!r} is given with two values, and no run has both.")
    return found


def _micros(name: str, moment: datetime) -> int:
    try:
        return max(0, to_micros(moment))
    except OverflowError:
        raise HTTPException(422, f"{name}: {moment} cannot be reckoned with.") from None


def _start_at(value: str | float | None) -> When | None:
    """A moment (ISO 8601 with an offset) or a duration ("1h 30m", or seconds)."""
    if value is None:
        return None
    try:
        if isinstance(value, str) and value[:4].isdigit() and value[4:5] == "-":
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is None:
                raise ValueError("it has no offset from UTC, such as Z or +01:00")
            to_micros(moment)
            return moment
        duration_micros(value)
    except (ValueError, OverflowError) as error:
        raise HTTPException(422, f"start_at: {error}") from None
    return value


# --- doing what they ask -----------------------------------------------------------------------------


def _start(served: Served, asked: models.StartRun, key: str | None) -> RunRecord:
    workflow = _workflow(served.app.workflows, asked.workflow)
    attributes = check_attributes(asked.attributes)
    start_at = _start_at(asked.start_at)
    try:
        data = workflow.encode_json(asked.input)
    except TypeError as error:  # the names or the number of arguments
        raise HTTPException(422, f"input: {error}") from None
    return served.connection.start(workflow.name, data, attributes=attributes, idempotency_key=key, start_at=start_at)


def _workflow(workflows: Mapping[str, Workflow[Any, Any]], name: str) -> Workflow[Any, Any]:
    found = workflows.get(name)
    if found is None:
        raise HTTPException(404, f"There is no workflow {name[:200]!r}.")
    return found


def _check_answer(served: Served, answer: bytes, what: str) -> None:
    if len(answer) > served.max_body:
        raise HTTPException(422, f"The {what} has {len(answer):,} bytes, more than this API answers with.")
