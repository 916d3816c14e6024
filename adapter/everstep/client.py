"""What a program outside a workflow uses: start runs, find them again, wait for what they return."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from everstep import streams
from everstep.app import Workflow, Workflows
from everstep.assembly import current_connection, use_connection
from everstep.codec.failures import decode_error
from everstep.codec.typed import ValueCodec
from everstep.core.durations import to_datetime, to_micros
from everstep.core.ids import is_run_id
from everstep.core.replay import Replay
from everstep.core.run import RunRecord, RunStatus
from everstep.core.streams import MAIN
from everstep.errors import (
    ConfigurationError,
    ContextError,
    WorkflowRunCancelledError,
    WorkflowRunFailedError,
    WorkflowRunNotFoundError,
    WorkflowRunParkedError,
)
from everstep.ports import RunQuery
from everstep.runtime.connection import FIRST_POLL_SECONDS, LAST_POLL_SECONDS, Connection, at_rest
from everstep.runtime.progress import Observer
from everstep.runtime.stream_reading import list_streams, stream_info
from everstep.runtime.worker import Worker

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Run(Generic[R_co]):
    """A handle of a run. Making one reads nothing.

    Where a run goes on as a new one (`continue_as_new`), the handle speaks of the newest.
    """

    def __init__(self, run_id: str, *, connection: Connection | None, decode: Callable[[bytes], Any]) -> None:
        self.run_id = run_id
        self._chosen = connection
        self._decode = decode

    @property
    def _connection(self) -> Connection:
        if self._chosen is None:  # a handle that a workflow body made
            self._chosen = current_connection()
        return self._chosen

    def __repr__(self) -> str:
        return f"<run {self.run_id}>"

    async def exists(self) -> bool:
        """Whether the store has this run."""
        return await self._read(lambda: self._connection.find(self.run_id) is not None)

    async def status(self) -> RunStatus:
        """``pending``, ``running``, ``parked``, ``paused``, ``completed``, ``failed`` or ``cancelled``."""
        run = await self._record()
        return RunStatus.RUNNING if run.status is RunStatus.CONTINUED else run.shown_status

    async def attributes(self) -> dict[str, str]:
        """The run's attributes."""
        return dict((await self._record()).attributes)

    async def workflow_name(self) -> str:
        """The registered name of its workflow."""
        return (await self._record()).workflow

    async def created_at(self) -> datetime:
        """When it was started."""
        return to_datetime((await self._record()).created_at)

    async def started_at(self) -> datetime | None:
        """When its first turn was made; None while it is pending."""
        return _moment((await self._record()).started_at)

    async def completed_at(self) -> datetime | None:
        """When it ended; None before."""
        return _moment((await self._record()).completed_at)

    async def return_value(self) -> R_co:
        """Wait for the end of the run and return what the workflow returned.

        Raises:
            WorkflowRunFailedError: the workflow raised; the error it raised is the cause.
            WorkflowRunCancelledError: it was cancelled.
            WorkflowRunParkedError: it cannot go on with the deployed code. It is kept: wait again after a deploy.
            WorkflowRunNotFoundError: there is no such run.
            TypeValidationError: the value does not fit the workflow's return annotation, or the `type` of `get_run`.
        """
        _refuse_body("Run.return_value()")
        connection = self._connection
        loop = asyncio.get_running_loop()
        told = asyncio.Event()

        def tell() -> None:
            loop.call_soon_threadsafe(told.set)

        remove = connection.on_closed(tell)
        try:
            poll = FIRST_POLL_SECONDS
            while True:
                told.clear()
                run = await self._record()
                if at_rest(run):
                    return self._outcome(run)
                if connection.step_forward is not None:
                    if not await asyncio.to_thread(connection.step_forward):
                        await asyncio.sleep(FIRST_POLL_SECONDS)
                    continue
                try:
                    await asyncio.wait_for(told.wait(), poll)
                except TimeoutError:
                    poll = min(poll * 1.5, LAST_POLL_SECONDS)
        finally:
            remove()

    def wait(self) -> R_co:
        """As `return_value`, for programs without an event loop."""
        _refuse_loop("Run.wait()", "await run.return_value()")
        return asyncio.run(self.return_value())

    # --- controlling -----------------------------------------------------------------------------

    async def cancel(self, reason: str | None = None) -> None:
        """Ask the run to end.

        Its body sees `asyncio.CancelledError` and may clean up, with steps too; then the run is *cancelled*. A body
        that catches the error and returns completes instead. A run that has ended is left as it is.

        Args:
            reason: up to 512 characters.
        """
        await self._ask(lambda run_id: self._connection.cancel(run_id, reason))

    async def terminate(self, reason: str | None = None) -> None:
        """End the run at once, without asking its body: the way out where that cannot go on. Its children end too."""
        await self._ask(lambda run_id: self._connection.terminate(run_id, reason))

    async def wake_up(self) -> None:
        """End the sleeps that the run waits for, as if their time had come. Deadlines are left alone."""
        await self._ask(self._connection.wake_up)

    async def pause(self) -> None:
        """Deliver nothing to the body until the run is unpaused: steps that run end, and what arrives waits."""
        await self._ask(self._connection.pause)

    async def unpause(self) -> None:
        """Deliver what has arrived since the run was paused, and go on."""
        await self._ask(self._connection.unpause)

    async def set_attributes(
        self, changes: Mapping[str, str | None] | None = None, /, **attributes: str | None
    ) -> None:
        """Set attributes of the run; None removes one. They are set with the run's next turn."""
        changed = {**(changes or {}), **attributes}
        await self._ask(lambda run_id: self._connection.set_attributes(run_id, changed))

    async def rerun(self, *, from_step: int | str | None = None) -> Run[R_co]:
        """Start a new run with the same input; its handle.

        Args:
            from_step: keep what happened before this step (its operation's number, or its name for the first call of
                it), and go on from there. Of runs that have ended only. A body that uses the id of its run before that
                step does not replay, because the new run has another: then the new run is parked.
        """
        chosen = self.run_id if from_step is None else (await self._record()).run_id
        record = await self._read(lambda: self._connection.rerun(chosen, from_step=from_step))
        return Run(record.run_id, connection=self._chosen, decode=self._decode)

    async def query(self, name: str, *, type: Any = Any) -> Any:
        """The value the workflow has published under this name (`publish`), without waking it.

        Raises:
            LookupError: it has published nothing under this name.
            TypeValidationError: the value does not fit `type`.
        """
        found = await self._read(lambda: self._connection.published(self.run_id))
        if name not in found:
            names = ", ".join(map(repr, found)) or "nothing at all"
            raise LookupError(f"run {self.run_id} has published nothing as {name!r}; it has published {names}")
        return ValueCodec(type, f"the value {name!r} of run {self.run_id}").decode(found[name])

    async def published(self) -> list[str]:
        """The names under which the workflow has published values."""
        return list(await self._read(lambda: self._connection.published(self.run_id)))

    async def _ask(self, ask: Callable[[str], object]) -> None:
        """Ask the newest run of the chain."""
        await self._read(lambda: ask(self._connection.get(self.run_id).run_id))

    # --- streams ---------------------------------------------------------------------------------
    # Those of the run with this id: they do not follow a run that goes on as a new one, so that indexes stay exact.

    def readable(
        self, *, type: Any = Any, namespace: str | None = None, start_index: int = 0
    ) -> AsyncGenerator[Any, None]:
        """The values that the run's steps write to a stream, from the beginning, and those to come.

        Ends when the stream is closed, or when the run has ended (also by going on as a new one) and all is read. Each
        value comes once; `chunks` also tells of those that are discarded after they came.

        Args:
            type: what the values are, to validate and rebuild them; without it, plain data.
            namespace: which of the run's streams; without it the main one.
            start_index: where to begin; a negative one counts from the tail (-1 is the last one there is).

        Raises:
            WorkflowRunNotFoundError: there is no such run.
            TypeValidationError: a value does not fit the type.
        """
        _refuse_body("Run.readable()")
        return streams.read_values(self._connection, self.run_id, namespace, type=type, start=start_index)

    def readable_bytes(self, *, namespace: str | None = None, start_index: int = 0) -> AsyncGenerator[bytes, None]:
        """As `readable`, each chunk as bytes: as they were written, or the JSON text of a value."""
        _refuse_body("Run.readable_bytes()")
        return streams.read_bytes(self._connection, self.run_id, namespace, start=start_index)

    def chunks(
        self, *, type: Any = Any, namespace: str | None = None, start_index: int = 0, after: str | None = None
    ) -> AsyncGenerator[streams.Chunk[Any] | streams.Reset, None]:
        """As `readable`, each value with its place, and a `Reset` when chunks that came are discarded.

        Args:
            after: the id of the last chunk or reset that came, instead of `start_index`: go on after it.

        Raises:
            ConfigurationError: `after` is not an id of this stream.
        """
        _refuse_body("Run.chunks()")
        return streams.read_items(self._connection, self.run_id, namespace, type=type, start=start_index, after=after)

    async def stream_info(self, *, namespace: str | None = None) -> streams.StreamInfo:
        """How a stream stands: the index of its last chunk, and whether more may come."""
        return await self._read(lambda: stream_info(self._connection.backend, self.run_id, namespace or MAIN))

    async def list_streams(self, *, internal: bool = False) -> list[str]:
        """The namespaces of the streams that were written to; with `internal` also Everstep's own."""
        return await self._read(lambda: list_streams(self._connection.backend, self.run_id, internal=internal))

    # --- reading ---------------------------------------------------------------------------------

    async def _read(self, read: Callable[[], R]) -> R:
        _refuse_body("a method of a run")
        return await asyncio.to_thread(read)

    async def _record(self) -> RunRecord:
        return await self._read(lambda: self._connection.get(self.run_id))

    def _outcome(self, run: RunRecord) -> R_co:
        if run.status is RunStatus.COMPLETED and run.result is not None:
            return cast("R_co", self._decode(run.result))
        if run.status is RunStatus.FAILED:
            raise WorkflowRunFailedError(self.run_id, None if run.error is None else decode_error(run.error))
        if run.status is RunStatus.CANCELLED:
            raise WorkflowRunCancelledError(self.run_id, run.reason)
        raise WorkflowRunParkedError(self.run_id, "" if run.problem is None else run.problem.message)


