"""Every error Everstep raises, in one tree.

::

    EverstepError
    ├── ConfigurationError            an option, a file or a setting is wrong (command line: exit code 2)
    │   └── StoreFormatError          the database is not ours, or was written by a newer version
    ├── RegistrationError             a workflow or step is declared wrongly
    ├── ContextError                  an API was called in a place where it has no meaning
    ├── SerializationError            a value cannot be stored, or stored bytes cannot be read
    │   └── TypeValidationError       a value does not fit its annotation
    ├── IdempotencyConflictError      one idempotency key, two different inputs
    ├── AttributeValidationError      an attribute breaks a limit
    ├── HookError                     asked about a hook, and it does not work
    │   ├── HookConflictError         another run has the token
    │   ├── HookDisposedError         the hook takes nothing any more
    │   └── HookNotFoundError         no run waits under this token
    ├── WorkflowRunError              asked about a run, and the answer is not a result
    │   ├── WorkflowRunFailedError
    │   ├── WorkflowRunCancelledError
    │   ├── WorkflowRunNotFoundError
    │   └── WorkflowRunParkedError    the run waits for fixed code
    ├── DeterminismError              a body did what cannot be replayed; parks the run, never fails it
    │   ├── DivergenceError           replay issued other commands than the history holds
    │   └── WorkflowIOError           a body did I/O
    ├── NotRegisteredError            a run needs a workflow or step that this code does not have
    │   ├── WorkflowNotRegisteredError
    │   └── StepNotRegisteredError
    ├── FatalError                    raise it in a step: do not retry
    ├── RetryableError                raise it in a step: retry after this long
    ├── StepTimeoutError              an attempt ran longer than the step's timeout (also a TimeoutError)
    ├── StepCancelledError            the step was told that nobody waits for it any more
    ├── StepInterruptedError          the worker died during the attempt and it may not be repeated
    ├── StreamClosedError             written to a stream that another step has closed
    ├── RemoteError                   stands in for an error whose class this process does not have
    └── StoreError                    the store could not do what was asked
        └── StoreBusyError            try again: locked or throttled

``TypeValidationError``, ``StepCancelledError``, ``StepInterruptedError`` and ``StreamClosedError`` are also
`FatalError`: trying again cannot help.
Every class names its page of the documentation in `page`. All survive pickling and copying.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, ClassVar

DOCS = "docs/errors"


class EverstepError(Exception):
    """Base of every error of this package."""

    page: ClassVar[str] = "index"
    """Name of the page in ``docs/errors`` that explains this error."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__.copy()))


def _rebuild(cls: type[EverstepError], args: tuple[Any, ...], state: dict[str, Any]) -> EverstepError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    if isinstance(error, WorkflowRunFailedError):
        error.__cause__ = error.error
    return error


class ConfigurationError(EverstepError):
    """An option, a file, a module or a setting is wrong."""

    page = "configuration"


class StoreFormatError(ConfigurationError):
    """The database file is not an Everstep database, or a newer version wrote it."""

    page = "store-format"


class RegistrationError(EverstepError):
    """A workflow or a step is declared in a way that cannot work."""

    page = "registration"


class ContextError(EverstepError, RuntimeError):
    """An API was called where it has no meaning, such as `sleep` outside a workflow body."""

    page = "context"


class SerializationError(EverstepError):
    """A value cannot be stored, or stored bytes cannot be read back."""

    page = "serialization"


class IdempotencyConflictError(EverstepError):
    """The idempotency key belongs to a run of another workflow or with another input."""

    page = "idempotency-conflict"

    def __init__(self, key: str, run_id: str, what: str) -> None:
        super().__init__(
            f"idempotency key {key!r} already belongs to run {run_id}, which was started with another {what}. "
            f"Use a new key for a new run, or the same {what} to get that run."
        )
        self.key = key
        self.run_id = run_id


class AttributeValidationError(EverstepError, ValueError):
    """An attribute's key, value or number breaks a limit."""

    page = "attributes"


class WorkflowRunError(EverstepError):
    """Base of what `Run.return_value` raises."""

    page = "workflow-run"
    run_id: str


class WorkflowRunFailedError(WorkflowRunError):
    """The workflow raised. `error` (also ``__cause__``) is what it raised."""

    page = "workflow-run-failed"

    def __init__(self, run_id: str, error: BaseException | None, *, error_code: str | None = None) -> None:
        described = "unknown error" if error is None else f"{type(error).__name__}: {error}"
        super().__init__(f"workflow run {run_id!r} failed: {described}")
        self.run_id = run_id
        self.error = error
        self.error_code = error_code
        self.__cause__ = error


class WorkflowRunCancelledError(WorkflowRunError):
    """The run was cancelled."""

    page = "workflow-run-cancelled"

    def __init__(self, run_id: str, reason: str | None = None) -> None:
        super().__init__(f"workflow run {run_id!r} was cancelled" + (f": {reason}" if reason else ""))
        self.run_id = run_id
        self.reason = reason


