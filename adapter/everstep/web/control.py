"""Control runs: end them, wake them, pause them, run them again, change their attributes.

What is asked for is durable when it is answered, and takes effect with the run's next turn. A run that has ended is
left as it is. Of a run that went on as another the newest is meant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from pydantic import RootModel
from starlette.responses import Response

from everstep.core.run import RunRecord
from everstep.web import models
from everstep.web.bodies import BODY_PROBLEMS, JsonBody
from everstep.web.problems import problems, refusing
from everstep.web.serving import RunId, Served
from everstep.web.shapes import run_of


class Changes(RootModel[dict[str, str | None]]):
    """Attributes by key; null removes one."""


_ENDING: Final = JsonBody(models.Ending, optional=True)
_RERUN: Final = JsonBody(models.Rerun, optional=True)
_CHANGES: Final = JsonBody(Changes)
_ASKED: Final[dict[str, Any]] = {
    "status_code": 202,
    "response_model": models.Run,
    "response_description": "It is stored. The run is shown as it was before.",
}


def routes(served: Served) -> APIRouter:
    router = APIRouter(tags=["control"])
    connection = served.connection

    def ask(run_id: str, call: Callable[[str], RunRecord]) -> models.Run:
        newest = served.run(run_id).run_id
        with refusing():
            return run_of(call(newest), chained=True)

    @router.post(
        "/v1/runs/{run_id}/cancel",
        summary="Cancel a run",
        responses={**BODY_PROBLEMS, **problems(404)},
        openapi_extra=_ENDING.described,
        **_ASKED,
    )
    def cancel_run(run_id: RunId, asked: Annotated[models.Ending, Depends(_ENDING)]) -> models.Run:
        """Its body sees `asyncio.CancelledError` and may clean up, with steps too."""
        return ask(run_id, lambda newest: connection.cancel(newest, asked.reason))

    @router.post(
        "/v1/runs/{run_id}/terminate",
        summary="Terminate a run",
        responses={**BODY_PROBLEMS, **problems(404)},
        openapi_extra=_ENDING.described,
        **_ASKED,
    )
    def terminate_run(run_id: RunId, asked: Annotated[models.Ending, Depends(_ENDING)]) -> models.Run:
        """At once, without asking its body: the way out where that cannot go on."""
        return ask(run_id, lambda newest: connection.terminate(newest, asked.reason))

    @router.post("/v1/runs/{run_id}/wake-up", summary="Wake a run up", responses=problems(404), **_ASKED)
    def wake_run_up(run_id: RunId) -> models.Run:
        """Ends the sleeps that it waits for. Deadlines are left alone."""
        return ask(run_id, connection.wake_up)

    @router.post("/v1/runs/{run_id}/pause", summary="Pause a run", responses=problems(404), **_ASKED)
    def pause_run(run_id: RunId) -> models.Run:
        """Nothing is delivered to its body any more; what arrives waits."""
        return ask(run_id, connection.pause)

    @router.post("/v1/runs/{run_id}/unpause", summary="Unpause a run", responses=problems(404), **_ASKED)
    def unpause_run(run_id: RunId) -> models.Run:
        """What has arrived meanwhile is delivered."""
        return ask(run_id, connection.unpause)

    @router.post("/v1/runs/{run_id}/resume", summary="Resume a parked run", responses=problems(404), **_ASKED)
    def resume_run(run_id: RunId) -> models.Run:
        """It is tried again, and asks again for all it waits for. Harmless where it is not parked."""
        return ask(run_id, connection.resume)

    @router.patch(
        "/v1/runs/{run_id}/attributes",
        summary="Set attributes",
        responses={**BODY_PROBLEMS, **problems(404)},
        openapi_extra=_CHANGES.described,
        **_ASKED,
    )
    def set_attributes(run_id: RunId, changes: Annotated[Changes, Depends(_CHANGES)]) -> models.Run:
        """The body names those to change; null removes one."""
        return ask(run_id, lambda newest: connection.set_attributes(newest, changes.root))

    @router.post(
        "/v1/runs/{run_id}/rerun",
        summary="Run again",
        status_code=201,
        response_model=models.Run,
        response_description="The new run.",
        responses={**BODY_PROBLEMS, **problems(404, 409)},
        openapi_extra=_RERUN.described,
    )
    def rerun_run(run_id: RunId, response: Response, asked: Annotated[models.Rerun, Depends(_RERUN)]) -> models.Run:
        """A new run with the same input, whose attribute `$rerunOf` names this one.

        With `from_step` its history begins with this run's before that step. 409: this run has not ended, or has no
        such step.
        """
        found = served.run(run_id, follow=asked.from_step is not None)
        with refusing(409):
            new = connection.rerun(found.run_id, from_step=asked.from_step)
        response.headers["Location"] = f"/v1/runs/{new.run_id}"
        return run_of(new)

    return router
