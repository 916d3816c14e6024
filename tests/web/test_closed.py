"""Who may use the API, what bad requests are answered with, and what is not said or logged."""

from __future__ import annotations

import http.client
import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from everstep import StoreError
from everstep.backends.memory import open_memory
from everstep.web import bodies
from everstep.web.access import shown
from everstep.web.openapi import describe
from tests.web.behaviour import NOBODY
from tests.web.site import PROBLEM, TOKEN, Site

OPEN = ("/health", "/.well-known/workflow/v1/webhook/{token}")
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site(open_memory(atomic_units=False), hold=0.05)
    yield site
    site.close()


@pytest.fixture(scope="module")
def document(site: Site) -> Any:
    return site.get("/openapi.json")


@pytest.fixture
def serve() -> Iterator[Any]:
    made: list[Site] = []

    def one(**options: Any) -> Site:
        made.append(Site(open_memory(atomic_units=False), hold=0.05, **options))
        return made[-1]

    yield one
    for each in made:
        each.close()


def operations(document: Any) -> list[tuple[str, str, Any]]:
    return [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def real(path: str) -> str:
    return path.replace("{run_id}", NOBODY).replace("{token}", "some-token").replace("{name}", "main")


def logged(caplog: pytest.LogCaptureFixture, pattern: str) -> None:
    """The server logs when it has answered."""
    for _ in range(1000):
        if re.search(pattern, caplog.text, re.MULTILINE):
            return
        time.sleep(0.01)
    raise AssertionError(f"{pattern!r} was not logged:\n{caplog.text}")


# --- credentials -------------------------------------------------------------------------------------


def test_every_operation_but_three_needs_a_credential(site: Site, document: Any) -> None:
    found = operations(document)
    assert len(found) > 30
    for method, path, operation in found:
        status = site.call(method, real(path), token=None).status
        if path in OPEN:
            assert operation["security"] == []
            assert status in (200, 404)
            assert "401" not in operation["responses"]
        else:
            assert status == 401, (method, path)
            assert "security" not in operation
            assert "401" in operation["responses"]


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", f"Basic {TOKEN}", "Bearer x", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", TOKEN],
)
def test_forged_credentials(site: Site, authorization: str) -> None:
    for path in ("/v1/runs", "/openapi.json", "/nowhere", "/health/", "/health/queue", "//v1/runs", "/HEALTH"):
        answer = site.call("GET", path, token=None, headers={"Authorization": authorization})
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert TOKEN.encode() not in answer.body


def test_two_credentials_are_none(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.port), timeout=30) as connection:
        header = f"Authorization: Bearer {TOKEN}\r\n"
        connection.sendall(f"GET /v1/runs HTTP/1.0\r\n{header}{header}\r\n".encode())
        assert connection.makefile("rb").readline().split()[1] == b"401"


def test_a_token_that_was_taken_away_is_not_good_any_more(serve: Any) -> None:
    tokens = [TOKEN, "another-token-of-the-tests", "short"]
    site = serve(tokens=lambda: tokens)
    assert [site.call("GET", "/v1/runs", token=each).status for each in tokens] == [200, 200, 401]
    tokens.remove(TOKEN)
    assert site.call("GET", "/v1/runs").status == 401
    tokens.clear()
    assert site.call("GET", "/v1/runs", token="another-token-of-the-tests").status == 401


def test_when_tokens_cannot_be_read_nobody_is_let_in(serve: Any) -> None:
    def unreadable() -> list[str]:
        raise StoreError("secret 'token' cannot be read")

    answer = serve(tokens=unreadable).call("GET", "/v1/runs")
    assert (answer.status, "secret" in answer.json["detail"]) == (503, False)


def test_open_hooks_are_open_in_the_document_too(serve: Any) -> None:
    site = serve(open_hooks=True)
    opened = [
        (method, path)
        for method, path, operation in operations(describe(site.api, open_hooks=True))
        if operation.get("security") == [] and path not in OPEN
    ]
    assert opened == [("POST", "/v1/hooks/{token}/resume")]


