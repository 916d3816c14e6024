"""The deterministic event loop a workflow body runs on.

It has no selector and no clock. Callbacks run in the order they were scheduled; time is what the turn says; a
timer that outlives the turn becomes a command. All of asyncio that does no I/O works on it. What does I/O, or
reaches for another thread, is refused with a `WorkflowIOError` that names the call.

Order must not come from memory addresses: asyncio keeps tasks and futures in sets (`TaskGroup`, `wait`,
`as_completed`), so those made here hash by a counter. Nor may it come from the garbage collector, which would close
async generators at moments of its own: it pauses while a body runs.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from asyncio import events, tasks
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from everstep.core.durations import LATEST
from everstep.core.history import Micros
from everstep.errors import DeterminismError, WorkflowIOError

if TYPE_CHECKING:
    from collections import deque

SPIN_LIMIT: Final = 1_000_000
"""Callbacks in one turn after which a body counts as spinning without ever waiting."""


WAKE_SLEEPER: Final = asyncio.futures._set_result_unless_cancelled  # type: ignore[attr-defined]
"""What `asyncio.sleep` lets its timer call, and `everstep.sleep` too: so a sleep is told from a deadline."""


class Discarded(BaseException):
    """Raised in a body whose live instance is thrown away, so that its clean-up cannot wait for anything."""


class WorkflowTask(asyncio.Task[Any]):
    """A task whose hash is its number in the run."""

    def __init__(self, coro: Coroutine[Any, Any, Any], *, number: int, **options: Any) -> None:
        self.number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.number


class WorkflowFuture(asyncio.Future[Any]):
    """A future whose hash is its number in the run."""

    def __init__(self, *, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self.number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


def _gathering_hash(future: asyncio.Future[Any]) -> int:
    """The hash of what `asyncio.gather` returns, which asyncio makes without asking the loop.

    In a workflow it is a number too, drawn when it is first asked for: when a body puts the future into a set.
    """
    loop = future.get_loop()
    if type(loop) is not WorkflowLoop:
        return asyncio.Future.__hash__(future)
    number: int | None = getattr(future, "number", None)
    if number is None:
        number = loop.next_number()
        future.number = number  # type: ignore[attr-defined]
    return number


_gathering: Any = getattr(tasks, "_GatheringFuture", None)
if _gathering is not None:
    _gathering.__hash__ = _gathering_hash


class WorkflowTimer(asyncio.TimerHandle):
    """A timer that knows its due time exactly, and its operation once it has become one."""

    __slots__ = ("due", "op", "sleep")

    if TYPE_CHECKING:
        _loop: WorkflowLoop

    def __init__(
        self,
        due: Micros,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: WorkflowLoop,
        context: Context | None,
    ) -> None:
        super().__init__(due / 1_000_000, callback, args, loop, context)
        self.due = due
        self.op = -1
        self.sleep = callback is WAKE_SLEEPER

    def fire(self) -> None:
        """Let its callback run when the loop is next drained."""
        self._loop._ready.append(self)


class LoopHost(Protocol):
    """What the loop tells about timers."""

    def timer_asked(self, timer: WorkflowTimer) -> None:
        """The body wants to be called later than this turn."""

    def timer_cancelled(self, timer: WorkflowTimer) -> None:
        """The body no longer wants it."""


class _Entered:
    """While it is entered, a loop is the running one of its thread, and owns the generators that are dropped."""

    __slots__ = ("_hooks", "_loop", "_outer")

    def __init__(self, loop: WorkflowLoop) -> None:
        self._loop = loop

    def __enter__(self) -> None:
        self._outer = events._get_running_loop()
        self._hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=self._loop.finalize_generator)
        events._set_running_loop(self._loop)

    def __exit__(self, *_error: object) -> None:
        events._set_running_loop(self._outer)
        sys.set_asyncgen_hooks(*self._hooks)


class _Trusting:
    """While it is entered, I/O is ours and not the body's: a codec that loads what it needs."""

    __slots__ = ("_loop",)

    def __init__(self, loop: WorkflowLoop) -> None:
        self._loop = loop

    def __enter__(self) -> None:
        self._loop.trusted = True

    def __exit__(self, *_error: object) -> None:
        self._loop.trusted = False


