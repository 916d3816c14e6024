"""What the runtime needs of an app."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from everstep.core.operations import Program
from everstep.core.retry import RetryPolicy


class StepProgram(Protocol):
    """A step as the runtime executes it."""

    @property
    def name(self) -> str: ...
    @property
    def func(self) -> Callable[..., Any]: ...
    @property
    def asynchronous(self) -> bool: ...
    @property
    def max_retries(self) -> int: ...
    @property
    def retry(self) -> RetryPolicy: ...
    @property
    def timeout(self) -> float | None: ...
    @property
    def at_most_once(self) -> bool: ...
    @property
    def cancellable(self) -> bool: ...

    def decode_call(self, data: bytes) -> tuple[list[Any], dict[str, Any]]: ...
    def encode_result(self, value: Any) -> bytes: ...


class Registry(Protocol):
    """An app: workflows and steps by name, and the build they are of."""

    @property
    def workflows(self) -> Mapping[str, Program]: ...
    @property
    def steps(self) -> Mapping[str, StepProgram]: ...
    @property
    def build(self) -> str: ...
