"""Hooks and webhooks: a workflow waits for what people and other programs send.

In a workflow body a hook is opened with `BaseHook.wait`, `create_hook` or `create_webhook`; anywhere else a payload is
sent with `BaseHook.resume` or `resume_hook`.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, ClassVar, Final, Generic, Self, TypeVar, cast

from everstep.assembly import current_connection
from everstep.codec import values
from everstep.codec.typed import ValueCodec
from everstep.core.durations import to_datetime
from everstep.core.hooks import Hook
from everstep.core.replay import Replay
from everstep.errors import ConfigurationError, ContextError, HookDisposedError, SerializationError, TypeValidationError
from everstep.ports import HookClaim

T_co = TypeVar("T_co", covariant=True)

MAX_TOKEN: Final = 512
"""Characters of a token."""
MAX_METADATA_BYTES: Final = 8 * 1024
TOKEN_BYTES: Final = 16
"""Of real chance in a token that nobody chose: 128 bits."""

_kinds: Final[dict[str, dict[str, type[BaseHook]]]] = {}
"""Classes of payloads by name, and by module: two modules may have classes of one name."""


class HookEvent(Generic[T_co]):
    """An open hook in a workflow body.

    ``await`` gives the next payload, ``async for`` all of them until it is disposed, in the order in which they came,
    also those that came before the body asked. ``async with`` disposes of it at the end of the block; what has come by
    then and was not asked for is dropped. A hook that is still open when the run ends is disposed then.

    Awaiting it is a `HookConflictError` when its token belongs to another open hook, and a `HookDisposedError` when it
    was disposed.
    """

    def __init__(self, hook: Hook, metadata: Any = None) -> None:
        self._hook = hook
        self.metadata = metadata

    def __hash__(self) -> int:
        return hash(self._hook)

    @property
    def token(self) -> str:
        """By which others send payloads. Whoever knows it can."""
        return self._hook.token

    def __await__(self) -> Generator[Any, None, T_co]:
        return cast("Generator[Any, None, T_co]", self._hook.next().__await__())

    def __aiter__(self) -> AsyncIterator[T_co]:
        return self

    async def __anext__(self) -> T_co:
        try:
            return cast("T_co", await self._hook.next())
        except HookDisposedError:
            raise StopAsyncIteration from None

    async def get_conflict(self) -> str | None:
        """The id of the run that has the token; None when it is this hook's, and then payloads can come.

        The answer comes with the next turn. It is this run's own id where another hook of the run has the token.
        """
        return await self._hook.conflict()

    def dispose(self) -> None:
        """Take nothing any more, not even what has come and was not asked for. The token is free again.

        It may be done twice. Whoever waits for the hook gets a `HookDisposedError`; an ``async for`` ends.
        """
        self._hook.dispose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.dispose()

    def __repr__(self) -> str:
        return repr(self._hook)


class BaseHook:
    """Base of payloads: a dataclass or a pydantic model that derives from it can be waited for and sent.

    ::

        @dataclass
        class Approval(BaseHook):
            approved: bool

        approval = await Approval.wait(token=f"order-{number}")       # in a workflow
        await Approval(approved=True).resume(f"order-{number}")       # anywhere else
    """

    _everstep_codec: ClassVar[ValueCodec | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _kinds.setdefault(cls.__name__, {})[cls.__module__] = cls  # in place of an earlier one, as after a reload

    @classmethod
    def wait(cls, *, token: str | None = None, metadata: Any = None) -> HookEvent[Self]:
        """Open a hook for payloads of this class, in a workflow body.

        Args:
            token: by which payloads are sent: 1 to 512 printable characters. A token has one open hook at a time; a
                second one finds a `HookConflictError` when it is awaited. By default one that cannot be guessed.
            metadata: anything that can be stored, up to 8 KiB as JSON, for who looks the hook up.
        """
        call = f"{cls.__name__}.wait()"
        return HookEvent(open_hook(call, _codec_of(cls), token=token, kind=cls.__name__, metadata=metadata), metadata)

    async def resume(self, hook: str | HookInfo, *, resume_id: str | None = None) -> HookInfo:
        """Send this payload to the run that waits under the token. As `resume_hook`."""
        return await resume_hook(hook, self, resume_id=resume_id)


def create_hook(*, type: Any = Any, token: str | None = None, metadata: Any = None) -> HookEvent[Any]:
    """Open a hook without a class for its payloads, in a workflow body. As `BaseHook.wait`.

    Args:
        type: the annotation that payloads are validated against when they are awaited.
    """
    codec = ValueCodec(type, "the payload of a hook")
    return HookEvent(open_hook("create_hook()", codec, token=token, metadata=metadata), metadata)


def _codec_of(cls: type[BaseHook]) -> ValueCodec:
    found = cls.__dict__.get("_everstep_codec")
    if found is None:
        found = ValueCodec(cls, f"the payload of hook {cls.__name__}")
        type.__setattr__(cls, "_everstep_codec", found)
    return cast("ValueCodec", found)


def open_hook(
    call: str,
    codec: ValueCodec,
    *,
    token: str | None = None,
    kind: str = "",
    webhook: bool = False,
    metadata: Any = None,
    answer: bytes | None = None,
) -> Hook:
    """Open a hook in the body that is running. `call` names the function that the body called, for messages."""
    run = Replay.current()
    if run is None:
        raise ContextError(f"{call} belongs in a workflow body; it was called outside of one")
    if token is not None and (not isinstance(token, str) or not 1 <= len(token) <= MAX_TOKEN):
        raise ConfigurationError(f"a hook's token has 1 to {MAX_TOKEN} characters; {token!r:.80} has not")
    if token is not None and not token.isprintable():
        raise ConfigurationError(f"a hook's token has printable characters only; {token!r:.80} has not")
    chosen = run.draw(lambda: _new_token(run)) if token is None else token
    with run.loop.trusting:
        described = None if metadata is None else values.encode(metadata, where=f"the metadata of {call}")
    if described is not None and len(described) > MAX_METADATA_BYTES:
        raise SerializationError(
            f"the metadata of {call} is {len(described):,} bytes as JSON, more than {MAX_METADATA_BYTES:,}"
        )
    hook = Hook(run, chosen, decode=codec.decode, kind=kind, webhook=webhook, metadata=described, answer=answer)
    run.open_hook(hook)
    return hook


def _new_token(run: Replay) -> str:
    return base64.urlsafe_b64encode(run.entropy(TOKEN_BYTES)).rstrip(b"=").decode()


# --- sending ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class HookInfo:
    """An open hook, as seen from outside its run.

    Attributes:
        kind: the name of the payload's class; empty for any.
        webhook: whether it takes HTTP requests.
        metadata: what the workflow gave for who looks it up.
    """

    token: str
    run_id: str
    workflow_name: str
    kind: str
    webhook: bool
    metadata: Any
    opened_at: datetime


def hook_info(claim: HookClaim) -> HookInfo:
    """A claim, for people and programs outside."""
    return HookInfo(
        token=claim.token,
        run_id=claim.run_id,
        workflow_name=claim.workflow,
        kind=claim.kind,
        webhook=claim.webhook,
        metadata=None if claim.metadata is None else values.decode(claim.metadata),
        opened_at=to_datetime(claim.opened_at),
    )


async def get_hook_by_token(token: str) -> HookInfo:
    """The hook that is open under this token; `HookNotFoundError` when there is none."""
    refuse_body("get_hook_by_token()")
    connection = current_connection()
    return hook_info(await asyncio.to_thread(connection.find_hook, token))


async def resume_hook(hook: str | HookInfo, payload: Any = None, *, resume_id: str | None = None) -> HookInfo:
    """Send a payload to the run that waits under a token. It is durable when this returns.

    Args:
        hook: the token, or what `get_hook_by_token` found.
        payload: an object of the hook's class, or data that fits it; anything that can be stored where it has no class.
        resume_id: of several calls with the same one, for the same token, a run sees the first; give it one where a
            call may be repeated.

    Raises:
        HookNotFoundError: no run has an open hook with this token.
        TypeValidationError: the payload does not fit the hook's class. Nothing is sent.
    """
    refuse_body("resume_hook()")
    return await asyncio.to_thread(resume_hook_sync, hook, payload, resume_id=resume_id)


def resume_hook_sync(hook: str | HookInfo, payload: Any = None, *, resume_id: str | None = None) -> HookInfo:
    """As `resume_hook`, for programs without an event loop."""
    refuse_body("resume_hook_sync()")
    connection = current_connection()
    token = hook.token if isinstance(hook, HookInfo) else hook
    if not isinstance(token, str):
        raise TypeError(f"resume_hook() takes a token or a HookInfo, not {type(hook).__name__}")
    claim = connection.find_hook(token)
    data = encode_payload(claim.kind, payload)
    return hook_info(connection.resume_hook(token, data, resume_id=resume_id))


def payload_classes(kind: str) -> tuple[type[BaseHook], ...]:
    """The classes of payloads of this name in the modules that this process has, the last declared first."""
    return tuple(cls for module, cls in reversed(_kinds.get(kind, {}).items()) if module in sys.modules)


def encode_payload(kind: str, payload: Any) -> bytes:
    """A payload for a hook of this kind, as it is stored; `TypeValidationError` where it does not fit."""
    if isinstance(payload, BaseHook):
        if kind and type(payload).__name__ != kind:
            raise TypeValidationError(f"the hook takes a {kind}, and got a {type(payload).__name__}")
        return _codec_of(type(payload)).encode(payload)
    refusal: TypeValidationError | None = None
    for cls in payload_classes(kind):  # names do not say the module: it must fit one of them
        try:
            return _codec_of(cls).encode_json(payload)
        except TypeValidationError as error:
            refusal = refusal or error
    if refusal is not None:
        raise refusal
    # It has no class, or this process does not have it: the run will see whether it fits.
    return values.encode(payload, where="the payload of a hook")


def refuse_body(call: str) -> None:
    """Refuse a call in a workflow body."""
    if Replay.current() is not None:
        raise ContextError(f"{call} was called in a workflow body; in a body, move it into a step")