class WorkflowRunNotFoundError(WorkflowRunError):
    """No such run in this store."""

    page = "workflow-run-not-found"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"there is no workflow run {run_id!r} in this store")
        self.run_id = run_id


class WorkflowRunParkedError(WorkflowRunError):
    """The run cannot go on with the deployed code. It is kept and goes on when fixed code is deployed."""

    page = "workflow-run-parked"

    def __init__(self, run_id: str, reason: str) -> None:
        super().__init__(f"workflow run {run_id!r} is parked: {reason}")
        self.run_id = run_id
        self.reason = reason


class HookError(EverstepError):
    """Base of the errors of hooks. `token` is the hook's."""

    page = "hooks"
    token: str


class HookConflictError(HookError):
    """The token belongs to an open hook of another run, whose id is `run_id`."""

    def __init__(self, token: str, run_id: str) -> None:
        super().__init__(
            f"the token {token!r} belongs to a hook of run {run_id}: a token has one open hook at a time. Choose "
            f"another token, or look at that run; it is free again when that hook is disposed ('async with' does it) "
            f"or the run has ended"
        )
        self.token = token
        self.run_id = run_id


class HookDisposedError(HookError):
    """The hook was disposed, so nothing more will come."""

    def __init__(self, token: str) -> None:
        super().__init__(
            f"the hook with the token {masked(token)!r} was disposed, so nothing more comes; open a new one"
        )
        self.token = token


class HookNotFoundError(HookError, LookupError):
    """No run waits under this token: it was never opened, was disposed, or its run has ended."""

    def __init__(self, token: str) -> None:
        super().__init__(
            f"no run has an open hook with the token {masked(token)!r}: it is not opened yet, it was disposed, or its "
            f"run has ended"
        )
        self.token = token


def masked(token: str) -> str:
    """The beginning of a token: whoever knows all of it may use it, so it is not for logs."""
    return token if len(token) <= 8 else token[:8] + "…"


class DeterminismError(EverstepError):
    """A workflow body did something that a replay cannot repeat."""

    page = "determinism"


class DivergenceError(DeterminismError):
    """A replay issued other commands than the history holds."""

    page = "divergence"


class WorkflowIOError(DeterminismError):
    """A workflow body did I/O. Move it into a step."""

    page = "io-in-workflow"


class NotRegisteredError(EverstepError):
    """A run needs something that this app does not have."""

    page = "not-registered"


class WorkflowNotRegisteredError(NotRegisteredError):
    """No workflow of this name in the app."""


class StepNotRegisteredError(NotRegisteredError):
    """No step of this name in the app."""

    def __init__(self, step_name: str, message: str | None = None) -> None:
        super().__init__(
            message
            or f"step {step_name!r} is not registered with this app: import the module that defines it, "
            f"or restore the step; runs that need it are parked until then"
        )
        self.step_name = step_name


class FatalError(EverstepError):
    """Raise it in a step to fail the step at once, without retries."""

    page = "retries"
    fatal = True


class RetryableError(EverstepError):
    """Raise it in a step to say when the next attempt may run.

    Args:
        message: what went wrong.
        retry_after: as for `sleep`: seconds, a `timedelta`, text such as ``"1m 30s"``, or a `datetime` with a
            time zone. The default is one second. It changes when the next attempt runs, not how many there are.
    """

    page = "retries"

    def __init__(self, message: str = "", *, retry_after: float | timedelta | datetime | str = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TypeValidationError(SerializationError, FatalError):
    """A value does not fit the annotation it was passed for. The message names function, parameter and path."""

    page = "type-validation"


class StepTimeoutError(EverstepError, TimeoutError):
    """An attempt ran longer than the step's ``timeout``."""

    page = "step-timeout"


class StepCancelledError(FatalError):
    """The step was cancelled while it ran, because nobody waits for it any more. Its workflow does not see this."""

    page = "step-cancelled"


class StepInterruptedError(FatalError):
    """The worker died while the step ran, and the step may not be tried again."""

    page = "step-interrupted"


class StreamClosedError(FatalError):
    """A step wrote to a stream that it, or another step, had closed."""

    page = "stream-closed"

    def __init__(self, run_id: str, stream: str) -> None:
        super().__init__(
            f"stream {stream!r} of run {run_id} is closed, and nothing more can be written to it: close it in the last "
            f"step that writes to it, or give this one a stream of its own with namespace="
        )
        self.run_id = run_id
        self.stream = stream


class RemoteError(EverstepError):
    """Stands in for an error whose class is not a builtin and not imported in this process."""

    page = "remote-error"

    def __init__(self, message: str, *, name: str = "Exception") -> None:
        super().__init__(message)
        self.message = message
        self.name = name

    def __str__(self) -> str:
        return f"{self.name}: {self.message}" if self.message else self.name


class StoreError(EverstepError):
    """The store could not do what was asked."""

    page = "store"


class StoreBusyError(StoreError):
    """The store is locked or throttled; the same call may succeed in a moment."""

    page = "store-busy"
