"""An app: the registry of workflows and steps, and what each of them is."""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import FunctionType
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast, overload

from everstep.codec.failures import decode_error, encode_error
from everstep.codec.records import input_digest
from everstep.codec.typed import SignatureCodec
from everstep.core.attributes import check_attributes
from everstep.core.durations import Duration, When, duration_micros, moment_after
from everstep.core.history import Micros
from everstep.core.limits import is_unicode
from everstep.core.lint import check_body
from everstep.core.replay import Replay
from everstep.core.retry import DEFAULT_MAX_RETRIES, RetryPolicy
from everstep.errors import ContextError, RegistrationError

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

MAX_NAME_LENGTH: Final = 200
MAX_KEY_LENGTH: Final = 256


class Step(Generic[P, R_co]):
    """A unit of work with retries. In a workflow body a call asks for it; anywhere else it is the plain function.

    Made by `Workflows.step`. Inside a workflow, arguments are bound and encoded at the call: a bad call is a TypeError
    and a value that does not fit its annotation a `TypeValidationError`, both before anything is recorded.
    """

    def __init__(
        self,
        func: Callable[P, Any],
        *,
        name: str,
        max_retries: int,
        retry: RetryPolicy,
        timeout: Duration | None,
        at_most_once: bool,
        cancellable: bool,
    ) -> None:
        self.func = func
        self.name = name
        self.max_retries = max_retries
        self.retry = retry
        self.timeout = None if timeout is None else duration_micros(timeout) / 1_000_000
        self.at_most_once = at_most_once
        self.cancellable = cancellable
        self.asynchronous = inspect.iscoroutinefunction(func)
        codec = SignatureCodec(func, f"step {name!r}")
        self.encode_call = codec.encode_call
        self.encode_json = codec.encode_json
        self.decode_call = codec.decode_call
        self.encode_result = codec.encode_result
        self.decode_result = codec.decode_result
        self.same_call = codec.same_call
        functools.update_wrapper(cast("Callable[..., Any]", self), func)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        run = Replay.current()
        if run is not None:
            return run.call(self, args, kwargs)
        return cast("Coroutine[Any, Any, R_co]", self.func(*args, **kwargs))

    def __repr__(self) -> str:
        return f"<step {self.name!r}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOptions:
    """How a run is started.

    Attributes:
        idempotency_key: the same key gives the same run; 1 to 256 characters.
        attributes: plain text to find the run by.
        start_at: when its first turn may run.
    """

    idempotency_key: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    start_at: When | None = None


class Workflow(Generic[P, R_co]):
    """A workflow: an ``async def`` that orchestrates steps. Started with `start`; called in another workflow's body.

    Made by `Workflows.workflow`. `func` is the plain function.
    """

    def __init__(self, func: Callable[P, Coroutine[Any, Any, R_co]], *, name: str, app: Workflows) -> None:
        self.func = func
        self.name = name
        self.app = app
        self.options = StartOptions()
        codec = SignatureCodec(func, f"workflow {name!r}")
        self.encode_call = codec.encode_call
        self.encode_json = codec.encode_json
        self.decode_call = codec.decode_call
        self.encode_result = codec.encode_result
        self.decode_result = codec.decode_result
        self.same_call = codec.same_call
        functools.update_wrapper(cast("Callable[..., Any]", self), func)

    def with_options(
        self,
        *,
        idempotency_key: str | None = None,
        attributes: Mapping[str, str] | None = None,
        start_at: datetime | Duration | None = None,
    ) -> Workflow[P, R_co]:
        """This workflow with start options, to be given to `start`; they cannot collide with its own arguments.

        Options that are not given stay as they are, so that calls can be chained.

        Args:
            idempotency_key: starting again with the same key and input gives the same run; with another input it is an
                `IdempotencyConflictError`. 1 to 256 characters.
            attributes: plain text to find the run by; see the limits in `AttributeValidationError`'s page.
            start_at: a moment, or a duration from now; the run is *pending* until then.
        """
        if idempotency_key is not None and not isinstance(idempotency_key, str):
            raise TypeError(f"an idempotency key is text, not {type(idempotency_key).__name__} {idempotency_key!r}")
        if idempotency_key is not None and not 1 <= len(idempotency_key) <= MAX_KEY_LENGTH:
            raise ValueError(f"an idempotency key has 1 to {MAX_KEY_LENGTH} characters, not {len(idempotency_key)}")
        if idempotency_key is not None and not is_unicode(idempotency_key):
            raise ValueError(f"idempotency key {idempotency_key!r} is not valid Unicode (a lone surrogate)")
        before = self.options
        chosen = copy.copy(self)
        chosen.options = StartOptions(
            idempotency_key=before.idempotency_key if idempotency_key is None else idempotency_key,
            attributes=before.attributes if attributes is None else check_attributes(attributes),
            start_at=before.start_at if start_at is None else start_at,
        )
        return chosen

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """In a workflow body: a run of its own, whose result is awaited. Cancelling the call cancels that run."""
        run = Replay.current()
        if run is not None:
            attributes, start_at = self.options_in(run)
            return run.call_child(self, args, kwargs, attributes=attributes, start_at=start_at)
        raise ContextError(
            f"workflow {self.name!r} is not called but started: 'await start({self.name}, …)', or run({self.name}, …) "
            f"in a script. For a unit test of the bare function, call {self.name}.func(…)"
        )

    def options_in(self, run: Replay) -> tuple[Mapping[str, str], Micros | None]:
        """The start options for a child of this run: attributes, and when it may begin."""
        if self.options.idempotency_key is not None:
            raise ContextError(
                f"workflow {self.name!r} is started as a child, whose id follows from its parent: it cannot have an "
                f"idempotency key. Leave the key out, or start the run in a step"
            )
        start_at = self.options.start_at
        return self.options.attributes, None if start_at is None else moment_after(start_at, run.loop.now)

    def __repr__(self) -> str:
        return f"<workflow {self.name!r}>"

    # --- as the core runs it (core.operations.Program) -------------------------------------------

    def begin(self, data: bytes) -> Coroutine[Any, Any, Any]:
        args, kwargs = self.decode_call(data)
        return cast("Callable[..., Coroutine[Any, Any, Any]]", self.func)(*args, **kwargs)

    encode_error = staticmethod(encode_error)
    decode_error = staticmethod(decode_error)
    digest = staticmethod(input_digest)


