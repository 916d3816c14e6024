"""Webhooks as a body opens them; how requests come to them over HTTP is tested with the HTTP API."""

from __future__ import annotations

from typing import Any

import pytest

from everstep import ConfigurationError, ContextError, WebhookRequest, WebhookResponse, WorkflowRunFailedError
from everstep import create_webhook as create
from everstep.testing import replay
from everstep.webhooks import REQUEST_CODEC, RESPONSE_CODEC, WEBHOOK_PATH


@pytest.fixture
def env(app, environment):
    with environment(app) as env:
        yield env


def send(env, token, **fields):
    """What the HTTP API does with a request."""
    claim = env.connection.find_hook(token)
    values = {"request_id": "r1", "run_id": claim.run_id, "method": "POST", "path": WEBHOOK_PATH + token}
    request = WebhookRequest(**(values | fields))
    env.connection.resume_hook(token, REQUEST_CODEC.encode(request))


def test_a_request_is_a_payload(app, env):
    env.connection.public_url = env.engine.public_url = "https://example.org/"

    @app.workflow
    async def body() -> list[object]:
        webhook = create(metadata={"order": 3})
        first = await webhook
        second = await webhook
        return [webhook.url, webhook.token, first.json(), second.method, second.query, second.headers, second.text()]

    run = env.start(body)
    info = env.wait_for_hook(run)
    assert (info.kind, info.webhook, info.metadata) == ("WebhookRequest", True, {"order": 3})
    send(env, info.token, body=b'{"paid": true}')
    env.engine.public_url = "https://moved.example.org"
    env.engine.live.clear()
    send(env, info.token, method="PUT", query={"a": ["1", "2"]}, headers={"x-y": "z"}, body="ü".encode())
    url = f"https://example.org/.well-known/workflow/v1/webhook/{info.token}"
    assert run.wait() == [url, info.token, {"paid": True}, "PUT", {"a": ["1", "2"]}, {"x-y": "z"}, "ü"]
    assert len(info.token) == 22
    assert replay(app, env.history(run)) == run.wait()


@pytest.mark.parametrize(
    ("respond_with", "expected"),
    [
        (None, WebhookResponse(status=202)),
        (WebhookResponse(status=204, headers={"a": "b"}), WebhookResponse(status=204, headers={"a": "b"})),
        (WebhookResponse.json({"ok": True}), WebhookResponse.json({"ok": True})),
        ("manual", None),
    ],
)
def test_what_callers_are_answered(app, env, respond_with, expected):
    @app.workflow
    async def body() -> None:
        await create(respond_with=respond_with)

    run = env.start(body)
    claim = env.connection.find_hook(env.wait_for_hook(run).token)
    assert (None if claim.answer is None else RESPONSE_CODEC.decode(claim.answer)) == expected


def test_answers_that_cannot_be(app, env):
    @app.workflow
    async def body(number: int) -> None:
        wrong: list[Any] = ["later", 202, b""]
        create(respond_with=wrong[number])

    for number in range(3):
        with pytest.raises(WorkflowRunFailedError, match="respond_with is a WebhookResponse or 'manual'") as caught:
            env.run(body, number)
        assert isinstance(caught.value.error, ConfigurationError)
    with pytest.raises(ConfigurationError, match="is 200 to 599, not 100"):
        WebhookResponse(status=100)
    with pytest.raises(ConfigurationError, match="has 10,485,761 bytes, more than 10,485,760"):
        WebhookResponse(body=bytes(10 * 1024 * 1024 + 1))


def test_in_the_wrong_place():
    with pytest.raises(ContextError, match=r"create_webhook\(\) belongs in a workflow body"):
        create()