# --- other origins -----------------------------------------------------------------------------------


def test_no_other_origin_by_default(site: Site) -> None:
    headers = {"Origin": "https://shop.example", "Access-Control-Request-Method": "GET"}
    assert site.call("OPTIONS", "/v1/runs", token=None, headers=headers).status == 401
    answer = site.call("GET", "/v1/runs", headers=headers)
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_origins_that_are_allowed(serve: Any) -> None:
    site = serve(origins=["https://shop.example"])
    wanted = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "authorization"}
    answer = site.call("OPTIONS", "/v1/runs", token=None, headers={"Origin": "https://shop.example", **wanted})
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert "Authorization" in answer.headers["access-control-allow-headers"]
    answer = site.call("OPTIONS", "/v1/runs", token=None, headers={"Origin": "https://evil.example", **wanted})
    assert (answer.status, "access-control-allow-origin" in answer.headers) == (400, False)
    answer = site.call("GET", "/v1/runs", headers={"Origin": "https://shop.example"})
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-credentials" not in answer.headers
    assert site.call("GET", "/v1/runs", token=None, headers={"Origin": "https://shop.example"}).status == 401
    webhook = "/.well-known/workflow/v1/webhook/nobody"
    answer = site.call("OPTIONS", webhook, token=None, headers={"Origin": "https://shop.example", **wanted})
    assert (answer.status, answer.body) == (404, b""), "webhooks see every request"


# --- bad requests ------------------------------------------------------------------------------------


def with_bodies(document: Any) -> list[tuple[str, str, bool]]:
    return [
        (method, path, operation["requestBody"]["required"])
        for method, path, operation in operations(document)
        if "requestBody" in operation
    ]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b'{"a": NaN}', 400),
        (b'{"a": 1, "a": 2}', 400),
        (b"\xff\xfe\x00", 400),
        (b"[" * 100_000, 400),
        (b'{"a": ' + b"9" * 5000 + b"}", 400),
        (b'"\xed\xa0\x80"', 400),
    ],
)
def test_what_is_no_json(site: Site, document: Any, body: bytes, status: int) -> None:
    for method, path, _ in with_bodies(document):
        answer = site.call(method, real(path), body, headers=JSON)
        assert answer.status == status, (method, path, answer.body)
        assert answer.json["detail"].startswith("The body is")


def test_other_media_types_and_empty_bodies(site: Site, document: Any) -> None:
    for method, path, required in with_bodies(document):
        assert site.call(method, real(path), b"{}", headers={"Content-Type": "text/plain"}).status == 415
        assert site.call(method, real(path), b"", headers=JSON).status == (400 if required else 404)


@pytest.mark.parametrize("body", [[], 1, "x", None, True, {"unknown": 1}])
def test_wrong_types(site: Site, document: Any, body: Any) -> None:
    for method, path, _ in with_bodies(document):
        if not path.startswith("/v1/hooks"):  # those take any JSON
            assert site.call(method, real(path), body).status == 422


def test_large_bodies_are_refused_before_they_are_read(serve: Any, document: Any) -> None:
    site = serve(max_body=1000)
    for method, path, _ in with_bodies(document):
        for length in ("1001", "9" * 18):
            assert site.call(method, real(path), headers={**JSON, "Content-Length": length}).status == 413


