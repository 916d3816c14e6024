"""Webhooks: hooks that take HTTP requests from whoever knows their address."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from everstep.codec.typed import ValueCodec
from everstep.core.hooks import Hook
from everstep.core.replay import Replay
from everstep.errors import ConfigurationError, ContextError
from everstep.hooks import HookEvent, open_hook

WEBHOOK_PATH: Final = "/.well-known/workflow/v1/webhook/"
"""Where webhooks are, followed by the token."""
MAX_BODY_BYTES: Final = 10 * 1024 * 1024
"""Of a request to a webhook, and of a response."""
MANUAL: Final = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookResponse:
    """What the caller of a webhook gets.

    Attributes:
        status: from 200 to 599.
        headers: by name.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.status, int) or not 200 <= self.status <= 599:
            raise ConfigurationError(f"the status of a webhook's response is 200 to 599, not {self.status!r}")
        if len(self.body) > MAX_BODY_BYTES:
            raise ConfigurationError(f"a webhook's response has {len(self.body):,} bytes, more than {MAX_BODY_BYTES:,}")

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


REQUEST_CODEC: Final = ValueCodec(WebhookRequest, "a webhook's request")
RESPONSE_CODEC: Final = ValueCodec(WebhookResponse, "a webhook's response")


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
