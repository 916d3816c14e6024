"""Where the cases run, and what is seen of a run afterwards."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from everstep import Workflows
from everstep.app import Workflow
from everstep.assembly import use_connection
from everstep.client import Run, start_sync, work_until_closed
from everstep.codec.failures import decode_error
from everstep.core import history
from everstep.core.ids import child_run_id
from everstep.core.run import RunRecord
from everstep.ports import Backend
from everstep.runtime.connection import Connection
from everstep.testing import WorkflowEnvironment

EVERYWHERE = pytest.mark.parametrize("place", ["memory", "sqlite", "aws"], indirect=True)
"""For cases in which the backend or the worker matters."""

OUTCOMES: dict[type, str] = {
    history.RunStarted: "started",
    history.StepCompleted: "{name}.",
    history.StepFailed: "{name}!",
    history.TimerFired: "timer.",
    history.ChildCompleted: "{name}.",
    history.ChildFailed: "{name}!",
    history.ChildCancelled: "{name} cancelled",
    history.CancelRequested: "cancel",
}
REQUESTS: dict[type, str] = {
    history.RunStep: "{name}+",
    history.StartTimer: "timer+",
    history.CancelTimer: "timer-",
    history.StartChild: "{name}+",
    history.CancelChild: "{name}-",
    history.CompleteRun: "return",
    history.FailRun: "raise",
    history.CancelRun: "cancelled",
}


@dataclass(frozen=True)
class Account:
    """A run as it is now.

    Attributes:
        messages: how many were handled for it and its children, each by a process that knew nothing of the run: as many
            invocations as it took. None where nobody counts.
    """

    backend: Backend
    handle: Run[Any]
    messages: int | None

    @property
    def record(self) -> RunRecord:
        found = self.backend.inspector.get_run(self.handle.run_id)
        assert found is not None
        return found

    @property
    def result(self) -> Any:
        """What it returned; raises what the workflow raised."""
        run = self.record
        if run.error is not None:
            raise decode_error(run.error)
        assert run.result is not None, run
        return self.handle._decode(run.result)

    @property
    def turns(self) -> list[str]:
        """Its history, a text for each turn: what arrived, then what the body asked for.

        ``echo+`` asks for the step or the child run *echo*, ``echo.`` is its success and ``echo!`` its failure.
        """
        names: dict[int, str] = {}

        def named(text: str, item: object) -> str:
            return text.format(name=names.get(getattr(item, "op", -1), "?").rpartition(".")[2])

        told = []
        for turn in self.backend.inspector.history(self.handle.run_id):
            events = [named(OUTCOMES[type(event)], event) for event in turn.events]
            for command in turn.commands:
                if isinstance(command, history.RunStep):
                    names[command.op] = command.name
                elif isinstance(command, history.StartChild):
                    names[command.op] = command.workflow
            commands = [named(REQUESTS[type(command)], command) for command in turn.commands]
            told.append(f"{' '.join(events)} | {' '.join(commands)}")
        return told

    def child(self, number: int) -> Account:
        """Its child of this number, from 0."""
        run_id = child_run_id(self.handle.run_id, number)
        return Account(self.backend, Run(run_id, connection=None, decode=lambda data: data), None)

    def expect(self, *turns: str, messages: int) -> None:
        """Its history is this one, and it took so many messages."""
        assert self.turns == list(turns)
        if self.messages is not None:
            assert self.messages == messages


class Place(Protocol):
    """Where a case runs. Each turn is verified by a replay from scratch."""

    def run(self, workflow: Workflow[..., Any], *args: Any) -> Account:
        """Start a run and work until nothing is left to do."""
        ...


class InMemory:
    """Each message is handled by a process that knows nothing yet, and time skips: also on AWS's backend."""

    def __init__(self, env: WorkflowEnvironment) -> None:
        self.env = env

    def run(self, workflow: Workflow[..., Any], *args: Any) -> Account:
        handle = self.env.start(workflow, *args)
        return Account(self.env.connection.backend, handle, self.work())

    def work(self) -> int:
        """Work until nothing is left to do; the number of messages."""
        return self.env.run_until_idle(self.forget)

    def forget(self) -> bool:
        self.env.engine.live.clear()
        return False


class OnSqlite:
    """A worker on a file, with the machine's clock."""

    def __init__(self, app: Workflows, connection: Connection) -> None:
        self.app = app
        self.connection = connection

    def run(self, workflow: Workflow[..., Any], *args: Any) -> Account:
        with use_connection(self.connection):
            handle = start_sync(workflow, *args)
            asyncio.run(self._until_closed(handle))
        return Account(self.connection.backend, handle, None)

    async def _until_closed(self, handle: Run[Any]) -> None:
        await asyncio.gather(work_until_closed(self.app, handle, verify=True), return_exceptions=True)
