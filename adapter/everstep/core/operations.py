"""What a workflow body can ask for, as the body sees it."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from everstep.core.loop import Discarded

if TYPE_CHECKING:
    from everstep.core.replay import Replay

R_co = TypeVar("R_co", covariant=True)


class StepCodec(Protocol):
    """How a step's calls and results travel. Implemented by the app's steps."""

    @property
    def name(self) -> str:
        """The registered name."""

    def encode_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Bind and encode a call. TypeError for a bad call, `SerializationError` for values that do not fit."""

    def decode_result(self, data: bytes) -> Any:
        """What the step returned."""

    def same_call(self, recorded: bytes, asked: bytes) -> bool:
        """Whether two encoded calls that differ in bytes mean the same."""


class Program(Protocol):
    """A workflow as the core runs it. Implemented by the app's workflows."""

    @property
    def name(self) -> str:
        """The registered name."""

    def begin(self, data: bytes) -> Coroutine[Any, Any, Any]:
        """Decode the input and make the body; nothing of it has run yet."""

    def encode_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Encode an input, for a run that continues as new."""

    def encode_result(self, value: Any) -> bytes:
        """Encode what the body returned."""

    def encode_error(self, error: BaseException) -> bytes:
        """Encode what the body raised. Never raises."""

    def decode_error(self, data: bytes) -> BaseException:
        """Rebuild a step's error. Never raises."""

    def digest(self, data: bytes) -> str:
        """Identify an input."""


class ContinueAsNew(BaseException):
    """Ends a body so that the run goes on as a new one. Not an `Exception`, so that ``except Exception`` lets it by."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__("continue as new")
        self.call = (args, kwargs)


class StepCall(Coroutine[Any, Any, R_co]):
    """A step call that can be awaited, or handed to anything of asyncio that takes a coroutine.

    The step is asked for when the call is first awaited (or its task first runs), as with any coroutine.
    Its hash is a counter, so that a set of calls is iterated in the same order on every replay.
    """

    __slots__ = ("__weakref__", "_future", "_iterator", "_number", "_run", "codec", "data", "op")

    def __init__(self, run: Replay, codec: StepCodec, data: bytes) -> None:
        self._run = run
        self._number = run.loop.next_number()
        self._iterator: Generator[Any, None, Any] | None = None
        self._future: asyncio.Future[Any] | None = None
        self.codec = codec
        self.data = data
        self.op = -1

    def __hash__(self) -> int:
        return self._number

    def __repr__(self) -> str:
        return f"<call of step {self.codec.name!r}>"

    @property
    def withdrawn(self) -> bool:
        """Whether the body has lost interest."""
        return self._future is not None and self._future.cancelled()

    def resolve(self, result: bytes) -> None:
        """Deliver the step's result."""
        if self._future is not None and not self._future.done():
            self._future.set_result(self.codec.decode_result(result))

    def reject(self, error: BaseException) -> None:
        """Deliver the step's error."""
        if self._future is None or self._future.done():
            return
        if isinstance(error, StopIteration):  # asyncio refuses it in a future
            replacement = RuntimeError(f"step {self.codec.name!r} raised StopIteration")
            replacement.__cause__ = error
            error = replacement
        if isinstance(error, asyncio.CancelledError):
            self._future.cancel(str(error) or None)
        else:
            self._future.set_exception(error)

    def __await__(self) -> Generator[Any, None, R_co]:
        if self._iterator is not None:
            raise RuntimeError(f"cannot reuse the {self!r}: call the step again")
        loop = self._run.loop
        if loop.discarded:
            raise Discarded
        self._future = asyncio.Future(loop=loop)
        self._iterator = self._future.__await__()
        self._run.ask_step(self)
        return self._iterator

    def send(self, value: Any) -> Any:
        return (self._iterator or self.__await__()).send(value)

    def throw(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> Any:
        if self._iterator is None:  # cancelled before it began: it is never asked for
            self._iterator = iter(())  # type: ignore[assignment]
            raise typ if isinstance(typ, BaseException) else typ()
        if isinstance(typ, BaseException):
            return self._iterator.throw(typ)
        return self._iterator.throw(typ, val, tb)

    def close(self) -> None:
        if self._iterator is None:
            self._iterator = iter(())  # type: ignore[assignment]
        elif self._future is not None:
            self._iterator.close()

    def __del__(self) -> None:
        if self._iterator is None and not self._run.loop.discarded and not self._run.loop.replaying:
            warnings.warn(
                f"step {self.codec.name!r} was called but never awaited, so it did not run",
                RuntimeWarning,
                stacklevel=2,
            )
