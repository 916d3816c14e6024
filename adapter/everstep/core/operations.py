"""What a workflow body can ask for, as the body sees it."""

from __future__ import annotations

import asyncio
import warnings
from abc import abstractmethod
from collections.abc import Coroutine, Generator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from everstep.core.history import Micros
from everstep.core.loop import Discarded

if TYPE_CHECKING:
    from everstep.core.replay import Replay

R_co = TypeVar("R_co", covariant=True)


class CallCodec(Protocol):
    """How calls and results of a step or of a child run travel."""

    @property
    def name(self) -> str:
        """The registered name."""

    def encode_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Bind and encode a call. TypeError for a bad call, `SerializationError` for values that do not fit."""

    def decode_result(self, data: bytes) -> Any:
        """What was returned."""

    def same_call(self, recorded: bytes, asked: bytes) -> bool:
        """Whether two encoded calls that differ in bytes mean the same."""


class StepCodec(CallCodec, Protocol):
    """A step as a body calls it. Implemented by the app's steps."""

    @property
    def cancellable(self) -> bool:
        """Whether it is told when nobody waits for it any more, and waited for until it has ended."""


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


class Call(Coroutine[Any, Any, R_co]):
    """A call that can be awaited, or handed to anything of asyncio that takes a coroutine.

    What it calls is asked for when the call is first awaited (or its task first runs), as with any coroutine.
    Its hash is a counter, so that a set of calls is iterated in the same order on every replay.
    """

    __slots__ = ("__weakref__", "_future", "_iterator", "_number", "_run", "data", "op")

    codec: CallCodec

    def __init__(self, run: Replay, data: bytes) -> None:
        self._run = run
        self._number = run.loop.next_number()
        self._iterator: Generator[Any, None, Any] | None = None
        self._future: asyncio.Future[Any] | None = None
        self.data = data
        self.op = -1

    def __hash__(self) -> int:
        return self._number

    def __repr__(self) -> str:
        return f"<call of {self.described}>"

    @property
    @abstractmethod
    def described(self) -> str:
        """What is called, in words."""

    @abstractmethod
    def _wait(self, future: asyncio.Future[Any]) -> Generator[Any, None, Any]:
        """What awaiting it runs."""

    @abstractmethod
    def _ask(self) -> None:
        """Ask for it: it becomes a command at the end of the turn."""

    @property
    def withdrawn(self) -> bool:
        """Whether the body has lost interest."""
        return self._future is not None and self._future.cancelled()

    def resolve(self, result: bytes) -> None:
        """Deliver the result."""
        if self._future is not None and not self._future.done():
            self._future.set_result(self.codec.decode_result(result))

    def reject(self, error: BaseException) -> None:
        """Deliver the error."""
        if self._future is None or self._future.done():
            return
        if isinstance(error, StopIteration):  # asyncio refuses it in a future
            replacement = RuntimeError(f"{self.described} raised StopIteration")
            replacement.__cause__ = error
            error = replacement
        if isinstance(error, asyncio.CancelledError):
            self._future.cancel(str(error) or None)
        else:
            self._future.set_exception(error)

    def __await__(self) -> Generator[Any, None, R_co]:
        if self._iterator is not None:
            raise RuntimeError(f"cannot reuse the {self!r}: call it again")
        loop = self._run.loop
        if loop.discarded:
            raise Discarded
        self._future = asyncio.Future(loop=loop)
        self._iterator = self._wait(self._future)
        self._ask()
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
                f"{self.described} was called but never awaited, so it did not run", RuntimeWarning, stacklevel=2
            )


class StepCall(Call[R_co]):
    """A call of a step."""

    __slots__ = ("codec",)

    codec: StepCodec

    def __init__(self, run: Replay, codec: StepCodec, data: bytes) -> None:
        super().__init__(run, data)
        self.codec = codec

    @property
    def described(self) -> str:
        return f"step {self.codec.name!r}"

    def _ask(self) -> None:
        self._run.ask(self)

    def _wait(self, future: asyncio.Future[Any]) -> Generator[Any, None, Any]:
        return self._wait_to_the_end(future) if self.codec.cancellable else future.__await__()

    def _wait_to_the_end(self, future: asyncio.Future[Any]) -> Generator[Any, None, Any]:
        """When it is cancelled, tell the step, and wait until it has ended: then nothing of it is under way."""
        try:
            return (yield from future)
        except asyncio.CancelledError:
            if self._run.cancel_step(self):
                self._future = asyncio.Future(loop=self._run.loop)
                try:
                    yield from self._future
                except asyncio.CancelledError:  # a second time: go at once
                    raise
                except BaseException:  # what became of it is of no interest any more
                    pass
            raise


class ChildCall(Call[R_co]):
    """A call of a workflow, which becomes a run of its own. Cancelling the call cancels the run."""

    __slots__ = ("attributes", "codec", "number", "start_at")

    codec: CallCodec

    def __init__(
        self, run: Replay, codec: CallCodec, data: bytes, attributes: Mapping[str, str], start_at: Micros | None
    ) -> None:
        super().__init__(run, data)
        self.codec = codec
        self.attributes = attributes
        self.start_at = start_at
        self.number = -1

    @property
    def described(self) -> str:
        return f"workflow {self.codec.name!r}"

    def _ask(self) -> None:
        self._run.ask(self)

    def _wait(self, future: asyncio.Future[Any]) -> Generator[Any, None, Any]:
        try:
            return (yield from future)
        except asyncio.CancelledError:
            self._run.cancel_child(self)
            raise
