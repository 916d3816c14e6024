"""Responses of webhooks: what can be one, and where a caller can be answered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from everstep import ConfigurationError, ContextError, WebhookRequest, WebhookResponse, WorkflowRunFailedError

REQUEST = WebhookRequest(request_id="r1", run_id="wrun_01JAAAAAAAAAAAAAAAAAAAAAAA", method="POST", path="/x")
OK = WebhookResponse.text("ok")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"status": 199}, "200 to 599"),
        ({"status": 600}, "200 to 599"),
        ({"status": "200"}, "200 to 599"),
        ({"body": "text"}, "is bytes, not str"),
        ({"body": bytes(10 * 1024 * 1024 + 1)}, "more than 10,485,760"),
        ({"headers": {"X Y": "z"}}, "'X Y'"),
        ({"headers": {"": "z"}}, "''"),
        ({"headers": {"X": "a\r\nSet-Cookie: b"}}, "on one line"),
        ({"headers": {"X": "ü"}}, "printable ASCII"),
    ],
)
def test_what_is_no_response(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        WebhookResponse(**fields)
    assert said in str(raised.value)


def test_responses_of_text_and_of_other_things() -> None:
    assert WebhookResponse.text("ü", status=201).body == "ü".encode()
    assert WebhookResponse.json({"a": 1}, headers={"x": "y"}).headers == {"content-type": "application/json", "x": "y"}
    assert WebhookResponse(headers={"ETag": '"a b"', "x-empty": ""}).status == 200


def test_a_caller_is_answered_in_a_step(app, environment) -> None:
    @app.workflow
    async def answers() -> None:
        await REQUEST.respond_with(OK)

    with environment(app) as env, pytest.raises(WorkflowRunFailedError) as raised:
        env.run(answers)
    assert isinstance(raised.value.__cause__, ContextError)
    assert "pass the request to a step, and answer there" in str(raised.value)
    with pytest.raises(ContextError, match="belongs in a step"):
        asyncio.run(REQUEST.respond_with(OK))
    with pytest.raises(ContextError, match=r"respond_with_sync\(\) belongs in a step"):
        REQUEST.respond_with_sync(OK)


def test_a_blocking_answer_is_for_steps_that_may_block(app, environment) -> None:
    @app.step(max_retries=0)
    async def blocks() -> None:
        REQUEST.respond_with_sync(OK)

    @app.workflow
    async def answers() -> None:
        await blocks()

    with environment(app) as env, pytest.raises(WorkflowRunFailedError) as raised:
        env.run(answers)
    assert isinstance(raised.value.__cause__, ContextError)
