"""The API function: events of API Gateway (payload format 2.0) in, answers out."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from everstep import (
    StoreBusyError,
    StoreError,
    WebhookRequest,
    WebhookResponse,
    Workflows,
    create_hook,
    create_webhook,
    get_writable,
    publish,
    sleep,
)
from everstep.serverless.gateway import as_function, signed
from everstep.web.api import create_api
from tests.aws.handlers.functions import Context, event

TOKEN = "t0p-secret-token-of-the-stack"
wf = Workflows()


@wf.workflow
async def order(item: str, count: int = 1, when: datetime | None = None) -> dict[str, Any]:
    return await pack(item, count)


@wf.workflow
async def refuse() -> None:
    raise ValueError("no such shelf")


@wf.workflow
async def nap() -> None:
    await sleep("1d")


@wf.step
async def pack(item: str, count: int) -> dict[str, Any]:
    return {"item": item, "count": count}


@wf.workflow
async def waits(token: str) -> Any:
    return await create_hook(token=token)


@wf.workflow
async def notified(manual: bool) -> str:
    picture = WebhookResponse(body=bytes(range(256)), headers={"Content-Type": "image/x-own"})
    hook = create_webhook(respond_with="manual" if manual else picture)
    publish("url", hook.url)
    request = await hook
    if manual:
        await reply(request)
    return request.body.hex()


@wf.step
async def reply(request: WebhookRequest) -> None:
    await request.respond_with(WebhookResponse.text(f"hello {request.text()}", headers={"X-A": "b"}))


@wf.workflow
async def report(lines: int) -> None:
    await write(lines)


@wf.step
async def write(lines: int) -> None:
    out = get_writable()
    for number in range(lines):
        await out.write(number)


class Api:
    """Sends events, as API Gateway does."""

    def __init__(self, deployed: Any, tokens: Callable[[], list[str]], **options: Any) -> None:
        self.deployed = deployed
        asgi = create_api(deployed.app, deployed.connection, tokens=tokens, **options)
        self.function = as_function(asgi)
        self.event = event("http")

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        token: str | None = TOKEN,
        query: str = "",
    ) -> tuple[int, Any, dict[str, str]]:
        sent = copy.deepcopy(self.event)
        sent["rawPath"] = sent["requestContext"]["http"]["path"] = path
        sent["rawQueryString"] = query
        sent["requestContext"]["http"]["method"] = method
        sent["headers"] |= {} if token is None else {"authorization": f"Bearer {token}"}
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            sent["body"], sent["isBase64Encoded"] = base64.b64encode(data).decode(), True
            sent["headers"]["content-length"] = str(len(data))
        sent["headers"] |= headers or {}
        answer = self.function(sent, Context())  # type: ignore[arg-type]
        self.last = answer
        if answer["isBase64Encoded"]:
            return answer["statusCode"], base64.b64decode(answer["body"]), answer["headers"]
        if not answer["headers"].get("content-type", "").endswith("json") or answer["body"] == "":
            return answer["statusCode"], answer["body"], answer["headers"]
        content = json.loads(answer["body"])
        if answer["statusCode"] >= 400:
            assert answer["headers"]["content-type"] == "application/problem+json"
            assert content["status"] == answer["statusCode"]
            assert {"type", "title", "detail"} <= content.keys()
            assert "Traceback" not in answer["body"]
        return answer["statusCode"], content, answer["headers"]

    def start(self, workflow: str, given: Any = None, **more: Any) -> tuple[int, Any, dict[str, str]]:
        headers = more.pop("headers", None)
        body = {"workflow": workflow, **({} if given is None else {"input": given}), **more}
        return self.call("POST", "/v1/runs", body, headers=headers)


@pytest.fixture
def event_loop_of_mangum() -> Iterator[None]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture
def api(deploy, event_loop_of_mangum) -> Api:
    return Api(deploy(wf), lambda: [TOKEN])


# --- what it is for ----------------------------------------------------------------------------------


def test_start_work_result(api):
    status, run, headers = api.start("order", {"item": "anvil", "count": 2}, attributes={"customer": "ada"})
    assert status == 201
    assert run["status"] == "pending"
    assert run["workflow"] == "order"
    assert run["attributes"] == {"customer": "ada"}
    assert headers["location"] == f"/v1/runs/{run['run_id']}"
    path = headers["location"]
    status, outcome, headers = api.call("GET", f"{path}/result")
    assert (status, outcome["status"], headers["retry-after"]) == (202, "pending", "1")
    api.deployed.work()
    status, run, _ = api.call("GET", path)
    assert (status, run["status"]) == (200, "completed")
    assert run["completed_at"].endswith("Z")
    status, outcome, _ = api.call("GET", f"{path}/result")
    assert status == 200
    assert outcome == {"run_id": run["run_id"], "status": "completed", "result": {"item": "anvil", "count": 2}}


def test_arguments_by_position_and_typed(api):
    moment = "2026-01-31T12:00:00+01:00"
    status, run, _ = api.start("order", ["anvil", "3", moment])
    assert status == 201
    args = wf.workflows["order"].decode_call(api.deployed.connection.get(run["run_id"]).input)[1]
    assert args == {"item": "anvil", "count": 3, "when": datetime(2026, 1, 31, 11, tzinfo=UTC)}


def test_a_failed_run_has_an_error_without_a_stack_trace(api):
    _, run, _ = api.start("refuse")
    api.deployed.work()
    status, outcome, _ = api.call("GET", f"/v1/runs/{run['run_id']}/result")
    assert status == 200
    assert outcome["status"] == "failed"
    assert outcome["error"] == {"type": "ValueError", "message": "no such shelf"}


def test_a_parked_run_says_why(api):
    from everstep.runtime.advance import park

    _, run, _ = api.start("nap")
    park(api.deployed.engine, run["run_id"], "poison", "its message was given up")
    status, outcome, _ = api.call("GET", f"/v1/runs/{run['run_id']}/result", query="wait=5")
    assert (status, outcome["status"]) == (202, "parked")
    assert outcome["problem"]["message"] == "its message was given up"
    park(api.deployed.engine, run["run_id"], "internal", "Traceback (most recent call last): …")
    assert api.call("GET", f"/v1/runs/{run['run_id']}")[1]["problem"]["message"].startswith("See the log")


def test_a_result_can_be_waited_for(api):
    _, run, _ = api.start("nap")
    begun = time.perf_counter()
    status, _, _ = api.call("GET", f"/v1/runs/{run['run_id']}/result", query="wait=0.6")
    assert status == 202
    assert 0.2 < time.perf_counter() - begun < 3


def test_a_result_that_is_too_large_to_answer_with(deploy, event_loop_of_mangum):
    api = Api(deploy(wf), lambda: [TOKEN], max_body=500)
    path = api.start("order", ["x" * 300])[2]["location"]
    api.deployed.work()
    assert api.call("GET", path)[1]["status"] == "completed"
    assert api.call("GET", f"{path}/result")[0] == 200
    api = Api(api.deployed, lambda: [TOKEN], max_body=300)
    status, found, _ = api.call("GET", f"{path}/result")
    assert (status, found["detail"].endswith("more than this API answers with.")) == (422, True)


def test_no_websocket_passes(api):
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    scope = {"type": "websocket", "path": "/health", "headers": []}
    asyncio.get_event_loop().run_until_complete(api.function.app(scope, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_a_signed_request_needs_no_token(deploy, event_loop_of_mangum):
    api = Api(deploy(wf), list, vouched=signed)
    assert api.call("GET", "/openapi.json", token=None)[0] == 401
    api.event["requestContext"]["authorizer"] = {"iam": {"userArn": "arn:aws:iam::123456789012:user/ada"}}
    assert api.call("GET", "/openapi.json", token=None)[0] == 200


def test_what_is_open_needs_no_signature_either(deploy, event_loop_of_mangum):
    api = Api(deploy(wf), list, vouched=signed)
    assert api.call("GET", "/health", token=None)[0] == 200
    assert api.call("POST", "/.well-known/workflow/v1/webhook/nobody", token=None)[:2] == (404, "")
    assert api.call("GET", "/health/queue", token=None)[0] == 401


# --- hooks, webhooks and streams ---------------------------------------------------------------------


@pytest.mark.parametrize(("token", "path"), [("order/1", "order%2F1"), ("a b", "a%20b"), ("a/b", "a/b"), ("ü", "ü")])
def test_tokens_in_paths(api, token, path):
    """API Gateway passes paths on as the client has encoded them."""
    _, run, _ = api.start("waits", [token])
    api.deployed.work()
    assert api.call("GET", f"/v1/hooks/{path}")[1]["run_id"] == run["run_id"]
    assert api.call("POST", f"/v1/hooks/{path}/resume", {"ok": True})[0] == 202
    api.deployed.work()
    assert api.call("GET", f"/v1/runs/{run['run_id']}/result")[1]["result"] == {"ok": True}


def test_a_webhook_takes_and_gives_bytes(api):
    _, run, _ = api.start("notified", [False])
    api.deployed.work()
    url = api.call("GET", f"/v1/runs/{run['run_id']}/published")[1]["values"]["url"]
    status, body, headers = api.call("PUT", url, b"\x00\xff", token=None, headers={"content-type": "image/png"})
    assert (status, body, headers["content-type"]) == (200, bytes(range(256)), "image/x-own")
    api.deployed.work()
    assert api.call("GET", f"/v1/runs/{run['run_id']}/result")[1]["result"] == "00ff"


def test_a_caller_is_held_until_a_worker_answers(api):
    _, run, _ = api.start("notified", [True])
    api.deployed.work()
    url = api.call("GET", f"/v1/runs/{run['run_id']}/published")[1]["values"]["url"]
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.01):
            api.deployed.work()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        status, body, headers = api.call("POST", url, b"Ada", token=None)
    finally:
        over.set()
        worker.join()
    assert (status, body, headers["x-a"]) == (200, "hello Ada", "b")


def test_a_stream_comes_in_answers_that_end(deploy, event_loop_of_mangum):
    api = Api(deploy(wf), lambda: [TOKEN], hold=0.2)
    _, run, _ = api.start("report", [3])
    path = f"/v1/runs/{run['run_id']}/streams/main/events"
    assert api.call("GET", path)[:2] == (200, "retry: 100\n\n")
    api.deployed.work()
    status, body, headers = api.call("GET", path)
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert body == "retry: 100\n\nid: 0\ndata: 0\n\nid: 1\ndata: 1\n\nid: 2\ndata: 2\n\n"
    assert api.call("GET", path, headers={"last-event-id": "1"})[1] == "retry: 100\n\nid: 2\ndata: 2\n\n"
    assert api.call("GET", path, headers={"last-event-id": "2"})[:2] == (204, "")


@pytest.mark.parametrize("start_at", ["2h", 7200, "2025-06-15T17:06:40Z", "2025-06-15T19:06:40+02:00"])
def test_a_later_start(api, start_at):
    _, run, _ = api.start("order", ["anvil"], start_at=start_at)
    assert run["start_at"] == "2025-06-15T17:06:40Z"


def test_the_same_key_gives_the_same_run_and_another_input_is_a_conflict(api):
    _, first, _ = api.start("order", ["anvil"], headers={"idempotency-key": "order-1"})
    status, second, _ = api.start("order", {"item": "anvil"}, headers={"Idempotency-Key": '"order-1"'})
    assert (status, second["run_id"]) == (201, first["run_id"])
    status, found, _ = api.start("order", ["hammer"], headers={"idempotency-key": "order-1"})
    assert (status, found["run_id"], found["title"]) == (409, first["run_id"], "Conflict")
    assert found["type"].endswith("/idempotency-conflict")
    assert api.start("nap", headers={"idempotency-key": "order-1"})[0] == 409


# --- who may use it ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/v1/runs", "/v1/runs/wrun_01JAAAAAAAAAAAAAAAAAAAAAAA", "/openapi.json", "/nowhere", "/health/"]
)
@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {TOKEN}",
        "Bearer x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN} {TOKEN}",
        "Bearer ümläut-and-longer-than-16",
        TOKEN,
    ],
)
def test_nothing_but_health_is_open(api, path, authorization):
    headers = {} if authorization is None else {"authorization": authorization}
    status, found, answered = api.call("GET", path, token=None, headers=headers)
    assert status == 401
    assert answered["www-authenticate"].startswith("Bearer")
    assert TOKEN not in json.dumps(found)


def test_health_is_open_and_touches_nothing(api):
    api.deployed.connection.close()
    assert api.call("GET", "/health", token=None)[:2] == (200, {"status": "ok"})


def test_either_of_two_tokens_is_good_and_short_ones_are_not(deploy, event_loop_of_mangum):
    tokens = [TOKEN, "another-token-of-the-stack", "short"]
    api = Api(deploy(wf), lambda: tokens)
    assert api.call("GET", "/openapi.json")[0] == 200
    assert api.call("GET", "/openapi.json", token=tokens[1])[0] == 200
    assert api.call("GET", "/openapi.json", token="short")[0] == 401
    tokens.remove(TOKEN)
    assert api.call("GET", "/openapi.json")[0] == 401


def test_without_tokens_nobody_is_let_in(deploy, event_loop_of_mangum):
    assert Api(deploy(wf), list).call("GET", "/openapi.json", token="")[0] == 401
    assert Api(deploy(wf), list).call("GET", "/openapi.json")[0] == 401


def test_when_tokens_cannot_be_read_nobody_is_let_in(deploy, event_loop_of_mangum):
    def unreadable() -> list[str]:
        raise StoreError("secret 'token' cannot be read")

    status, found, _ = Api(deploy(wf), unreadable).call("GET", "/openapi.json")
    assert status == 503
    assert "secret" not in found["detail"]


# --- bad requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "The body is not JSON"),
        (b"{", "line 1, column 2"),
        (b'{"workflow": "order", "workflow": "nap"}', "given twice"),
        (b'{"workflow": NaN}', "NaN is not a JSON number"),
        (b"\xff\xfe\x00", "The body is not JSON"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"workflow": ' + b"9" * 5000 + b"}", "The body is not JSON"),
    ],
)
def test_bad_json(api, body, said):
    status, found, _ = api.call("POST", "/v1/runs", body)
    assert status == 400
    assert said in found["detail"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "must be an object, not an array"),
        ({}, "workflow: Field required"),
        ({"workflow": 1}, "workflow: Input should be a valid string"),
        ({"workflow": "order", "input": "anvil"}, "input"),
        ({"workflow": "order", "input": None}, "input"),
        ({"workflow": "order", "inputs": {}}, "inputs: Extra inputs are not permitted"),
        ({"workflow": "order", "input": {}}, "missing a required argument: 'item'"),
        ({"workflow": "order", "input": {"item": "x", "size": 1}}, "size"),
        ({"workflow": "order", "input": {"item": "x", "count": "many"}}, "parameter 'count'"),
        ({"workflow": "order", "input": ["x"], "attributes": {"$app": "x"}}, "reserved"),
        ({"workflow": "order", "input": ["x"], "attributes": {"a": 1}}, "attributes.a"),
        ({"workflow": "order", "input": ["x"], "start_at": "soon"}, "start_at: cannot read 'soon'"),
        ({"workflow": "order", "input": ["x"], "start_at": "2026-01-01T00:00:00"}, "no offset from UTC"),
        ({"workflow": "order", "input": ["x"], "start_at": -1}, "negative"),
    ],
)
def test_what_does_not_fit(api, body, said):
    status, found, _ = api.call("POST", "/v1/runs", body)
    assert status == 422
    assert said in found["detail"]
    assert api.deployed.receive() == []


def test_unknown_names_and_paths(api):
    assert api.start("burn")[0] == 404
    for run_id in ("wrun_01JAAAAAAAAAAAAAAAAAAAAAAA", "x", "..", "wrun_" + "9" * 90, "%00"):
        for path in (f"/v1/runs/{run_id}", f"/v1/runs/{run_id}/result"):
            assert api.call("GET", path)[0] == 404
    assert api.call("GET", "/v2/runs")[0] == 404
    status, _, headers = api.call("DELETE", "/v1/runs")
    assert (status, headers["allow"]) == (405, "GET, POST")
    assert api.call("GET", "/v1/runs/wrun_01JAAAAAAAAAAAAAAAAAAAAAAA/result", query="wait=1e9")[0] == 422


def test_large_bodies_are_refused(deploy, event_loop_of_mangum):
    api = Api(deploy(wf), lambda: [TOKEN], max_body=1000)
    assert api.start("order", ["x" * 900])[0] == 201
    assert api.start("order", ["x" * 1000])[0] == 413
    body = {"workflow": "order", "input": ["x" * 1000]}
    assert api.call("POST", "/v1/runs", body, headers={"content-length": "10"})[0] == 413
    assert api.call("POST", "/v1/runs", b"{}", headers={"content-length": "9" * 100})[0] == 413


def test_other_media_types_are_refused(api):
    body = {"workflow": "nap"}
    assert api.call("POST", "/v1/runs", body, headers={"content-type": "text/plain"})[0] == 415
    assert api.call("POST", "/v1/runs", body, headers={"content-type": "application/json; charset=utf-8"})[0] == 201


@pytest.mark.parametrize("key", ["", '""', "x" * 257, "a\tb"])
def test_keys_that_are_none(api, key):
    assert api.start("nap", headers={"idempotency-key": key})[0] == 400


def test_what_goes_wrong_on_our_side_is_not_shown(api, caplog):
    raised: list[Exception] = []

    def fails(*_args: Any) -> None:
        raise raised[-1]

    api.deployed.connection.find = fails
    for error, status in (
        (StoreBusyError("table everstep-Table-1 is throttled"), 503),
        (StoreError("no permission for dynamodb:Query on everstep-Table-1"), 500),
        (RuntimeError("everstep-Table-1"), 500),
    ):
        raised.append(error)
        caplog.clear()
        found = api.call("GET", "/v1/runs/wrun_01JAAAAAAAAAAAAAAAAAAAAAAA")
        assert found[0] == status
        assert "everstep-Table-1" not in json.dumps(found)
        assert "everstep-Table-1" in caplog.text
