"""What happened in a run: its turns, and what became of each operation."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from everstep.core.timeline import timeline
from everstep.errors import WorkflowRunNotFoundError
from everstep.ports import Snapshot
from everstep.web import models
from everstep.web.problems import problems
from everstep.web.records import History, turn_view
from everstep.web.serving import RunId, Served
from everstep.web.shapes import Payloads, operation_of

First = Annotated[int, Query(ge=0, description="The number to begin with: `next` of the previous page.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="At most so many; a page with large payloads has fewer.")]


def routes(served: Served) -> APIRouter:
    router = APIRouter(tags=["history"])
    backend = served.connection.backend

    def load(run_id: str, first_turn: int = 0) -> Snapshot:
        run = served.run(run_id, follow=False)
        snapshot = backend.runs.load(run.run_id, first_turn=first_turn)
        if snapshot is None:
            raise WorkflowRunNotFoundError(run_id)
        return snapshot

    @router.get("/v1/runs/{run_id}/history", summary="Get the history", response_model=History, responses=problems(404))
    def get_history(run_id: RunId, first: First = 0, limit: Limit = 100) -> History:
        """The run's turns: the events that arrived, and the commands that the body issued in answer."""
        snapshot = load(run_id, first)
        payloads = Payloads()
        page = History(run_id=snapshot.run.run_id, turns=[], next=None)
        for turn in snapshot.turns:
            if len(page.turns) == limit or payloads.full:
                page.next = turn.number
                break
            page.turns.append(turn_view(turn, payloads))
        return page

    @router.get(
        "/v1/runs/{run_id}/operations",
        summary="Get the operations",
        response_model=models.OperationList,
        responses=problems(404),
    )
    def get_operations(run_id: RunId, first: First = 0, limit: Limit = 100) -> models.OperationList:
        """Steps with their attempts, timers, hooks and child runs, in the order in which the body asked for them."""
        snapshot = load(run_id)
        run = snapshot.run
        views = timeline(
            snapshot.turns,
            backend.steps.failed_attempts(run.run_id),
            [entry.event for entry in snapshot.inbox],
            run_id=run.run_id,
            now=served.connection.clock.now(),
            closed_at=run.completed_at,
        )
        payloads = Payloads()
        page = models.OperationList(run_id=run.run_id, status=run.shown_status, operations=[], next=None)
        for view in views:
            if view.op < first:
                continue
            if len(page.operations) == limit or payloads.full:
                page.next = view.op
                break
            page.operations.append(operation_of(view, payloads, served.connection.public_url))
        return page

    return router