class WorkflowLoop(asyncio.BaseEventLoop):
    """One run's loop. Driven by `deliver`; never run with ``run_forever``."""

    if TYPE_CHECKING:
        _ready: deque[asyncio.Handle]

    def __init__(self, host: LoopHost) -> None:
        super().__init__()
        self.host = host
        self.now: Micros = 0
        self.replaying = False
        self.discarded = False
        self.draining = False
        self.trusted = False
        self.trusting = _Trusting(self)
        self.violation: WorkflowIOError | None = None
        self.tasks: dict[int, WorkflowTask] = {}
        self._counter = 0
        self._prune_at = 64

    # --- driving ---------------------------------------------------------------------------------

    def entered(self) -> _Entered:
        """Make this the running loop of the thread for a while; whatever ran before is restored."""
        return _Entered(self)

    def drain(self) -> None:
        """Run callbacks until none is ready."""
        ready = self._ready
        collecting = gc.isenabled()
        gc.disable()
        self.draining = True
        try:
            for _ in range(SPIN_LIMIT):
                if not ready:
                    break
                handle = ready.popleft()
                if not handle._cancelled:
                    try:
                        handle._run()
                    except SystemExit:
                        continue  # its task has it too, and fails the run with it; the worker goes on
            else:
                raise DeterminismError(
                    f"the workflow body ran {SPIN_LIMIT:,} callbacks in one turn without waiting for a step, a timer "
                    f"or another operation; a loop around 'await asyncio.sleep(0)' never ends: wait for something"
                )
        finally:
            self.draining = False
            if collecting:
                gc.enable()
        if self.violation is not None:
            raise self.violation

    def live_tasks(self) -> list[WorkflowTask]:
        """Tasks that are not done, oldest first."""
        return [task for task in self.tasks.values() if not task.done()]

    def discard(self) -> None:
        """End the body without letting it go on: nothing it does from here on has an effect."""
        self.discarded = True
        self._ready.clear()
        with self.entered():
            for task in self.live_tasks():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                coroutine = task.get_coro()
                for _ in range(100):
                    try:
                        if coroutine is not None:
                            coroutine.close()
                    except RuntimeError:  # it waited once more: close again
                        continue
                    except BaseException:
                        pass
                    break
        self._ready.clear()
        self.tasks.clear()
        self._closed = True

    def finalize_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Close a generator that the body dropped. What the collector finds later is not closed: a replay could not."""
        if self.draining and not self.discarded and events._get_running_loop() is self:
            self.call_soon(self.create_task, generator.aclose())

    def __del__(self) -> None:
        """A loop without a selector has nothing to release; unlike the standard one it need not be closed."""

    # --- what asyncio builds on ------------------------------------------------------------------

    def time(self) -> float:
        return self.now / 1_000_000

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        """Has no effect: asyncio's debug mode looks at clocks and threads."""

    def is_running(self) -> bool:
        return events._get_running_loop() is self

    def is_closed(self) -> bool:
        return self.discarded

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at_micros(min(self.now + _micros(delay), LATEST), callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at_micros(_micros(when), callback, *args, context=context)

    def call_at_micros(
        self, due: Micros, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> WorkflowTimer:
        """Like `call_at`, to the microsecond. What is due already runs in this turn."""
        timer = WorkflowTimer(due, callback, args, self, context)
        if due <= self.now:
            self._ready.append(timer)
        else:
            self.host.timer_asked(timer)
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if isinstance(handle, WorkflowTimer) and not self.discarded:
            self.host.timer_cancelled(handle)

    def create_future(self) -> WorkflowFuture:
        if self.discarded:
            raise Discarded
        self._counter += 1
        return WorkflowFuture(number=self._counter, loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: Context | None = None,
        **options: Any,
    ) -> WorkflowTask:
        if self.discarded:
            coro.close()
            raise Discarded
        self._counter += 1
        number = self._counter
        task = WorkflowTask(coro, number=number, loop=self, name=name or f"Task-{number}", context=context, **options)
        if len(self.tasks) >= self._prune_at:
            self.tasks = {key: kept for key, kept in self.tasks.items() if not kept.done()}
            self._prune_at = 2 * len(self.tasks) + 64
        self.tasks[number] = task
        return task

    def next_number(self) -> int:
        """The number of something new that must hash the same on every replay."""
        self._counter += 1
        return self._counter

    def set_task_factory(self, factory: object) -> None:
        if factory is not None:
            self.refuse("loop.set_task_factory()", "a workflow's tasks are made by Everstep, so that a replay is exact")

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.replaying and not self.discarded:
            super().call_exception_handler(context)

    def refuse(self, call: str, advice: str = "it does I/O or depends on the machine: move it into a step") -> NoReturn:
        """Refuse a call, and remember it: the turn is not recorded even if the body catches the error."""
        error = WorkflowIOError(f"{call} was called in a workflow body{_caller()}; {advice}")
        if self.violation is None:
            self.violation = error
        raise error


def _caller() -> str:
    """Where the body made the call: the nearest frame that is neither the standard library's nor ours."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _LIBRARY and not path.startswith("<frozen"):
            return f" at {path}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


_LIBRARY: Final = frozenset({"everstep", *sys.stdlib_module_names}) - {"__main__"}


def _micros(seconds: float) -> Micros:
    """Infinity, with which asyncio's timeouts mean never, is the last moment that can be waited for."""
    return LATEST if seconds > _FOREVER else round(seconds * 1_000_000)


_FOREVER: Final = LATEST / 1_000_000


def _refusal(name: str) -> Callable[..., NoReturn]:
    def refused(self: WorkflowLoop, *_args: object, **_options: object) -> NoReturn:
        self.refuse(f"loop.{name}()")

    refused.__name__ = name
    return refused


_DETERMINISTIC: Final = frozenset(
    {
        "call_at",
        "call_exception_handler",
        "call_later",
        "call_soon",
        "close",
        "create_future",
        "create_task",
        "default_exception_handler",
        "get_debug",
        "get_exception_handler",
        "get_task_factory",
        "is_closed",
        "is_running",
        "set_debug",
        "set_exception_handler",
        "set_task_factory",
        "shutdown_asyncgens",
        "time",
    }
)
"""Everything else a loop can do is I/O, threads, signals or control of the loop itself."""

for _name in dir(asyncio.AbstractEventLoop):
    if not _name.startswith("_") and _name not in _DETERMINISTIC:
        setattr(WorkflowLoop, _name, _refusal(_name))
