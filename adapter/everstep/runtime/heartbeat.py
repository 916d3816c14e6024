"""A worker's sign of life, in a thread of its own: leases, what the dead left behind, and runs that wait for code."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Final

from everstep.core.history import Micros
from everstep.core.messages import run_named_in
from everstep.core.run import RunRecord
from everstep.runtime.advance import missing, park
from everstep.runtime.engine import Engine
from everstep.runtime.start import resume_run

logger: Final = logging.getLogger("everstep.worker")

LEASE: Final[Micros] = 30_000_000
TRIED_AT_START: Final = 1000
"""How many parked runs a worker tries again when it starts."""
ORPHANED_AFTER: Final[Micros] = 60_000_000
"""When a message has been due for so long and no worker's app has its workflow, people should know."""


class Heartbeat:
    """Made and started in the worker's own thread.

    Args:
        lease: how long the worker counts as alive after a beat, in microseconds; it beats six times as often.
        whole: the worker serves the whole store, and so looks after runs that nobody else may.
        deciding: the run whose body is computing at the moment.
        wake: called when there may be work.
        closed: called with the id of a run that was parked.
    """

    def __init__(
        self,
        engine: Engine,
        worker: str,
        *,
        lease: Micros,
        whole: bool,
        deciding: Callable[[], str | None],
        wake: Callable[[], None],
        closed: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._worker = worker
        self._lease = lease
        self._whole = whole
        self._deciding = deciding
        self._wake = wake
        self._closed = closed
        self._over = threading.Event()
        self._watched = threading.get_ident()
        self._thread = threading.Thread(target=self._beat, name="everstep-heartbeat", daemon=True)

    def start(self) -> None:
        """Register the worker, and beat from now on. Raises what makes it impossible."""
        self._renew()
        if self._whole:
            self._try_parked_by_this_build()
        self._thread.start()

    def stop(self) -> None:
        """Beat no more; waits for a beat that is under way."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _renew(self) -> None:
        source, now = self._engine.backend.source, self._engine.clock.now()
        source.register(self._worker, until=now + self._lease)
        if source.recover(now=now):
            self._wake()
        if self._whole:
            self._try_parked()

    def _beat(self) -> None:
        stuck: str | None = None
        while not self._over.wait(self._lease / 1_000_000 / 6):
            deciding = self._deciding()
            if deciding is not None and deciding == stuck:
                self._warn(deciding)
            stuck = deciding
            try:
                self._renew()
                if self._whole:
                    self._park_orphans()
            except Exception:
                logger.exception("worker %s could not give a sign of life; trying again", self._worker)

    def _try_parked(self) -> None:
        """Send on the runs that another build parked: this one may be the fix."""
        for run_id in self._engine.backend.inspector.parked(not_by=self._engine.registry.build):
            run = self._engine.backend.inspector.get_run(run_id)
            if run is not None:
                self._try(run)

    def _try_parked_by_this_build(self) -> None:
        """Once, at the start: the fix may be in a module that declares nothing, or in a setting, which no build shows.

        What kills its workers is left alone: it would kill this one too.
        """
        for run_id in self._engine.backend.inspector.parked(not_by="", limit=TRIED_AT_START):
            run = self._engine.backend.inspector.get_run(run_id)
            problem = None if run is None else run.problem
            if run is None or problem is None or problem.code == "poison":
                continue
            if problem.build == self._engine.registry.build:
                self._try(run)

    def _try(self, run: RunRecord) -> None:
        engine = self._engine
        if run.workflow in engine.registry.workflows:
            resume_run(engine.backend, engine.clock, run.run_id, engine.nonce())
            self._wake()

    def _park_orphans(self) -> None:
        """Say so where a run waits for a workflow that no worker seems to have. Its message stays for one that has."""
        engine = self._engine
        before = engine.clock.now() - ORPHANED_AFTER
        for message_id in engine.backend.source.orphans(known=engine.registry.workflows, due_before=before):
            run = engine.backend.inspector.get_run(run_named_in(message_id))
            if run is not None and run.problem is None:
                park(engine, run.run_id, "workflow-missing", f"no worker has taken it up: {missing(run.workflow)}")
                self._closed(run.run_id)

    def _warn(self, run_id: str) -> None:
        """A body has been computing from one beat to the next, and the whole worker with it: say where."""
        frame = sys._current_frames().get(self._watched)
        place = "".join(traceback.format_stack(frame)[-1:]).strip() if frame is not None else "unknown"
        logger.warning(
            "the body of run %s has kept its worker for seconds without waiting for anything; move long computations "
            "into a step. It is at: %s",
            run_id,
            place,
        )
