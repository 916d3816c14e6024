"""A simulator: workers that crash, messages that come twice, late and in any order, clocks that disagree. From a seed.

`Simulation` runs an app on several workers, each a thread with its own engine, live cache and clock, of which exactly
one goes at a time: at every call of a port the scheduler decides, by the seed, who goes on, who dies, what is
delivered next. So two workers race in the middle of a turn, and the same seed gives the same race again.

`Simulation.check` holds what must be true of every run afterwards, whatever went wrong (design, section 8).
`watched` wraps a backend so that a test sees, or ends, every call.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar

from everstep.app import Workflow, Workflows
from everstep.assembly import use_connection
from everstep.backends.memory import open_memory
from everstep.client import Run, start_sync
from everstep.core.history import (
    Micros,
)
from everstep.core.run import RunRecord
from everstep.errors import HookNotFoundError
from everstep.ports import Backend, Clock, Delivery, Unreadable
from everstep.runtime.advance import SETTLED_AFTER
from everstep.runtime.connection import Connection
from everstep.runtime.engine import Engine
from everstep.runtime.handle import StepRunner, handle
from everstep.testing.clock import VirtualClock
from everstep.testing.oracles import FOREVER, CountedSteps, chain_of, examine, outcome
from everstep.testing.watching import Crash, Moment, watched

P = ParamSpec("P")
R = TypeVar("R")

QUEUE: Final = "queue"
SECOND: Final[Micros] = 1_000_000
MOST_TRIES: Final = 100
"""Of an errand that finds no hook."""
MOST_PATIENCE: Final[Micros] = 6 * 3600 * SECOND
"""How long clients wait at a time when nothing else happens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How much goes wrong.

    Attributes:
        crash: the chance that a worker dies at a call it makes.
        crashes: at most so many in all.
        duplicate: the chance that a delivery will come once more: while it is being handled, or long after.
        delay: the chance, at every decision, that time passes though there is something to do.
        longest_delay: how much of it at once.
        skew: how far clocks of workers are ahead or behind, at most. They also jump.
        again_unknown: whether a duplicate may look like a first delivery (as with a standard SQS queue).
    """

    crash: float = 0.01
    crashes: int = 6
    duplicate: float = 0.15
    delay: float = 0.03
    longest_delay: Micros = 120 * SECOND
    skew: Micros = 300 * SECOND
    again_unknown: bool = True


NO_FAULTS: Final = Faults(crash=0, crashes=0, duplicate=0, delay=0, longest_delay=0, skew=0)


class _SkewedClock:
    """The true time, and an error of its own."""

    def __init__(self, true: VirtualClock) -> None:
        self._true = true
        self.error: Micros = 0

    def now(self) -> Micros:
        return self._true.now() + self.error


@dataclass(slots=True, kw_only=True, eq=False)
class Errand:
    """What a client does; again, where it died before it was done, or found no hook.

    Attributes:
        done: whether it has returned: what it asked for was acknowledged.
        tries: how often it was begun.
    """

    call: Callable[[], object]
    after: Sequence[Errand] = ()
    done: bool = False
    tries: int = 0


class _Worker:
    """A process: a worker, and sometimes a client. It runs only from `go_on` to its next call of a port, or its end."""

    def __init__(self, name: str, simulation: Simulation) -> None:
        self.name = name
        self.at = ""
        self.delivery: Delivery | None = None
        self.since: Micros = 0
        self.errand: Errand | None = None
        self.dead = False
        self.failure: BaseException | None = None
        self.clock = _SkewedClock(simulation.clock)
        self._simulation = simulation
        self._may_go = threading.Semaphore(0)
        self._has_paused = threading.Semaphore(0)
        self.backend = watched(simulation.backend, self._hook)
        self.connection = simulation.connect(self.backend, self.clock)
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        return self.delivery is None and self.errand is None

    def go_on(self) -> None:
        """Let it run until its next pause."""
        self._may_go.release()
        self._has_paused.acquire()
        if self.failure is not None:
            raise self.failure

    def end(self) -> None:
        """Let the thread go, from wherever it is."""
        self.dead = True
        self._may_go.release()
        self._thread.join()

    def _pause(self, at: str) -> None:
        if self.dead:
            raise Crash
        self.at = at
        self._has_paused.release()
        self._may_go.acquire()
        if self.dead:
            raise Crash

    def _hook(self, moment: Moment, call: str, args: tuple[Any, ...], value: Any) -> None:
        if moment == "before" or call == "steps.claim":
            self._pause(f"{moment} {call}")
        else:
            self._simulation.saw(call, args, value)

    def _live(self) -> None:
        runner = StepRunner()
        engine = self._simulation.engine(self.connection)
        self._may_go.acquire()
        try:
            while not self.dead:
                delivery = self.delivery
                if delivery is not None:
                    if isinstance(delivery.message, Unreadable):
                        raise AssertionError(delivery.message.reason)
                    with use_connection(self.connection):
                        handle(engine, delivery.message, runner, root_id=delivery.root_id, receives=delivery.receives)
                    self.backend.source.acknowledge([delivery.message_id])
                    self.delivery = None
                elif self.errand is not None:
                    self._run(self.errand)
                    self.errand = None
                self._pause("idle")
        except Crash:
            pass
        except BaseException as error:
            self.failure = error
        finally:
            self.dead = True
            engine.live.clear()
            runner.close()
            self._has_paused.release()

    def _run(self, errand: Errand) -> None:
        errand.tries += 1
        with use_connection(self.connection):
            try:
                errand.call()
            except HookNotFoundError:  # not yet, or not any more
                return
        errand.done = True


class Simulation(AbstractContextManager["Simulation"]):
    """Run an app under a random schedule of faults.

    ::

        with Simulation(app, seed=7) as simulation:
            run = simulation.start(order, "book")
            simulation.run()
            simulation.check(run)

    The schedule follows from the seed alone, as long as the app's steps are deterministic.

    Args:
        workers: how many at a time; one that dies is followed by another.
        deliveries: more than these, and the simulation counts as one that never ends.
    """

    def __init__(
        self,
        app: Workflows,
        *,
        seed: int,
        faults: Faults = Faults(),
        workers: int = 3,
        deliveries: int = 5_000,
        verify: bool = False,
    ) -> None:
        self.app = app
        self.seed = seed
        self.faults = faults
        self.clock = VirtualClock()
        self.backend = open_memory(atomic_units=False)
        self.log: list[str] = []
        self._registry = CountedSteps(app)
        self.bodies = self._registry.bodies
        self.received: Counter[str] = Counter()
        self.crashes = 0
        self.duplicates = 0
        self._verify = verify
        self._chance = random.Random(seed)
        self._entropy = random.Random(~seed)
        self._limit = deliveries
        self._names = 0
        self._writers: dict[tuple[str, int], str] = {}
        self._wrong: list[str] = []
        self._again: list[Delivery] = []
        self._lost: Counter[str] = Counter()
        self._errands: list[Errand] = []
        self._slow = False
        self.connection = self.connect(self.backend, self.clock)
        self._workers = [self._hire() for _ in range(workers)]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        for worker in self._workers:
            worker.end()

    def __enter__(self) -> Self:
        return self

    # --- what a test calls -----------------------------------------------------------------------

    def start(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Run[R]:
        """Start a run; nothing of it happens yet."""
        with use_connection(self.connection):
            return start_sync(workflow, *args, **kwargs)

    def ask(self, call: Callable[[], object], *, after: Sequence[Errand] = ()) -> Errand:
        """Let a client do this some time: a process that may die over it, as any other, and then does it once more.

        Args:
            call: may be repeated, so what it sends needs an id. Where it finds no hook, it is tried again later.
            after: only when these are done.
        """
        errand = Errand(call=call, after=after)
        self._errands.append(errand)
        return errand

    def run(self) -> None:
        """Go on until nothing is left to do."""
        for _ in range(self._limit * 50):
            if not self._decide():
                return
            if self.received.total() > self._limit:
                break
        raise AssertionError(self._report("it does not end", [f"{self.received.total()} deliveries"]))

    def ended(self, run: Run[Any] | str) -> RunRecord:
        """The record of the run, or of the last one it went on as."""
        return chain_of(self.backend, run if isinstance(run, str) else run.run_id)[-1].run

    def check(self, run: Run[Any], *, ends: Callable[[tuple[str, Any]], bool] | None = None) -> None:
        """Raise an AssertionError with all that is wrong with a run, the seed and the end of the schedule.

        Args:
            ends: says of the run's `outcome` whether it is the right one.
        """
        wrong = self._wrong + examine(
            self.app,
            self.backend,
            run.run_id,
            self.bodies,
            disturbed=self.disturbed,
            late=self.crashes > 0,
            tokens=not (self.crashes and self.duplicates),
        )
        ended = self.ended(run)
        if ends is not None and not ends(outcome(ended)):
            wrong.append(f"this is not how it should have ended: {outcome(ended)}")
        if wrong:
            raise AssertionError(self._report(f"run {run.run_id} of {ended.workflow!r}", wrong))

    @property
    def disturbed(self) -> bool:
        """Whether anything went wrong that may repeat a step. A worker that was slow for a minute counts as dead."""
        return bool(self.crashes or self.duplicates or self._slow)

    # --- what workers call -----------------------------------------------------------------------

    def connect(self, backend: Backend, clock: Clock) -> Connection:
        return Connection(backend, clock, entropy=self._entropy.randbytes, chance=self._entropy.random)

    def engine(self, connection: Connection) -> Engine:
        return connection.engine(self._registry, verify=self._verify)

    def saw(self, call: str, args: tuple[Any, ...], value: Any) -> None:
        """A call has returned: no turn may have two writers."""
        if call == "runs.append" and value is True:
            run_id, turn = args
            if self._writers.setdefault((run_id, turn.number), turn.nonce) != turn.nonce:
                self._wrong.append(f"turn {turn.number} of {run_id} was written twice")

    # --- deciding --------------------------------------------------------------------------------

    def _decide(self) -> bool:
        """Do one thing; False when there is nothing left to do."""
        chance, faults = self._chance, self.faults
        busy = [worker for worker in self._workers if not worker.idle]
        idle = [worker for worker in self._workers if worker.idle]
        if faults.delay and chance.random() < faults.delay:
            self._pass_time(chance.randrange(1, faults.longest_delay))
        if busy and (not idle or chance.random() < 0.75):
            worker = chance.choice(busy)
            if self.crashes < faults.crashes and chance.random() < faults.crash:
                self._kill(worker)
            else:
                self._note(f"{worker.name} goes on: {worker.at}")
                worker.go_on()
            return True
        if idle and self._errands and chance.random() < 0.15 and self._run_errand(chance.choice(idle)):
            return True
        delivery = self._take()
        if delivery is not None and idle:
            self._deliver(chance.choice(idle), delivery)
            return True
        if busy:
            return True
        due = self.backend.source.next_due()
        if (due is None or chance.random() < 0.5) and self._run_errand(chance.choice(idle)):
            return True
        if due is None:
            return bool(self._again)
        wait = max(due - self.clock.now(), 0)
        self._pass_time(min(wait, MOST_PATIENCE) if self._errands else wait)
        return True

    def _take(self) -> Delivery | None:
        """Any message that is due, or one that was delivered before."""
        chance, source = self._chance, self.backend.source
        if self._again and chance.random() < 0.3:
            return self._again.pop(chance.randrange(len(self._again)))
        source.register(QUEUE, until=FOREVER)
        due = source.receive(QUEUE, limit=1_000, now=self.clock.now())
        if not due:
            return self._again.pop() if self._again and all(worker.idle for worker in self._workers) else None
        taken = chance.choice(due)
        source.release(QUEUE, [delivery.message_id for delivery in due if delivery is not taken])
        taken = replace(taken, receives=taken.receives + self._lost[taken.message_id])
        if chance.random() < self.faults.duplicate:
            receives = taken.receives + 1
            if self.faults.again_unknown and chance.random() < 0.3:
                receives = 1
            self._again.append(replace(taken, receives=receives))
            self.duplicates += 1
        return taken

    def _deliver(self, worker: _Worker, delivery: Delivery) -> None:
        self.received[delivery.message_id] += 1
        self._note(f"{worker.name} gets {delivery.message_id} (receive {delivery.receives})")
        if self.faults.skew and self._chance.random() < 0.1:
            worker.clock.error = self._chance.randrange(-self.faults.skew, self.faults.skew)
        worker.delivery, worker.since = delivery, self.clock.now()
        worker.go_on()

    def _run_errand(self, worker: _Worker) -> bool:
        """Send a process on an errand, if there is one that may still succeed."""
        self._errands = [errand for errand in self._errands if not errand.done and errand.tries < MOST_TRIES]
        ready = [errand for errand in self._errands if all(earlier.done for earlier in errand.after)]
        under_way = [each.errand for each in self._workers]
        ready = [errand for errand in ready if errand not in under_way]
        if not ready:
            return False
        worker.errand = self._chance.choice(ready)
        self._note(f"{worker.name} is sent on errand {worker.errand.tries + 1}")
        worker.go_on()
        return True

    def _kill(self, worker: _Worker) -> None:
        """The worker dies where it is; the queue delivers what it held again, and another takes its place."""
        self.crashes += 1
        self._note(f"{worker.name} dies {worker.at}")
        delivery = worker.delivery
        worker.end()
        if delivery is not None:  # unless it was acknowledged meanwhile, by who handled it a second time
            self.backend.source.release(QUEUE, [delivery.message_id])
            self._lost[delivery.message_id] += 1
        self._workers[self._workers.index(worker)] = self._hire()

    def _hire(self) -> _Worker:
        self._names += 1
        worker = _Worker(f"worker-{self._names}", self)
        if self.faults.skew:
            worker.clock.error = self._chance.randrange(-self.faults.skew, self.faults.skew)
        return worker

    def _pass_time(self, by: Micros) -> None:
        self._note(f"{by / SECOND:.3f} s pass")
        self.clock.advance(by)
        limit = self.clock.now() - SETTLED_AFTER
        self._slow = self._slow or any(not each.idle and each.since <= limit for each in self._workers)

    # --- telling ---------------------------------------------------------------------------------

    def _note(self, what: str) -> None:
        self.log.append(what)

    def _report(self, what: str, wrong: Sequence[str]) -> str:
        found = "\n".join(f"  - {each}" for each in wrong)
        schedule = "\n".join(f"    {line}" for line in self.log[-80:])
        return f"seed {self.seed}: {what}:\n{found}\n  the end of the schedule:\n{schedule}"