async def start(workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
    """Start a run of a workflow and return its handle; the run is durable when this returns.

    In a workflow body: start a run that the body does not wait for. It is durable with the turn, and its handle is good
    for its id; to wait for a run's result in a body, call the workflow.

    Options are given with ``workflow.with_options(…)``.

    Raises:
        TypeError: the arguments do not fit the signature. Nothing is written.
        TypeValidationError: a value does not fit its annotation. Nothing is written.
        IdempotencyConflictError: the key belongs to a run with another input.
    """
    body = Replay.current()
    if body is not None:
        _check_workflow(workflow)
        attributes, start_at = workflow.options_in(body)
        run_id = body.start_child(workflow, args, kwargs, attributes=attributes, start_at=start_at)
        return Run(run_id, connection=None, decode=workflow.decode_result)
    return await asyncio.to_thread(start_sync, workflow, *args, **kwargs)


def start_sync(workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
    """As `start`, for programs without an event loop."""
    _refuse_body("start_sync()")
    _check_workflow(workflow)
    connection = current_connection()
    options = workflow.options
    record = connection.start(
        workflow.name,
        workflow.encode_call(args, kwargs),
        attributes=options.attributes,
        idempotency_key=options.idempotency_key,
        start_at=options.start_at,
    )
    return Run(record.run_id, connection=connection, decode=workflow.decode_result)


def _check_workflow(workflow: object) -> None:
    if not isinstance(workflow, Workflow):
        raise TypeError(f"start() takes a workflow declared with @wf.workflow, not {workflow!r}")


async def cancel_runs(
    *,
    workflow: str | None = None,
    status: RunStatus | str | None = None,
    attributes: Mapping[str, str] | None = None,
    created_from: datetime | None = None,
    created_before: datetime | None = None,
    reason: str | None = None,
    limit: int = 1000,
) -> list[str]:
    """Cancel the runs that fit all conditions and have not ended, newest first; their ids.

    Args:
        limit: at most so many, from 1 to 10,000. Call it again for more.

    Raises:
        ConfigurationError: no condition was given: cancelling all runs there are takes ``status`` at least.
    """
    _refuse_body("cancel_runs()")
    conditions = (workflow, status, attributes, created_from, created_before)
    if all(condition is None for condition in conditions):
        raise ConfigurationError("cancel_runs() needs a condition, such as workflow= or status='running'")
    if not 1 <= limit <= 10_000:
        raise ConfigurationError(f"limit is 1 to 10,000, not {limit}")
    query = RunQuery(
        workflow=workflow,
        status=None if status is None else RunStatus(status),
        attributes=attributes or {},
        created_from=None if created_from is None else to_micros(created_from),
        created_before=None if created_before is None else to_micros(created_before),
        limit=1000,
    )
    return await asyncio.to_thread(_cancel_all, current_connection(), query, reason, limit)


def _cancel_all(connection: Connection, query: RunQuery, reason: str | None, limit: int) -> list[str]:
    asked: list[str] = []
    while True:
        page = connection.backend.inspector.list_runs(query)
        for run in page.runs:
            if not run.closed and len(asked) < limit:
                connection.cancel(run.run_id, reason)
                asked.append(run.run_id)
        if page.cursor is None or len(asked) == limit:
            return asked
        query = replace(query, cursor=page.cursor)


@overload
def get_run(run_id: str) -> Run[Any]: ...


@overload
def get_run(run_id: str, *, type: type[R]) -> Run[R]: ...


@overload
def get_run(run_id: str, *, type: Any) -> Run[Any]: ...


def get_run(run_id: str, *, type: Any = Any) -> Run[Any]:
    """The handle of a run. Nothing is read, so an id that does not exist shows when the handle is used.

    Args:
        type: what the workflow returns, for `Run.return_value` to validate and rebuild; without it, plain data.
    """
    _refuse_body("get_run()")
    if not isinstance(run_id, str):
        raise TypeError(f"get_run() takes the id of a run as text, not {type(run_id).__name__} {run_id!r}")
    if not is_run_id(run_id):
        raise WorkflowRunNotFoundError(run_id)
    codec = ValueCodec(type, f"the result of run {run_id}")
    return Run(run_id, connection=current_connection(), decode=codec.decode)


def run(workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Start a run, work on it in this process until it ends, and return what it returned. For scripts.

    When the process dies, the run is kept: start a worker, or ``everstep resume``, and it goes on.
    Raises as `start` and `Run.return_value` do.
    """
    name = getattr(workflow, "name", "workflow")
    _refuse_loop("run()", f"await (await start({name}, …)).return_value()", "while a worker runs: everstep worker")
    handle = start_sync(workflow, *args, **kwargs)
    return asyncio.run(work_until_closed(workflow.app, handle))


async def work_until_closed(
    app: Workflows, handle: Run[R], *, observe: Observer | None = None, verify: bool = False
) -> R:
    """Work on one run (and those it goes on as) in this process, until it ends; what it returned."""
    connection = handle._connection
    record = await handle._record()
    worker = Worker(
        connection.engine(app, observe=observe, verify=verify), root_id=record.root_id, on_closed=connection.closed
    )
    with use_connection(connection):
        serving = asyncio.ensure_future(worker.serve())
    waiting = asyncio.ensure_future(handle.return_value())
    remove = connection.on_sent(worker.wake)
    try:
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        return await waiting
    finally:
        remove()
        waiting.cancel()
        worker.stop_now()
        await asyncio.gather(serving, waiting, return_exceptions=True)


def _refuse_body(call: str) -> None:
    if Replay.current() is not None:
        raise ContextError(f"{call} was called in a workflow body; in a body, move it into a step")


def _refuse_loop(call: str, instead: str, but: str = "") -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ContextError(
        f"{call} blocks, and an event loop is running here: use '{instead}'" + (f" ({but})" if but else "")
    )


def _moment(micros: int | None) -> datetime | None:
    return None if micros is None else to_datetime(micros)
