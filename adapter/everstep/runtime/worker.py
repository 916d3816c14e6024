"""A worker on one machine: many steps at once, and the turns that are ready together in one transaction.

It runs on an asyncio loop, where the steps are tasks. Turns are made in plain callbacks of that loop, never in a
task, so that a workflow's own loop is never nested in a running task. One round (`_round`) takes what arrived and
what finished, decides a turn for each run concerned, writes all of them in one unit and then begins the steps they
asked for. A sequential step costs one round and one commit, without a hop to another thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Final, assert_never

from everstep.core.history import Micros, StepCompleted, StepFailed
from everstep.core.messages import AdvanceRun, ExecuteStep, FireTimer, StartRun, run_named_in, run_of
from everstep.core.run import Closed, Parked
from everstep.errors import SerializationError, StoreBusyError
from everstep.ports import Delivery, Unreadable
from everstep.runtime.advance import abandon, decide, park, record, refused, settle
from everstep.runtime.arrived import Arrived, ended
from everstep.runtime.decision import Arrival, Decision, Slots
from everstep.runtime.engine import Engine
from everstep.runtime.execute import (
    DEFAULT_THREADS,
    MAX_DEATHS,
    SUSPECT_RECEIVES,
    Failed,
    Outcome,
    Succeeded,
    Threads,
    Unrunnable,
    deaths,
    next_attempt,
    run_attempt,
    still_wanted,
)
from everstep.runtime.heartbeat import LEASE, Heartbeat
from everstep.runtime.progress import AttemptStarted

logger: Final = logging.getLogger("everstep.worker")

POLL_SECONDS: Final = 0.02
BUSY_SECONDS: Final = 0.1


class Worker:
    """Works on a backend's messages until stopped.

    Args:
        concurrency: how many steps run at once.
        threads: how many ``def`` steps run at once.
        root_id: work on one family of runs only.
        lease: how long it counts as alive without a sign of life, in microseconds. Where the backend can tell that a
            process has ended, it need not wait for that.
        on_closed: called after a turn closed or parked a run, with its id.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        concurrency: int = 100,
        threads: int = DEFAULT_THREADS,
        root_id: str | None = None,
        lease: Micros = LEASE,
        on_closed: Callable[[str], None] | None = None,
    ) -> None:
        self.engine = engine
        self.id = engine.nonce()
        self._source = engine.backend.source
        self._concurrency = concurrency
        self._root_id = root_id
        self._lease = lease
        self._on_closed = on_closed
        self._threads = Threads(threads)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._received: deque[Delivery] = deque()
        self._begun: deque[Delivery] = deque()
        self._suspects: deque[Delivery] = deque()
        self._suspect: str | None = None
        self._finished: deque[tuple[Delivery, ExecuteStep, Outcome]] = deque()
        self._retries: list[tuple[Delivery, ExecuteStep, Failed]] = []
        self._arrived: dict[str, Arrived] = {}
        self._round_due = False
        self._look = True
        self._changes = -1
        self._next_due: Micros | None = None
        self._stopping = False
        self._deciding: str | None = None

    # --- life ------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Work until `stop`. Raises what made it impossible to go on."""
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._over: asyncio.Future[None] = self._loop.create_future()
        heartbeat = Heartbeat(
            self.engine,
            self.id,
            lease=self._lease,
            whole=self._root_id is None,
            deciding=lambda: self._deciding,
            wake=self.wake,
            closed=self._closed,
        )
        heartbeat.start()
        try:
            self._tick()
            await self._over
        finally:
            self._stopping = True
            tasks = list(self._running.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._threads.close()
            self.engine.live.clear()
            await asyncio.to_thread(heartbeat.stop)
            self._source.leave(self.id)

    def stop(self) -> None:
        """Take no new work; `serve` returns when the running steps have ended and are recorded. Thread-safe."""
        self._call(self._begin_stop)

    def stop_now(self) -> None:
        """Cancel the running steps and return. Their messages are delivered again. Thread-safe."""
        self._call(self._end)

    def wake(self) -> None:
        """Something was sent: look for it now. Thread-safe."""
        self._call(self._look_now)

    def _call(self, function: Callable[[], None]) -> None:
        loop = getattr(self, "_loop", None)
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(function, context=Context())
        except RuntimeError:  # the loop is closed: there is nothing left to stop or wake
            return

    def _begin_stop(self) -> None:
        self._stopping = True
        self._soon()

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _look_now(self) -> None:
        self._look = True
        self._soon()

    # --- rounds ----------------------------------------------------------------------------------

    def _soon(self) -> None:
        if not self._round_due:
            self._round_due = True
            self._loop.call_soon(self._round, context=Context())

    def _later(self) -> None:
        self._loop.call_later(BUSY_SECONDS, self._soon, context=Context())

    def _tick(self) -> None:
        """Look, at short intervals, whether others have written or something is due."""
        if self._over.done():
            return
        self._loop.call_later(POLL_SECONDS, self._tick, context=Context())
        try:
            changes = self._source.changes()
        except StoreBusyError:
            return
        except BaseException as error:
            self._fail(error)
            return
        if changes != self._changes:
            self._changes = changes
            self._look = True
        if self._look or (self._next_due is not None and self._next_due <= self.engine.clock.now()):
            self._look = True
            self._soon()

    def _round(self) -> None:
        self._round_due = False
        if self._over.done():
            return
        try:
            self._work()
        except StoreBusyError as error:
            logger.warning("the store is busy, trying again: %s", error)
            self._later()
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """End `serve` with what makes it impossible to go on."""
        if not self._over.done():
            self._over.set_exception(error)

    def _work(self) -> None:
        self._receive()
        self._sort_received()
        self._try_suspect()
        self._sort_finished()
        decided, retried = self._decide()
        if decided or retried:
            self._write(decided, retried)
        while self._begun:
            self._begin(self._begun.popleft())
        if (
            self._finished
            or self._arrived
            or (self._suspects and self._suspect is None and not self._stopping)
            or (self._look and self._free > 0 and not self._stopping)
        ):
            self._soon()
        if self._stopping and not (self._running or self._finished or self._arrived or self._retries or self._begun):
            self._end()

    @property
    def _free(self) -> int:
        return self._concurrency - len(self._running)

    def _receive(self) -> None:
        """Lease what is due. It is kept in ``_received`` from then on, whatever happens to this round."""
        limit = self._free - len(self._begun)
        if not self._look or self._stopping or limit <= 0:
            return
        now = self.engine.clock.now()
        workflows = self.engine.registry.workflows
        deliveries = self._source.receive(self.id, limit=limit, now=now, root_id=self._root_id, workflows=workflows)
        self._received.extend(deliveries)
        if len(deliveries) < limit:
            due = self._source.next_due(root_id=self._root_id, workflows=workflows)
            self._look, self._next_due = False, None
            if due is not None:
                self._expect(due)

    def _sort_received(self) -> None:
        """Steps are to begin, the rest are arrivals; what may have killed workers is put aside."""
        while self._received:
            delivery = self._received[0]
            if isinstance(delivery.message, Unreadable):
                self._park(delivery, "unreadable", f"a message for it cannot be read: {delivery.message.reason}")
            elif delivery.receives > SUSPECT_RECEIVES:
                self._suspects.append(delivery)
            elif isinstance(delivery.message, ExecuteStep):
                self._begun.append(delivery)
            else:
                self._arrive(delivery, delivery.message)
            self._received.popleft()

    def _arrive(self, delivery: Delivery, message: StartRun | AdvanceRun | FireTimer) -> None:
        if delivery.receives > 1 or isinstance(message, AdvanceRun):  # an advance lowers the flag before it reads
            self.engine.backend.inbox.lower_flag(run_of(message))
        self._for(run_of(message)).take(delivery, message)

    def _park(self, delivery: Delivery, code: str, reason: str) -> None:
        run_id = run_named_in(delivery.message_id)
        park(self.engine, run_id, code, reason)
        self._source.acknowledge([delivery.message_id])
        self._closed(run_id)

    def _try_suspect(self) -> None:
        """Begin one of the messages that were received suspiciously often: alone, so that it is told from the innocent.

        Each beginning is counted durably. The run of one that has died in it too often is parked: its worker may have
        been killed by others after all, and then `resume` is all it needs.
        """
        if not self._suspects or self._suspect is not None or self._stopping:
            return
        delivery = self._suspects[0]  # it stays there until it is handed on
        message = delivery.message
        if isinstance(message, Unreadable):
            raise AssertionError(message)
        if deaths(self.engine, run_of(message), delivery.message_id) >= MAX_DEATHS:
            what = f"step {message.name!r}" if isinstance(message, ExecuteStep) else "the workflow's body"
            self._park(
                delivery,
                "poison",
                f"its workers died {MAX_DEATHS} times while they ran {what} and nothing else that was suspected: "
                f"does it end the process, or eat its memory?",
            )
        elif isinstance(message, ExecuteStep):
            self._suspect = delivery.message_id
            self._begun.append(delivery)
        else:
            waiting, self._arrived = self._arrived, {}
            try:
                self._arrive(delivery, message)
                self._write(*self._decide())
            finally:
                for run_id, arrived in waiting.items():
                    self._arrived[run_id] = arrived.joined(self._arrived.get(run_id))
        self._suspects.popleft()

    def _for(self, run_id: str) -> Arrived:
        arrived = self._arrived.get(run_id)
        if arrived is None:
            arrived = self._arrived[run_id] = Arrived(arrival=Arrival(run_id=run_id))
        return arrived

    def _sort_finished(self) -> None:
        """Turn outcomes into arrivals and retries."""
        while self._finished:
            self._sort_outcome(*self._finished[0])
            self._finished.popleft()

    def _sort_outcome(self, delivery: Delivery, message: ExecuteStep, outcome: Outcome) -> None:
        match outcome:
            case Failed(retry_at=None):
                event: StepCompleted | StepFailed = StepFailed(
                    op=message.op, attempt=message.attempt, error=outcome.error
                )
            case Succeeded(result=result):
                event = StepCompleted(op=message.op, attempt=message.attempt, result=result)
            case Failed():
                self._retries.append((delivery, message, outcome))
                return
            case Unrunnable(code=code, reason=reason):
                self._park(delivery, code, reason)
                return
            case _:
                assert_never(outcome)
        arrived = self._for(message.run_id)
        arrived.arrival.events.append(event)
        arrived.messages.append(delivery.message_id)
        if self.engine.observe is not None:
            arrived.told.append(ended(self.engine, message, outcome))

    def _decide(
        self,
    ) -> tuple[list[tuple[Arrived, Decision | None]], list[tuple[Delivery, ExecuteStep, Failed]]]:
        slots = None if self._stopping else Slots(worker=self.id, free=self._free - len(self._begun))
        arrivals, self._arrived = self._arrived, {}
        retried, self._retries = self._retries, []
        decided: list[tuple[Arrived, Decision | None]] = []
        try:
            for run_id, arrived in arrivals.items():
                self._deciding = run_id
                decision = decide(self.engine, arrived.arrival, slots)
                decided.append((arrived, decision))
        except BaseException:
            self._undo(arrivals, decided, retried)
            raise
        finally:
            self._deciding = None
        return decided, retried

    def _write(
        self,
        decided: list[tuple[Arrived, Decision | None]],
        retried: list[tuple[Delivery, ExecuteStep, Failed]],
    ) -> None:
        """Write all that was decided in one unit; what was leased to this worker is to begin."""
        engine = self.engine
        lost: list[tuple[Arrived, Decision]] = []
        won: list[tuple[Arrived, Decision]] = []
        done: list[str] = []
        try:
            with engine.backend.unit():
                for arrived, decision in decided:
                    if decision is None:
                        done += arrived.messages
                    elif record(engine, decision):
                        won.append((arrived, decision))
                        done += arrived.messages
                    else:
                        lost.append((arrived, decision))
                for delivery, message, failed in retried:
                    attempt, following = next_attempt(message, failed, delivery.root_id)
                    engine.backend.queue.send([following])
                    engine.backend.steps.record(message.run_id, attempt)
                    done.append(delivery.message_id)
                    self._expect(following.due)
                engine.backend.source.acknowledge(done)
        except BaseException as error:
            self._undo({arrived.arrival.run_id: arrived for arrived, _ in decided}, decided, retried)
            if not isinstance(error, SerializationError):
                raise
            self._write_one_by_one()
            return
        for arrived, decision in lost:
            abandon(decision)
            arrived.arrival.read_inbox = True
            self._arrived[arrived.arrival.run_id] = arrived
        if engine.observe is not None:
            for _, message, failed in retried:
                engine.observe(ended(engine, message, failed))
        self._settle(won)

    def _write_one_by_one(self) -> None:
        """Something in the group is too large to be stored: park its run, record the others."""
        arrivals, self._arrived = self._arrived, {}
        for run_id, arrived in arrivals.items():
            decision = decide(self.engine, arrived.arrival)
            if decision is not None:
                try:
                    with self.engine.backend.unit():
                        won = record(self.engine, decision)
                except SerializationError as error:
                    abandon(decision)
                    refused(self.engine, arrived.arrival, decision, error)
                    self._closed(run_id)
                else:
                    if not won:
                        abandon(decision)
                        self._arrived[run_id] = arrived
                        continue
                    self._settle([(arrived, decision)])
            self._source.acknowledge(arrived.messages)

    def _settle(self, won: list[tuple[Arrived, Decision]]) -> None:
        engine = self.engine
        for arrived, decision in won:
            for progress in arrived.told:
                engine.tell(progress)
            settle(engine, decision)
            for sent in decision.messages:
                if sent.lease_to is not None:
                    self._begun.append(
                        Delivery(
                            message_id=sent.message_id,
                            message=sent.message,
                            receives=1,
                            due=sent.due,
                            root_id=sent.root_id,
                            workflow=sent.workflow,
                        )
                    )
                else:
                    self._expect(sent.due)
            if decision.woke:
                self._look = True
            if any(isinstance(change, (Closed, Parked)) for change in decision.changes):
                self._closed(decision.run.run_id)

    def _undo(
        self,
        arrivals: dict[str, Arrived],
        decided: list[tuple[Arrived, Decision | None]],
        retried: list[tuple[Delivery, ExecuteStep, Failed]],
    ) -> None:
        """Nothing was written: keep what arrived for the next round, and throw away what was replayed ahead of it."""
        for _, decision in decided:
            if decision is not None:
                abandon(decision)
        self._retries = retried + self._retries
        for run_id, arrived in arrivals.items():
            arrived.arrival.read_inbox = True
            self._arrived.setdefault(run_id, arrived)

    def _expect(self, due: Micros) -> None:
        """A message was sent for then: look for it in time."""
        wait = (due - self.engine.clock.now()) / 1_000_000
        if wait <= 0:
            self._look = True
        elif self._next_due is None or due < self._next_due:
            self._next_due = due
            if wait < POLL_SECONDS:  # sooner than the next tick
                self._loop.call_later(wait, self._look_now, context=Context())

    def _closed(self, run_id: str) -> None:
        if self._on_closed is not None:
            self._on_closed(run_id)

    # --- steps -----------------------------------------------------------------------------------

    def _begin(self, delivery: Delivery) -> None:
        if delivery.message_id in self._running:  # our lease was over for a while; the attempt that runs will do
            return
        task = self._loop.create_task(self._attempt(delivery), context=self._context.copy())
        self._running[delivery.message_id] = task

    async def _attempt(self, delivery: Delivery) -> None:
        message = delivery.message
        if not isinstance(message, ExecuteStep):
            raise AssertionError(message)
        engine = self.engine
        try:
            if (delivery.receives > 1 or message.attempt > 1) and not still_wanted(engine, message):
                arrived = self._for(message.run_id)
                arrived.messages.append(delivery.message_id)
                arrived.arrival.again.append(message.op)  # redo what a crash left undone
                arrived.arrival.read_inbox = True
                return
            if engine.observe is not None:
                engine.observe(
                    AttemptStarted(
                        run_id=message.run_id,
                        op=message.op,
                        step=message.name,
                        attempt=message.attempt,
                        at=engine.clock.now(),
                    )
                )
            outcome = await run_attempt(engine, message, 1, self._threads)
            self._finished.append((delivery, message, outcome))
        except asyncio.CancelledError:
            raise
        except StoreBusyError:
            self._source.release(self.id, [delivery.message_id])
            self._look = True
        except BaseException as error:
            self._fail(error)
        finally:
            self._running.pop(delivery.message_id, None)
            if self._suspect == delivery.message_id:
                self._suspect = None
            self._soon()
