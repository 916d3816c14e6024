"""What all routes work on, and how they wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from fastapi import Path, Query, Request
from fastapi.exceptions import RequestValidationError

from everstep.app import Workflows
from everstep.core.ids import is_run_id
from everstep.core.run import RunRecord
from everstep.errors import WorkflowRunNotFoundError
from everstep.runtime.connection import FIRST_POLL_SECONDS, LAST_POLL_SECONDS, Connection

HOLD_SECONDS: Final = 25
"""How long a caller is made to wait at most. An HTTP API of API Gateway gives up after 30, a cold start included."""

RunId: TypeAlias = Annotated[str, Path(description="A run's id: `wrun_` and 26 characters.")]
Wait: TypeAlias = Annotated[float, Query(ge=0, le=HOLD_SECONDS, description="Seconds to wait for it.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """An app and its store, as they are served.

    Attributes:
        max_body: bytes that a body may have, of a request and of an answer with one payload.
        max_webhook: bytes that the body of a request to a webhook may have.
        max_answer: bytes that a workflow may answer such a request with.
        live: whether an answer reaches its reader while it is written. If not, readers of streams are answered with
            what there is, and come back.
        hold: seconds that a caller is held at most.
        stopping: whether the server is about to stop, so that nobody is to be held any longer.
    """

    app: Workflows
    connection: Connection
    max_body: int
    max_webhook: int
    max_answer: int
    live: bool
    hold: float
    stopping: Callable[[], bool]

    def run(self, run_id: str, *, follow: bool = True) -> RunRecord:
        """The run; where it went on as another and `follow` is given, the newest of the chain."""
        connection = self.connection
        if is_run_id(run_id):
            found = connection.find(run_id) if follow else connection.backend.inspector.get_run(run_id)
            if found is not None:
                return found
        raise WorkflowRunNotFoundError(run_id[:100])

    async def moments(self, seconds: float) -> AsyncIterator[float]:
        """Moments to look at something: now, then after growing intervals, the last one when the time is up.

        Each is given as the seconds that have passed. When the server stops, there are no more.
        """
        loop = asyncio.get_running_loop()
        begun, pause = loop.time(), FIRST_POLL_SECONDS
        while True:
            passed = loop.time() - begun
            yield passed
            if passed >= seconds or self.stopping():
                return
            await asyncio.sleep(min(pause, max(0.0, begun + seconds - loop.time())))
            pause = min(pause * 1.5, LAST_POLL_SECONDS)


async def only_known(request: Request) -> None:
    """Refuses parameters that a route does not have: a filter that is misspelt must not let everything through."""
    known = {field.alias for field in request.scope["route"].dependant.query_params}
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        takes = f"there is {', '.join(sorted(known))}" if known else "there are none here"
        raise RequestValidationError([{"loc": ("query", unknown[0][:100]), "msg": f"no such parameter; {takes}"}])
