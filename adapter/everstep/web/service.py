"""The service itself: whether it is there, and what it serves."""

from __future__ import annotations

import inspect
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from everstep.app import Workflow
from everstep.codec.signatures import signature_of
from everstep.runtime.probe import probe_handled, send_probe
from everstep.web import models
from everstep.web.problems import problems
from everstep.web.schemas import call_schemas
from everstep.web.serving import HOLD_SECONDS, Served


def routes(served: Served) -> APIRouter:
    router = APIRouter(tags=["service"])
    connection = served.connection
    backend, clock = connection.backend, connection.clock

    @router.get("/health", summary="Is it there?", response_model=models.Health)
    async def get_health() -> models.Health:
        """It needs no credential and touches nothing."""
        return models.Health()

    @router.get(
        "/health/queue",
        summary="Does a worker work?",
        response_model=models.QueueHealth,
        responses=problems(504),
    )
    async def get_queue_health(
        wait: Annotated[float, Query(ge=1, le=HOLD_SECONDS, description="Seconds to wait for it.")] = 10,
    ) -> models.QueueHealth:
        """Sends a message that changes nothing, and answers when a worker has handled it. 504: none has in time."""
        workflow = next(iter(served.app.workflows), "")
        probe = await run_in_threadpool(send_probe, backend, clock, connection.entropy, workflow)
        connection.sent()
        async for passed in served.moments(min(wait, served.hold)):
            if await run_in_threadpool(probe_handled, backend, clock, probe):
                return models.QueueHealth(seconds=round(passed, 3))
        raise HTTPException(504, f"No worker has handled a message within {min(wait, served.hold):g} s.")

    @router.get("/v1/manifest", summary="Get workflows and steps", response_model=models.Manifest)
    def get_manifest() -> models.Manifest:
        """What the app has, as far as this process knows: workers may have other code."""
        return manifest_of(served)

    return router


# --- the manifest ------------------------------------------------------------------------------------


def manifest_of(served: Served) -> models.Manifest:
    app = served.app
    return models.Manifest(
        version=_version(),
        build=app.build,
        workflows=[_workflow(each) for each in app.workflows.values()],
        steps=[
            models.StepView(
                name=each.name,
                module=each.func.__module__,
                description=inspect.getdoc(each.func) or "",
                signature=str(signature_of(each.func)),
                max_retries=each.max_retries,
                timeout=each.timeout,
                at_most_once=each.at_most_once,
                cancellable=each.cancellable,
            )
            for each in app.steps.values()
        ],
    )


def _workflow(workflow: Workflow[Any, Any]) -> models.WorkflowView:
    arguments, result = call_schemas(workflow.func)
    return models.WorkflowView(
        name=workflow.name,
        module=workflow.func.__module__,
        description=inspect.getdoc(workflow.func) or "",
        signature=str(signature_of(workflow.func)),
        input_schema=arguments,
        result_schema=result,
    )


def _version() -> str:
    try:
        return version("everstep")
    except PackageNotFoundError:  # the artifact of a function may be without its metadata
        return "unknown"