def test_a_body_that_only_grows_is_refused(serve: Any) -> None:
    site = serve(max_body=1000)
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)
    headers = {"Authorization": f"Bearer {TOKEN}", **JSON, "Transfer-Encoding": "chunked"}
    connection.request("POST", "/v1/runs", iter([b" " * 300] * 4), headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_a_body_that_does_not_come_is_not_waited_for(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "READ_SECONDS", 0.1)
    answer = serve().call("POST", "/v1/runs", headers={**JSON, "Content-Length": "10"})
    assert answer.status == 408
    assert answer.headers["connection"] == "close"


def test_runs_and_hooks_that_are_not_there(site: Site, document: Any) -> None:
    bodies_of = {"/v1/runs": {"workflow": "nothing"}, "/attributes": {}, "/rerun": {"from_step": 1}}
    for method, path, _ in operations(document):
        if "{" not in path or path in OPEN:
            continue
        body = next((body for end, body in bodies_of.items() if path.endswith(end)), None)
        answer = site.call(method, real(path), *(() if method == "GET" or body is None else (body,)))
        if path.endswith("/v1/hooks/{token}/resume"):
            answer = site.call(method, real(path), 1)
        assert answer.status == 404, (method, path, answer.body)
    for run_id in ("x", "..%2f", "wrun_" + "9" * 3000, "%00", NOBODY.lower(), "%F0%9F%92%A5"):
        assert site.call("GET", f"/v1/runs/{run_id}").status == 404


@pytest.mark.parametrize(
    "query",
    [
        *("limit=0", "limit=1001", "limit=x", "limit=1.5", "status=done", "cursor=x", "attribute=x", "attribute==x"),
        *("attribute=a=1&attribute=a=2", "created_from=0.5", "created_from=2030-01-01T00:00:00", "created_from=x"),
        *("created_before=9999-99-99T00:00:00Z", "atribute=a=1", "Limit=5"),
    ],
)
def test_parameters_that_make_no_sense(site: Site, query: str) -> None:
    answer = site.call("GET", f"/v1/runs?{query}")
    assert answer.status == 422, answer.body
    name = query.partition("=")[0]
    assert name in answer.json["detail"]


def test_far_moments(site: Site) -> None:
    for moment in ("0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00", "1969-01-01T00:00:00Z"):
        for name in ("created_from", "created_before"):
            assert site.call("GET", f"/v1/runs?{name}={moment}").status == 200
    for start_at in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        assert site.call("POST", "/v1/runs", {"workflow": "order", "input": ["x"], "start_at": start_at}).status == 201


@pytest.mark.parametrize("key", ["", '""', "x" * 257])
def test_keys_that_are_none(site: Site, key: str) -> None:
    for path in ("/v1/runs", "/v1/hooks/nobody/resume"):
        answer = site.call("POST", path, {"workflow": "order"}, headers={"Idempotency-Key": key})
        assert answer.status == 400


def test_methods_that_are_not_allowed(site: Site, document: Any) -> None:
    for path, methods in document["paths"].items():
        if path in OPEN[1:]:
            continue
        answer = site.call("DELETE", real(path))
        assert answer.status == 405
        assert answer.headers["allow"].split(", ") == sorted(method.upper() for method in methods)


def test_a_mistake_of_ours_is_logged_and_not_told(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [StoreError("no permission for table everstep-1"), RuntimeError("table everstep-1")]

    def fails(*_: Any) -> Any:
        raise errors[0]

    monkeypatch.setattr(site.connection, "find", fails)
    while errors:
        caplog.clear()
        answer = site.call("GET", f"/v1/runs/{NOBODY}")
        assert (answer.status, b"everstep-1" in answer.body) == (500, False)
        logged(caplog, "everstep-1")
        errors.pop(0)


# --- what is said ------------------------------------------------------------------------------------


def test_the_log_has_no_secrets(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    run_id = site.start("waits", ["s3cret-token"])
    hidden = site.start("notified", {"requests": 5})
    site.work()
    webhook = site.webhook(hidden)
    secret = webhook.rpartition("/")[2]
    site.call("POST", "/v1/hooks/s3cret-token/resume", {"approved": "x"})
    site.call("POST", "/v1/hooks/s3cret-token/resume", {"approved": True})
    for path in ("/v1/hooks/s3cret-token", "//v1/hooks/s3cret-token", "/v1/Hooks/s3cret-token", "/s3cret-token?x=1"):
        site.call("GET", path)
    for path in (webhook, f"{webhook}/", f"/{webhook}", webhook.upper(), webhook.replace("/v1/", "/v2/")):
        site.call("POST", path, b"{}", token=None)
    site.call("GET", f"/v1/runs/{run_id}?token=s3cret-token")
    site.call("GET", f"/v1/runs/{run_id}", token="f0rged-token-of-somebody")
    logged(caplog, rf"GET /v1/runs/{run_id} 401 in \d+ ms$")
    logged(caplog, r"POST /v1/hooks/… 202 in \d+ ms$")
    for word in ("s3cret-token", secret, secret.upper(), TOKEN, "f0rged-token"):
        assert word not in caplog.text


@pytest.mark.parametrize(
    ("path", "logged"),
    [
        ("/v1/runs", "/v1/runs"),
        ("/v1/runs/x\r\ny", "/v1/runs/x??y"),
        ("/v1/runs/" + "x" * 1000, "/v1/runs/" + "x" * 191),
        ("/v1/runsx", "/…"),
        ("/.well-known/workflow/v1/webhook/abc", "/.well-known/workflow/v1/webhook/…"),
        ("/", "/"),
    ],
)
def test_paths_in_the_log(path: str, logged: str) -> None:
    assert shown(path) == logged


def test_the_document_is_whole(document: Any) -> None:
    text = json.dumps(document)
    names = document["components"]["schemas"]
    for reference in set(re.findall(r'"\$ref": "([^"]+)"', text)):
        assert reference.startswith("#/components/schemas/"), reference
        assert reference.rpartition("/")[2] in names, reference
    assert set(names) == {each.rpartition("/")[2] for each in re.findall(r'"\$ref": "([^"]+)"', text)}, (
        "schemas that nothing refers to"
    )
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    for method, path, operation in operations(document):
        assert operation["summary"], (method, path)
        for status, answer in operation["responses"].items():
            assert answer["description"] not in ("", "Successful Response"), (method, path, status)
            if status[0] in "45" and not (path in OPEN and status == "404"):
                assert list(answer["content"]) == [PROBLEM], (method, path, status)


def test_the_page_loads_nothing_from_elsewhere(site: Site) -> None:
    closed = site.send("GET", "/docs", token=None, headers={"Accept": "text/html,*/*"})
    opened = site.send("GET", "/docs")
    assert (closed.status, opened.status) == (401, 200)
    assert closed.body == opened.body, "the page knows nothing before it is given the token"
    assert closed.headers["www-authenticate"].startswith("Bearer")
    policy = closed.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert policy.count("sha256-") == 2
    assert not re.findall(rb"""(?:src|href|url|import)\s*[=(]\s*["']?(?:https?:)?//""", closed.body)
    assert site.call("GET", "/docs", token=None, headers={"Accept": "application/json"}).status == 401
    assert site.call("POST", "/docs", token=None, headers={"Accept": "text/html"}).status == 401


def test_what_the_app_has(site: Site) -> None:
    manifest = site.get("/v1/manifest")
    flows = {each["name"]: each for each in manifest["workflows"]}
    assert flows["order"]["description"] == "Packs what was ordered."
    assert flows["order"]["module"] == "tests.web.shop"
    schema = flows["order"]["input_schema"]
    assert (schema["required"], schema["additionalProperties"]) == (["item"], False)
    assert schema["properties"]["when"]["anyOf"][0]["format"] == "date-time"
    assert flows["ship"]["input_schema"]["$defs"]["Parcel"]["required"] == ["weight", "to"]
    assert flows["ship"]["result_schema"]["title"] == "Parcel"
    assert flows["tidy"]["input_schema"]["properties"] == {}
    steps = {each["name"]: each for each in manifest["steps"]}
    assert (steps["pack"]["timeout"], steps["pack"]["max_retries"], steps["write"]["max_retries"]) == (30.0, 3, 5)