class Workflows:
    """An app: declare workflows and steps with it.

    ::

        wf = Workflows()

        @wf.workflow
        async def greet(name: str) -> str:
            return await salute(name)

        @wf.step
        async def salute(name: str) -> str:
            return f"Hello {name}"
    """

    def __init__(self) -> None:
        self.workflows: dict[str, Workflow[Any, Any]] = {}
        self.steps: dict[str, Step[Any, Any]] = {}
        self._build: str | None = None

    @overload
    def workflow(self, func: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...

    @overload
    def workflow(
        self, /, *, name: str | None = None
    ) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Workflow[P, R]]: ...

    def workflow(self, func: Any = None, /, *, name: str | None = None) -> Any:
        """Declare a workflow, bare or with options.

        Args:
            name: what it is called in the history and in reports; by default the function's qualified name. Runs find
                their code by it: keep it when you rename or move the function.

        Raises:
            RegistrationError: it is not an ``async def`` function, or the name is taken.
        """

        def declare(func: Callable[..., Any]) -> Workflow[Any, Any]:
            _check_function(func, "workflow")
            if not inspect.iscoroutinefunction(func):
                raise RegistrationError(f"a workflow is an 'async def' function, and {_place(func)} is not")
            chosen = self._free_name(name, func, "workflow", self.workflows)
            check_body(func, chosen)
            declared = self.workflows[chosen] = Workflow(func, name=chosen, app=self)
            self._build = None
            return declared

        return declare if func is None else declare(func)

    @overload
    def step(self, func: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...

    @overload
    def step(self, func: Callable[P, R], /) -> Step[P, R]: ...

    @overload
    def step(
        self,
        /,
        *,
        name: str | None = None,
        max_retries: int | None = None,
        retry: RetryPolicy | None = None,
        timeout: Duration | None = None,
        at_most_once: bool = False,
        cancellable: bool = False,
    ) -> _StepDecorator: ...

    def step(
        self,
        func: Any = None,
        /,
        *,
        name: str | None = None,
        max_retries: int | None = None,
        retry: RetryPolicy | None = None,
        timeout: Duration | None = None,
        at_most_once: bool = False,
        cancellable: bool = False,
    ) -> Any:
        """Declare a step, bare or with options. It may be ``async def``, or ``def`` (which runs in a thread).

        Args:
            name: as for `workflow`.
            max_retries: how often it is tried again after it raised; 3 by default, so 4 attempts.
            retry: how long to wait between attempts, and which errors are worth another.
            timeout: how long one attempt may take: seconds, a `timedelta` or text such as ``"30s"``. A ``def`` step
                cannot be stopped: its attempt counts as failed, its thread runs on.
            at_most_once: never run it a second time, whatever happens: its attempt is claimed with a durable write
                before it runs, it is not retried, and if the worker dies meanwhile it fails with
                `StepInterruptedError`.
            cancellable: when nobody waits for it any more (its run or its task was cancelled, its deadline passed), it
                is told while it runs: an ``async def`` step sees `asyncio.CancelledError`, a ``def`` step asks
                `cancellation_requested`. The workflow goes on when the step has ended. Telling takes up to a second.

        Raises:
            RegistrationError: an option is wrong, or the name is taken.
        """
        if max_retries is not None and (isinstance(max_retries, bool) or not isinstance(max_retries, int)):
            raise RegistrationError(f"max_retries is a whole number, not {max_retries!r}")
        if max_retries is not None and max_retries < 0:
            raise RegistrationError(f"max_retries must be 0 or more, not {max_retries}")
        if at_most_once and max_retries:
            raise RegistrationError(f"an at_most_once step is never retried: max_retries={max_retries} contradicts it")
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise RegistrationError(f"retry is a RetryPolicy, not {retry!r}")
        if timeout is not None:
            try:
                if duration_micros(timeout) == 0:
                    raise ValueError("it must be longer than nothing")
            except (TypeError, ValueError) as error:
                raise RegistrationError(f"timeout={timeout!r}: {error}") from None
        retries = DEFAULT_MAX_RETRIES if max_retries is None else max_retries

        def declare(func: Callable[..., Any]) -> Step[Any, Any]:
            _check_function(func, "step")
            chosen = self._free_name(name, func, "step", self.steps)
            declared = self.steps[chosen] = Step(
                func,
                name=chosen,
                max_retries=0 if at_most_once else retries,
                retry=retry or RetryPolicy(),
                timeout=timeout,
                at_most_once=at_most_once,
                cancellable=cancellable,
            )
            self._build = None
            return declared

        return declare if func is None else declare(func)

    @property
    def build(self) -> str:
        """Twelve hexadecimal digits that change when a module that declares workflows or steps changes."""
        if self._build is None:
            digest = hashlib.sha256()
            declared: list[Workflow[Any, Any] | Step[Any, Any]] = [*self.workflows.values(), *self.steps.values()]
            for source in sorted({_source(each.func) for each in declared}):
                digest.update(source)
            self._build = digest.hexdigest()[:12]
        return self._build

    def _free_name(
        self,
        name: str | None,
        func: Callable[..., Any],
        kind: str,
        taken: Mapping[str, Workflow[Any, Any] | Step[Any, Any]],
    ) -> str:
        chosen = func.__qualname__.replace("<locals>.", "") if name is None else name
        if not isinstance(chosen, str) or not 1 <= len(chosen) <= MAX_NAME_LENGTH or not chosen.isprintable():
            raise RegistrationError(
                f"the name of a {kind} has 1 to {MAX_NAME_LENGTH} printable characters; {chosen!r} has not"
            )
        if chosen in taken:
            raise RegistrationError(
                f"two {kind}s are called {chosen!r}: {_place(taken[chosen].func)} and {_place(func)}. "
                f"Give one of them another name: @wf.{kind}(name=…)"
            )
        return chosen


class _StepDecorator:
    """The type of ``wf.step(…)``: it keeps the signature of what it decorates."""

    @overload
    def __call__(self, func: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...

    @overload
    def __call__(self, func: Callable[P, R], /) -> Step[P, R]: ...

    def __call__(self, func: Callable[..., Any], /) -> Any:
        raise NotImplementedError


def _check_function(func: object, kind: str) -> None:
    if isinstance(func, (Step, Workflow)):
        raise RegistrationError(f"{func!r} is declared already; a function is one step or one workflow")
    if not isinstance(func, FunctionType):
        raise RegistrationError(
            f"a {kind} is a function defined with 'def' or 'async def', not {type(func).__name__} {func!r}"
        )
    parent = func.__qualname__.rpartition(".")[0]
    parameters = list(inspect.signature(func).parameters)
    if parent and not parent.endswith("<locals>") and parameters[:1] in (["self"], ["cls"]):
        raise RegistrationError(
            f"{_place(func)} is a method; a {kind} is a function, because an object cannot travel to another process"
        )
    if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
        raise RegistrationError(f"{_place(func)} is a generator; a {kind} returns one value")


def _place(func: Callable[..., Any]) -> str:
    code = getattr(func, "__code__", None)
    where = f" ({Path(code.co_filename).name}:{code.co_firstlineno})" if code is not None else ""
    return f"{func.__module__}.{func.__qualname__}{where}"


def _source(func: Callable[..., Any]) -> bytes:
    """What identifies the code around a function: its module's file, or its own bytecode where there is no file."""
    module = sys.modules.get(func.__module__)
    path = getattr(module, "__file__", None)
    if path is not None:
        try:
            return Path(path).read_bytes()
        except OSError:
            pass
    code = func.__code__
    return repr((code.co_code, code.co_consts, code.co_names)).encode()
