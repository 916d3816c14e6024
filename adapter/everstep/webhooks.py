"""Webhooks: hooks that take HTTP requests from whoever knows their address."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from everstep.codec.typed import ValueCodec
from everstep.core.hooks import Hook
from everstep.core.replay import Replay
from everstep.errors import ConfigurationError, ContextError, FatalError, StreamClosedError
from everstep.hooks import HookEvent, open_hook
from everstep.runtime.connection import Connection
from everstep.runtime.execute import CURRENT_STEP
from everstep.runtime.stream_reading import ChunkData, StreamReader, has_ended
from everstep.streams import Writable

WEBHOOK_PATH: Final = "/.well-known/workflow/v1/webhook/"
"""Where webhooks are, followed by the token."""
MAX_BODY_BYTES: Final = 10 * 1024 * 1024
"""Of a request to a webhook, and of a response."""
MANUAL: Final = "manual"
_ANSWERS: Final = "$webhook."
"""What the names of streams begin with that carry answers to callers."""
_PIECE_BYTES: Final = 2 * 1024 * 1024
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookResponse:
    """What the caller of a webhook gets.

    Attributes:
        status: from 200 to 599.
        headers: by name. Those of the connection, such as ``Content-Length``, are the server's.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.status, int) or not 200 <= self.status <= 599:
            raise ConfigurationError(f"the status of a webhook's response is 200 to 599, not {self.status!r}")
        if not isinstance(self.body, bytes):
            raise ConfigurationError(
                f"the body of a webhook's response is bytes, not {type(self.body).__name__}; WebhookResponse.text() "
                f"and WebhookResponse.json() make one of text and of other things"
            )
        if len(self.body) > MAX_BODY_BYTES:
            raise ConfigurationError(f"a webhook's response has {len(self.body):,} bytes, more than {MAX_BODY_BYTES:,}")
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
                raise ConfigurationError(
                    f"header {name!r:.80} of a webhook's response cannot be sent: names are letters, digits and "
                    f"hyphens, values printable ASCII on one line"
                )

    @classmethod
    def json(cls, value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> WebhookResponse:
        """A response with JSON."""
        named = {"content-type": "application/json", **(headers or {})}
        return cls(status=status, body=json.dumps(value).encode(), headers=named)

    @classmethod
    def text(cls, text: str, *, status: int = 200, headers: Mapping[str, str] | None = None) -> WebhookResponse:
        """A response with plain text."""
        named = {"content-type": "text/plain; charset=utf-8", **(headers or {})}
        return cls(status=status, body=text.encode(), headers=named)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookRequest:
    """An HTTP request that came to a webhook.

    Attributes:
        request_id: unique to the request.
        run_id: the run that it came to.
        path: of the URL, without the query.
        headers: by name, in lower case; several values of one name are joined with commas.
        query: the values of each name, in order.
    """

    request_id: str
    run_id: str
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    query: dict[str, list[str]] = field(default_factory=dict)
    body: bytes = b""

    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    async def respond_with(self, response: WebhookResponse) -> None:
        """Answer the caller, who waits for it where the webhook was opened with ``respond_with="manual"``. In a step.

        A caller waits for about 25 s; what comes later nobody gets. When the step is tried again it answers again.

        Raises:
            FatalError: another step has answered.
            ContextError: this is no step.
        """
        end = self._answering_end("respond_with()")
        try:
            await end.write_from(_pieces(response))
            await end.close()
        except StreamClosedError:
            raise self._answered() from None

    def respond_with_sync(self, response: WebhookResponse) -> None:
        """As `respond_with`, for ``def`` steps."""
        end = self._answering_end("respond_with_sync()")
        try:
            for piece in _pieces(response):
                end.write_sync(piece)
            end.close_sync()
        except StreamClosedError:
            raise self._answered() from None

    def _answering_end(self, call: str) -> Writable[bytes]:
        if Replay.current() is not None:
            raise ContextError(f"{call} was called in a workflow body: pass the request to a step, and answer there")
        if CURRENT_STEP.get(None) is None:
            raise ContextError(f"{call} belongs in a step that a workflow runs; it was called outside of one")
        return Writable(self.run_id, namespace=_ANSWERS + self.request_id, type=bytes, on_retry="discard")

    def _answered(self) -> FatalError:
        return FatalError(f"request {self.request_id} to a webhook of run {self.run_id} was answered by another step")


REQUEST_CODEC: Final = ValueCodec(WebhookRequest, "a webhook's request")
RESPONSE_CODEC: Final = ValueCodec(WebhookResponse, "a webhook's response")


def _pieces(response: WebhookResponse) -> list[bytes]:
    data = RESPONSE_CODEC.encode(response)
    return [data[begin : begin + _PIECE_BYTES] for begin in range(0, len(data), _PIECE_BYTES)]


class Answer:
    """The answer that a step gives to the caller of a webhook. Used by one thread at a time.

    Attributes:
        over: there will be none, because the run has ended.
    """

    def __init__(self, connection: Connection, request: WebhookRequest) -> None:
        self.over = False
        self._backend = connection.backend
        self._run_id = request.run_id
        self._reader = StreamReader(connection.backend.streams, request.run_id, _ANSWERS + request.request_id)
        self._pieces: list[bytes] = []

    def look(self) -> WebhookResponse | None:
        """The answer, if it is there."""
        ended = has_ended(self._backend, self._run_id, exists=True)
        for item in self._reader.read():
            if isinstance(item, ChunkData):
                self._pieces.append(item.data)
            else:
                del self._pieces[item.index :]
        if self._reader.done:
            answer: WebhookResponse = RESPONSE_CODEC.decode(b"".join(self._pieces))
            return answer
        self.over = ended and self._reader.at_end
        return None


class Webhook(HookEvent[WebhookRequest]):
    """An open webhook in a workflow body.

    Attributes:
        url: where to send requests. Whoever knows it can.
    """

    def __init__(self, hook: Hook, metadata: Any, url: str) -> None:
        super().__init__(hook, metadata)
        self.url = url


def create_webhook(*, respond_with: WebhookResponse | Literal["manual"] | None = None, metadata: Any = None) -> Webhook:
    """Open a webhook, in a workflow body: a URL of its own; each request to it, of any method, is a payload.

    Args:
        respond_with: what callers get at once, 202 and nothing by default. With ``"manual"`` a step answers each
            caller, who waits for it (`WebhookRequest.respond_with`).
        metadata: as for `BaseHook.wait`.

    The token is in the URL, and nothing else protects it. It cannot be chosen. The URL begins with
    ``EVERSTEP_PUBLIC_URL``, which the template sets on AWS and `everstep dev` on one machine.
    """
    run = Replay.current()
    if run is None:
        raise ContextError("create_webhook() belongs in a workflow body; it was called outside of one")
    if respond_with is None:
        answer: WebhookResponse | None = WebhookResponse(status=202)
    elif isinstance(respond_with, WebhookResponse):
        answer = respond_with
    elif respond_with == MANUAL:
        answer = None
    else:
        raise ConfigurationError(f"respond_with is a WebhookResponse or 'manual', not {respond_with!r:.80}")
    with run.loop.trusting:
        encoded = None if answer is None else RESPONSE_CODEC.encode(answer)
    hook = open_hook(
        "create_webhook()",
        REQUEST_CODEC,
        kind=WebhookRequest.__name__,
        webhook=True,
        metadata=metadata,
        answer=encoded,
    )
    base = run.draw(lambda: run.info.public_url)
    return Webhook(hook, metadata, f"{base.rstrip('/')}{WEBHOOK_PATH}{hook.token}")
