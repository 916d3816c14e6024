"""What the HTTP API does, whatever runs are stored in: a class of tests for each backend to subclass."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from everstep import StoreBusyError, WebhookResponse
from everstep.codec.typed import ValueCodec
from everstep.core.durations import to_datetime
from everstep.ports import Backend
from everstep.runtime.advance import park
from everstep.testing.clock import VirtualClock
from tests.web.reader import Reader
from tests.web.shop import wf
from tests.web.site import TOKEN, Answer, Site

NOBODY = "wrun_01JAAAAAAAAAAAAAAAAAAAAAAA"
Serve = Callable[..., Site]


def encoded(value: Any) -> Any:
    """A value as it is given over HTTP."""
    return json.loads(ValueCodec(type(value), "a value").encode(value))


class ApiBehaviour:
    """Subclasses give a fixture `backend`."""

    @pytest.fixture
    def clock(self) -> VirtualClock:
        return VirtualClock()

    @pytest.fixture
    def serve(self, backend: Backend, clock: VirtualClock) -> Iterator[Serve]:
        made: list[Site] = []

        def one(**options: Any) -> Site:
            made.append(Site(backend, clock, **options))
            return made[-1]

        yield one
        for each in made:
            each.close()

    @pytest.fixture
    def site(self, serve: Serve) -> Site:
        return serve()

    # --- runs ----------------------------------------------------------------------------------

    def test_start_work_result(self, site: Site) -> None:
        answer = site.call("POST", "/v1/runs", {"workflow": "order", "input": ["anvil"], "attributes": {"for": "ada"}})
        assert answer.status == 201
        run = answer.json
        assert (run["status"], run["workflow"], run["attributes"]) == ("pending", "order", {"for": "ada"})
        path = answer.headers["location"]
        assert path == f"/v1/runs/{run['run_id']}"
        waiting = site.call("GET", f"{path}/result")
        assert (waiting.status, waiting.json) == (202, {"run_id": run["run_id"], "status": "pending"})
        assert waiting.headers["retry-after"] == "1"
        site.work()
        found = site.get(path)
        assert found["status"] == "completed"
        assert found["started_at"].endswith("Z")
        assert found["completed_at"].endswith("Z")
        assert found["parent_run_id"] is found["error"] is found["problem"] is found["continued_to"] is None
        answer = site.call("GET", f"{path}/result")
        result = {"item": "anvil", "count": 1}
        assert (answer.status, answer.json) == (200, {"run_id": run["run_id"], "status": "completed", "result": result})
        assert site.get(f"{path}/input") == {"run_id": run["run_id"], "input": {"item": "anvil"}}

    def test_a_result_is_waited_for(self, site: Site) -> None:
        run_id = site.start("order", ["anvil"])
        with site.working():
            answer = site.call("GET", f"/v1/runs/{run_id}/result?wait=5")
        assert (answer.status, answer.json["result"]["item"]) == (200, "anvil")

    def test_failed_cancelled_and_parked(self, site: Site) -> None:
        failed, cancelled, parked = site.start("refuse"), site.start("nap"), site.start("nap")
        site.work()
        site.ask(cancelled, "cancel", {"reason": "too late"})
        park(site.env.engine, parked, "divergence", "turn 3 was another")
        error = {"type": "ValueError", "message": "no such shelf"}
        assert site.get(f"/v1/runs/{failed}/result") == {"run_id": failed, "status": "failed", "error": error}
        assert site.run(failed)["error"] == error
        outcome = {"run_id": cancelled, "status": "cancelled", "reason": "too late"}
        assert site.get(f"/v1/runs/{cancelled}/result") == outcome
        answer = site.call("GET", f"/v1/runs/{parked}/result?wait=5")
        assert (answer.status, answer.json["status"]) == (202, "parked")
        assert answer.json["problem"]["message"] == "turn 3 was another"
        assert site.run(parked)["problem"]["turn"] is None
        park(site.env.engine, parked, "internal", "Traceback (most recent call last): …")
        assert site.run(parked)["problem"]["message"].startswith("See the log")

    def test_a_chain_of_runs_is_followed(self, site: Site) -> None:
        first = site.start("again", [2])
        site.work()
        newest = site.run(first)
        assert newest["run_id"] != first
        assert newest["status"] == "completed"
        one = site.get(f"/v1/runs/{first}?follow=false")
        assert (one["run_id"], one["status"]) == (first, "continued")
        two = site.get(f"/v1/runs/{one['continued_to']}?follow=false")
        assert (two["continued_from"], two["continued_to"]) == (first, newest["run_id"])
        assert site.get(f"/v1/runs/{first}/result")["result"] == 0
        assert site.get(f"/v1/runs/{first}/input")["input"] == {"left": 2}

    def test_lists_have_pages_and_conditions(self, site: Site, clock: VirtualClock) -> None:
        for number in range(7):
            site.start("order", [f"item {number}"], attributes={"number": str(number), "odd": str(number % 2)})
            clock.advance(timedelta(seconds=10) // timedelta(microseconds=1))
        begun = clock.now()
        site.start("refuse")
        site.work()

        def listed(**conditions: Any) -> list[str]:
            found: list[str] = []
            cursor: str | None = None
            while True:
                more = {} if cursor is None else {"cursor": cursor}
                page = site.get(f"/v1/runs?{urlencode({**conditions, **more}, doseq=True)}")
                found += [run["attributes"].get("number", "-") for run in page["runs"]]
                cursor = page["cursor"]
                if cursor is None:
                    return found

        assert listed() == ["-", *"6543210"]
        assert listed(limit=3) == ["-", *"6543210"]
        assert listed(workflow="order", limit=2) == [*"6543210"]
        assert listed(status="failed") == ["-"]
        assert listed(status="running") == []
        assert listed(attribute="odd=1", limit=1) == ["5", "3", "1"]
        assert listed(attribute=["odd=1", "number=3"]) == ["3"]
        assert listed(attribute="number=") == []
        moment = to_datetime(begun)
        assert listed(created_from=moment.isoformat()) == ["-"]
        assert listed(created_before=moment.isoformat(), limit=1000) == [*"6543210"]
        earlier = (moment - timedelta(seconds=25)).isoformat().replace("+00:00", "Z")
        assert listed(created_from=earlier, created_before=moment.isoformat()) == ["6", "5"]

    def test_the_same_key_gives_the_same_run(self, site: Site) -> None:
        body = {"workflow": "order", "input": ["anvil"]}
        first = site.call("POST", "/v1/runs", body, headers={"Idempotency-Key": "order-1"})
        second = site.call("POST", "/v1/runs", body, headers={"Idempotency-Key": '"order-1"'})
        assert (second.status, second.json["run_id"]) == (201, first.json["run_id"])
        other = {"workflow": "order", "input": ["hammer"]}
        answer = site.call("POST", "/v1/runs", other, headers={"Idempotency-Key": "order-1"})
        assert (answer.status, answer.json["run_id"]) == (409, first.json["run_id"])

    def test_published_values(self, site: Site) -> None:
        run_id = site.start("notified")
        assert site.get(f"/v1/runs/{run_id}/published") == {"run_id": run_id, "values": {}}
        site.work()
        values = site.get(f"/v1/runs/{run_id}/published")["values"]
        assert values["url"].startswith(f"http://127.0.0.1:{site.port}/.well-known/workflow/v1/webhook/")

    # --- control -------------------------------------------------------------------------------

    def test_cancel_lets_the_body_clean_up_and_terminate_does_not(self, site: Site) -> None:
        tidy, gone = site.start("tidy"), site.start("tidy")
        site.work()
        assert site.ask(tidy, "cancel", {"reason": "enough"})["status"] == "running", "as it was before"
        assert site.ask(gone, "terminate")["status"] == "running"
        for run_id, reason, steps in ((tidy, "enough", ["pack"]), (gone, None, [])):
            run = site.run(run_id)
            assert (run["status"], run["reason"]) == ("cancelled", reason)
            found = site.get(f"/v1/runs/{run_id}/operations")["operations"]
            assert [each["name"] for each in found if each["kind"] == "step"] == steps
        assert site.ask(tidy, "cancel")["status"] == "cancelled", "one that has ended is left as it is"

    def test_pause_unpause_and_wake_up(self, site: Site) -> None:
        run_id = site.start("nap")
        site.work()
        site.ask(run_id, "pause")
        assert site.run(run_id)["status"] == "paused"
        assert site.run(run_id)["paused_at"] is not None
        site.ask(run_id, "wake-up")
        assert site.run(run_id)["status"] == "paused"
        site.ask(run_id, "unpause")
        assert site.run(run_id)["status"] == "completed"
        assert site.get(f"/v1/runs/{run_id}/result")["result"] == "rested"

    def test_attributes(self, site: Site) -> None:
        run_id = site.start("nap", attributes={"a": "1", "b": "2"})
        site.work()
        answer = site.call("PATCH", f"/v1/runs/{run_id}/attributes", {"a": "x", "b": None, "c": "3"})
        assert answer.status == 202
        site.work()
        assert site.run(run_id)["attributes"] == {"a": "x", "c": "3"}
        merge = {"Content-Type": "application/merge-patch+json"}
        answer = site.call("PATCH", f"/v1/runs/{run_id}/attributes", b'{"c": null}', headers=merge)
        assert answer.status == 202
        for changes in ({"$ours": "x"}, {"k" * 300: "x"}, {"a": "v" * 300}, {"a": 1}, ["a"]):
            assert site.call("PATCH", f"/v1/runs/{run_id}/attributes", changes).status == 422

    def test_rerun(self, site: Site) -> None:
        run_id = site.start("flaky")
        answer = site.call("POST", f"/v1/runs/{run_id}/rerun", {"from_step": "third_time"})
        assert answer.status == 409, "it has not ended"
        site.work()
        whole = site.call("POST", f"/v1/runs/{run_id}/rerun")
        part = site.call("POST", f"/v1/runs/{run_id}/rerun", {"from_step": 0})
        assert (whole.status, part.status) == (201, 201)
        assert part.headers["location"] == f"/v1/runs/{part.json['run_id']}"
        assert whole.json["attributes"] == {"$rerunOf": run_id}
        site.work()
        for answer in (whole, part):
            assert site.get(f"/v1/runs/{answer.json['run_id']}/result")["result"] == 3
        assert site.call("POST", f"/v1/runs/{run_id}/rerun", {"from_step": "nothing"}).status == 409
        assert site.call("POST", f"/v1/runs/{run_id}/rerun", {"from_step": 1.5}).status == 422

    def test_a_parked_run_is_tried_again(self, site: Site) -> None:
        run_id = site.start("order", ["anvil"])
        park(site.env.engine, run_id, "poison", "given up")
        site.ask(run_id, "resume")
        assert site.run(run_id)["status"] == "completed"

    # --- what happened -------------------------------------------------------------------------

    def test_operations_of_every_kind(self, site: Site) -> None:
        flaky, nap, parent = site.start("flaky"), site.start("nap", [5]), site.start("parent", [2])
        hook, webhook = site.start("waits", ["a/b"]), site.start("notified")
        site.work()
        site.call("POST", site.hook_path("a/b", "/resume"), {"approved": True})

        def only(run_id: str) -> Any:
            found = site.get(f"/v1/runs/{run_id}/operations")
            assert found["run_id"] == run_id
            return found["operations"][0]

        step = only(flaky)
        assert (step["kind"], step["name"], step["state"], step["attempt"]) == ("step", "third_time", "completed", 3)
        assert [each["attempt"] for each in step["failed_attempts"]] == [1, 2]
        assert step["failed_attempts"][0]["error"] == {"type": "OSError", "message": "the line is busy"}
        assert (step["input"], step["result"], step["error"]) == ({}, 3, None)
        timer = only(nap)
        assert (timer["kind"], timer["state"], timer["sleep"]) == ("timer", "waiting", True)
        child = only(parent)
        assert (child["kind"], child["workflow"], child["result"]) == ("child", "child", 0)
        assert site.run(child["run_id"])["parent_run_id"] == parent
        opened = only(hook)
        assert (opened["kind"], opened["token"], opened["state"]) == ("hook", "a/b", "open")
        assert (opened["payload"], opened["metadata"], opened["received"]) == ("Permission", {"for": "a/b"}, 1)
        called = only(webhook)
        assert (called["kind"], called["payload"]) == ("webhook", "WebhookRequest")
        assert called["url"] == site.get(f"/v1/runs/{webhook}/published")["values"]["url"]

    def test_the_history_turn_by_turn(self, site: Site) -> None:
        run_id = site.start("order", ["anvil"])
        site.work()
        page = site.get(f"/v1/runs/{run_id}/history")
        assert page["next"] is None
        kinds = [
            ([each["type"] for each in turn["events"]], [each["type"] for each in turn["commands"]])
            for turn in page["turns"]
        ]
        assert kinds == [(["RunStarted"], ["RunStep"]), (["StepCompleted"], ["CompleteRun"])]
        assert page["turns"][0]["commands"][0]["input"] == {"item": "anvil", "count": 1}
        assert page["turns"][0]["build"] == wf.build
        again = site.get(f"/v1/runs/{run_id}/history?first=0&limit=1")
        assert (again["turns"], again["next"]) == (page["turns"][:1], 1)
        assert site.get(f"/v1/runs/{run_id}/history?first=1")["turns"] == page["turns"][1:]
        assert site.get(f"/v1/runs/{run_id}/history?first=9")["turns"] == []

    def test_pages_of_operations(self, site: Site) -> None:
        run_id = site.start("parent", [5])
        site.work()
        found, first = [], 0
        while first is not None:
            page = site.get(f"/v1/runs/{run_id}/operations?first={first}&limit=2")
            found += [each["op"] for each in page["operations"]]
            first = page["next"]
        assert found == [0, 1, 2, 3, 4]

    def test_what_is_too_large_is_left_out_where_many_are_shown(self, serve: Serve) -> None:
        site = serve(max_body=400_000)
        run_id = site.start("huge", [300_000])
        site.work()
        result = site.get(f"/v1/runs/{run_id}/operations")["operations"][0]["result"]
        assert result == {"$omitted": 300_002}
        assert site.get(f"/v1/runs/{run_id}/history")["turns"][1]["events"][0]["result"] == {"$omitted": 300_002}
        assert len(site.get(f"/v1/runs/{run_id}/result")["result"]) == 300_000
        too_large = site.start("huge", [500_000])
        site.work()
        answer = site.call("GET", f"/v1/runs/{too_large}/result")
        assert (answer.status, "more than this API answers with" in answer.json["detail"]) == (422, True)

    # --- hooks ---------------------------------------------------------------------------------

    @pytest.mark.parametrize("token", ["plain", "a/b", "ümläut 100 % & more?", "x/resume", "." * 3, "💥"])
    def test_hooks_are_found_and_resumed(self, site: Site, token: str) -> None:
        run_id = site.start("waits", [token])
        site.work()
        hook = site.get(site.hook_path(token))
        assert (hook["token"], hook["run_id"], hook["workflow"]) == (token, run_id, "waits")
        assert (hook["payload"], hook["webhook"], hook["url"], hook["metadata"]) == (
            *("Permission", False, None),
            {"for": token},
        )
        assert hook["payload_schema"]["required"] == ["approved"]
        path = site.hook_path(token, "/resume")
        for key in ("1", "1", "2"):  # the first one twice, as when its answer was lost
            answer = site.call("POST", path, {"approved": True, "by": key}, headers={"Idempotency-Key": key})
            assert (answer.status, answer.json) == (202, {"run_id": run_id, "resume_id": key})
        site.work()
        assert [each["by"] for each in site.get(f"/v1/runs/{run_id}/result")["result"]] == ["1", "2"]
        for method, place in (("GET", site.hook_path(token)), ("POST", path)):
            assert site.call(method, place, {"approved": True}).status == 404

    @pytest.mark.parametrize("payload", [{}, {"approved": "perhaps"}, {"approved": True, "x": 1}, [], None, "yes", 1])
    def test_a_payload_that_does_not_fit_is_refused(self, site: Site, payload: Any) -> None:
        run_id = site.start("waits", ["order-1"])
        site.work()
        answer = site.call("POST", "/v1/hooks/order-1/resume", payload)
        assert (answer.status, answer.json["type"].rpartition("/")[2]) == (422, "type-validation")
        site.work()
        assert site.get(f"/v1/runs/{run_id}/operations")["operations"][0]["received"] == 0

    @pytest.mark.parametrize("payload", [{}, {"$bytes": "!"}, [1, None], None, "yes", 1.5])
    def test_a_hook_without_a_class_takes_anything(self, site: Site, payload: Any) -> None:
        run_id = site.start("waits", {"token": "any", "anything": True})
        site.work()
        for _ in range(2):
            assert site.call("POST", "/v1/hooks/any/resume", payload).status == 202
        site.work()
        assert site.run(run_id)["status"] == "completed"
        history = site.get(f"/v1/runs/{run_id}/history")["turns"]
        events = [event for turn in history for event in turn["events"] if event["type"] == "HookReceived"]
        assert len(events) == 2

    def test_a_hook_s_token_is_enough_if_so_configured(self, serve: Serve) -> None:
        closed, opened = serve(), serve(open_hooks=True)
        run_id = closed.start("waits", ["order/1"])
        closed.work()
        path = closed.hook_path("order/1", "/resume")
        assert closed.call("POST", path, {"approved": True}, token=None).status == 401
        assert opened.call("POST", path, {"approved": 1.5}, token=None).status == 422
        assert opened.call("POST", path, {"approved": True}, token=None).json["run_id"] == run_id
        for method, place in (("GET", closed.hook_path("order/1")), ("GET", path), ("GET", f"/v1/runs/{run_id}")):
            assert opened.call(method, place, token=None).status == 401

    # --- webhooks ------------------------------------------------------------------------------

    def test_a_request_arrives_as_it_was(self, site: Site) -> None:
        run_id = site.start("notified")
        site.work()
        path = site.webhook(run_id)
        body = bytes(range(256))
        headers = {"X-Signature": "a=b", "Content-Type": "application/octet-stream"}
        answer = site.call("PUT", f"{path}?a=1&b=x%20y&a=2&c", body, token=None, headers=headers)
        assert (answer.status, answer.body) == (202, b"")
        site.work()
        [request] = wf.workflows["notified"].decode_result(self._result(site, run_id))
        assert (request.method, request.path, request.body) == ("PUT", path, body)
        assert request.query == {"a": ["1", "2"], "b": ["x y"], "c": [""]}
        assert request.headers["x-signature"] == "a=b"
        assert request.run_id == run_id
        assert site.call("PUT", path, token=None).body == b"", "the run has ended"

    def _result(self, site: Site, run_id: str) -> bytes:
        result = site.connection.get(run_id).result
        assert result is not None
        return result

    @pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE", "OPTIONS", "HEAD", "PROPFIND", "X-OWN"])
    def test_any_method(self, site: Site, method: str) -> None:
        run_id = site.start("notified")
        site.work()
        assert site.call(method, site.webhook(run_id), token=None).status == 202
        site.work()
        assert site.get(f"/v1/runs/{run_id}/result")["result"][0]["method"] == method

    def test_what_is_no_webhook_is_answered_with_nothing(self, site: Site) -> None:
        site.start("waits", ["order-1"])
        site.work()
        prefix = "/.well-known/workflow/v1/webhook/"
        for token in ("order-1", "nobody", "a/b", "%00", "x" * 2000, "%F0%9F%92%A5"):
            for method in ("GET", "POST", "X-OWN"):
                answer = site.call(method, prefix + token, b"{}", token=None)
                assert (answer.status, answer.body) == (404, b"")
        assert site.get("/v1/hooks/order-1")["webhook"] is False

    @pytest.mark.parametrize(
        "response",
        [
            WebhookResponse(status=200, body=b"\x00\xff\x80", headers={"Content-Type": "image/x-own"}),
            WebhookResponse.text("Grüße", status=503, headers={"Retry-After": "7"}),
            WebhookResponse.json({"ok": True}, status=201),
            WebhookResponse(status=302, headers={"Location": "https://example.org/?a=b"}),
            WebhookResponse(status=204, body=b"not sent"),
        ],
        ids=lambda response: str(response.status),
    )
    def test_a_response_is_sent_as_it_is(self, site: Site, response: WebhookResponse) -> None:
        run_id = site.start("notified", {"answer": encoded(response), "requests": 2})
        site.work()
        for method in ("POST", "HEAD"):
            answer = site.send(method, site.webhook(run_id), token=None)
            assert answer.status == response.status
            assert {name.lower(): value for name, value in response.headers.items()}.items() <= answer.headers.items()
            expected = b"" if method == "HEAD" or response.status == 204 else response.body
            assert answer.body == expected

    def test_bodies_of_requests_are_limited(self, site: Site) -> None:
        run_id = site.start("notified")
        site.work()
        path = site.webhook(run_id)
        too_large = str(10 * 1024 * 1024 + 1)
        assert site.call("POST", path, token=None, headers={"Content-Length": too_large}).status == 413
        assert site.call("POST", path, bytes(10 * 1024 * 1024), token=None).status == 202
        site.work()
        [request] = wf.workflows["notified"].decode_result(self._result(site, run_id))
        assert len(request.body) == 10 * 1024 * 1024

    @pytest.mark.parametrize(
        ("how", "status", "body"),
        [
            ("json", 201, b'{"echo": "hello"}'),
            ("sync", 200, b"from a thread"),
            ("retry", 200, b"attempt 2"),
            ("large", 200, bytes(range(256)) * 20_000),
        ],
    )
    def test_a_step_answers_the_caller(self, serve: Serve, how: str, status: int, body: bytes) -> None:
        site = serve(hold=20, max_answer=6_000_000)
        run_id = site.start("asked", [how])
        site.work()
        path = site.webhook(run_id)
        with site.working():
            answer = site.call("POST", path, b"hello", token=None)
        assert (answer.status, answer.body) == (status, body)
        assert answer.headers.get("x-a") == ("b" if how == "json" else None)
        site.work()
        assert site.get(f"/v1/runs/{run_id}/result")["result"] == "answered"
        assert site.get(f"/v1/runs/{run_id}/streams")["streams"] == [], "those of answers are not shown"

    def test_one_step_answers(self, site: Site) -> None:
        run_id = site.start("asked", {"how": "json", "twice": True})
        site.work()
        with site.working():
            assert site.call("POST", site.webhook(run_id), b"hello", token=None).status == 201
            result = site.get(f"/v1/runs/{run_id}/result?wait=5")["result"]
        assert "was answered by another step" in result

    def test_nobody_answers(self, serve: Serve) -> None:
        site = serve(hold=0.3)
        slow, gone = site.start("asked"), site.start("asked", ["nothing"])
        site.work()
        answer = site.call("POST", site.webhook(slow), b"", token=None)
        assert (answer.status, "has not answered within 0.3 s" in answer.json["detail"]) == (504, True)
        with site.working():
            answer = site.call("POST", site.webhook(gone), b"", token=None)
        assert (answer.status, answer.json["detail"]) == (504, "The workflow has ended without an answer.")

    def test_an_answer_that_is_too_large_for_the_platform(self, serve: Serve) -> None:
        site = serve(max_answer=1_000_000)
        run_id = site.start("asked", ["large"])
        site.work()
        with site.working():
            assert site.call("POST", site.webhook(run_id), b"", token=None).status == 500

    def test_each_of_several_callers_gets_its_own_answer(self, serve: Serve) -> None:
        site = serve(hold=20)
        runs = [site.start("asked", ["json"]) for _ in range(4)]
        site.work()
        paths = [site.webhook(run_id) for run_id in runs]
        with site.working(), ThreadPoolExecutor(4) as pool:
            answers = list(
                pool.map(lambda n: site.call("POST", paths[n], f"caller {n}".encode(), token=None), range(4))
            )
        assert [answer.json["echo"] for answer in answers] == [f"caller {number}" for number in range(4)]

    # --- streams -------------------------------------------------------------------------------

    def _lines(self, chunks: list[Any]) -> list[tuple[int, int]]:
        assert all(chunk["text"] == "zwölf\r\nboxing\u2028wizards\n" for chunk in chunks)
        return [(chunk["line"], chunk["attempt"]) for chunk in chunks]

    @pytest.mark.parametrize("live", [True, False], ids=["live", "held"])
    def test_a_stream_is_read_while_it_is_written(self, serve: Serve, live: bool) -> None:
        site = serve(live=live)
        run_id = site.start("report", [10, 0.02])
        reader = Reader(site.port, f"/v1/runs/{run_id}/streams/main/events", TOKEN)
        with site.working():
            chunks = reader.read()
        assert self._lines(chunks) == [(number, 1) for number in range(10)]
        assert reader.seen == [str(number) for number in range(10)]
        assert (reader.connections == 1) is live

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("live", [True, False], ids=["live", "held"])
    @pytest.mark.parametrize("close", [True, False], ids=["closed", "left open"])
    def test_a_reader_that_loses_its_connection_misses_and_repeats_nothing(
        self, serve: Serve, live: bool, seed: int, close: bool
    ) -> None:
        site = serve(live=live, hold=1)
        run_id = site.start("report", {"lines": 40, "pause": 0.005, "close": close})
        reader = Reader(site.port, f"/v1/runs/{run_id}/streams/main/events", TOKEN, random.Random(seed))
        with site.working():
            chunks = reader.read()
        assert self._lines(chunks) == [(number, 1) for number in range(40)]
        assert reader.seen == [str(number) for number in range(40)]
        assert reader.connections > 3

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("live", [True, False], ids=["live", "held"])
    def test_such_a_reader_has_the_chunks_of_the_attempt_that_counted(
        self, serve: Serve, live: bool, seed: int
    ) -> None:
        site = serve(live=live, hold=1)
        run_id = site.start("report", {"lines": 20, "pause": 0.005, "fails": 2})
        reader = Reader(site.port, f"/v1/runs/{run_id}/streams/main/events", TOKEN, random.Random(seed))
        with site.working():
            chunks = reader.read()
        assert self._lines(chunks) == [(number, 3) for number in range(20)]
        whole = Reader(site.port, f"/v1/runs/{run_id}/streams/main/events", TOKEN)
        assert whole.read() == chunks

    @pytest.mark.parametrize("live", [True, False], ids=["live", "held"])
    def test_where_a_reader_begins(self, serve: Serve, live: bool) -> None:
        site = serve(live=live)
        run_id = site.start("report", [6])
        site.work()

        def lines(query: str, last_id: str = "") -> list[int]:
            reader = Reader(site.port, f"/v1/runs/{run_id}/streams/main/events{query}", TOKEN, last_id=last_id)
            reader.chunks = [None] * (int(last_id) + 1 if last_id else max(0, _index(query, 6)))
            return [chunk["line"] for chunk in reader.read() if chunk is not None]

        assert lines("") == [0, 1, 2, 3, 4, 5]
        assert lines("?start_index=4") == [4, 5]
        assert lines("?start_index=-2") == [4, 5]
        assert lines("?start_index=-99") == [0, 1, 2, 3, 4, 5]
        assert lines("?start_index=6") == []
        assert lines("?start_index=1", last_id="3") == [4, 5]
        assert lines("", last_id="5") == []
        for wrong in ("x", "3.77", "1.", "9" * 30):
            path = f"/v1/runs/{run_id}/streams/main/events"
            assert site.call("GET", path, headers={"Last-Event-ID": wrong}).status == 422

    def test_bytes_of_a_stream(self, serve: Serve) -> None:
        held, live = serve(), serve(live=True)
        run_id = held.start("raw", [8])
        held.work()
        path = f"/v1/runs/{run_id}/streams/raw/bytes"
        expected = b"".join(bytes([number, 10, 13, 0, 255]) for number in range(8))
        assert live.call("GET", path).body == expected
        assert live.call("GET", f"{path}?start_index=-1").body == expected[-5:]
        answer = held.call("GET", path)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert (answer.body, answer.headers["stream-last-id"]) == (expected, "7")
        answer = held.call("GET", path, headers={"Last-Event-ID": "6"})
        assert (answer.body, answer.headers["stream-done"]) == (expected[-5:], "true")
        reader = Reader(live.port, f"/v1/runs/{run_id}/streams/raw/events", TOKEN)
        assert b"".join(reader.read()) == expected

    def test_bytes_over_several_answers(self, serve: Serve) -> None:
        site = serve(hold=2)
        run_id = site.start("report", [30, 0.005])
        found, last_id, done = b"", "", "false"
        with site.working():
            while done == "false":
                headers = {"Last-Event-ID": last_id} if last_id else {}
                answer = site.call("GET", f"/v1/runs/{run_id}/streams/main/bytes", headers=headers)
                found += answer.body
                last_id, done = answer.headers["stream-last-id"], answer.headers["stream-done"]
        assert found.count(b'"line":') == 30
        assert last_id == "29"

    def test_what_is_known_of_streams(self, site: Site) -> None:
        run_id = site.start("report", {"lines": 3, "close": True})
        waiting = site.start("nap")
        site.work()
        assert site.get(f"/v1/runs/{run_id}/streams") == {"run_id": run_id, "streams": ["main"]}
        path = f"/v1/runs/{run_id}/streams"
        assert site.get(f"{path}/main") == {"name": "main", "tail_index": 2, "closed": True}
        assert site.get(f"{path}/a%2Fb") == {"name": "a/b", "tail_index": -1, "closed": True}
        assert site.get(f"/v1/runs/{waiting}/streams/main") == {"name": "main", "tail_index": -1, "closed": False}
        for name in ("$webhook.1", "x" * 200):
            for what in ("", "/events", "/bytes"):
                assert site.call("GET", f"{path}/{name}{what}").status == 422
        for what in ("", "/main", "/main/events", "/main/bytes"):
            assert site.call("GET", f"/v1/runs/{NOBODY}/streams{what}").status == 404

    def test_an_empty_stream_that_stays_so(self, serve: Serve) -> None:
        site = serve(hold=0.2)
        run_id = site.start("nap")
        site.work()
        answer = site.call("GET", f"/v1/runs/{run_id}/streams/main/events")
        assert (answer.status, answer.body) == (200, b"retry: 100\n\n"), "held until the time was up"
        answer = site.call("GET", f"/v1/runs/{run_id}/streams/main/bytes")
        assert (answer.body, answer.headers["stream-last-id"], answer.headers["stream-done"]) == (b"", "-1", "false")
        site.ask(run_id, "terminate")
        assert site.call("GET", f"/v1/runs/{run_id}/streams/main/events").status == 204

    # --- the service ---------------------------------------------------------------------------

    def test_health_through_the_queue(self, site: Site, clock: VirtualClock) -> None:
        answer = site.call("GET", "/health/queue?wait=1")
        assert (answer.status, "No worker has handled" in answer.json["detail"]) == (504, True)
        with site.working():
            for _ in range(3):
                answer = site.get("/health/queue")
                assert answer["status"] == "ok"
                assert answer["seconds"] >= 0
        assert site.get("/v1/runs")["runs"] == [], "it leaves nothing behind"
        assert site.call("GET", "/health/queue", token=None).status == 401

    def test_several_ask_for_the_queue_s_health(self, site: Site) -> None:
        with site.working(), ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: site.call("GET", "/health/queue"), range(12)))
        assert {answer.status for answer in answers} == {200}

    def test_a_busy_store_is_told_from_a_mistake(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        def busy(*_: Any, **__: Any) -> Any:
            raise StoreBusyError("table everstep-1 is throttled")

        monkeypatch.setattr(site.connection, "find", busy)
        answer = site.call("GET", f"/v1/runs/{NOBODY}")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert b"everstep-1" not in answer.body

    def test_many_at_once(self, site: Site) -> None:
        errors: list[Answer] = []
        lock = threading.Lock()

        def one(number: int) -> str:
            run_id = site.start("waits", [f"token {number}"])
            while site.call("GET", site.hook_path(f"token {number}")).status == 404:
                pass
            for key in ("1", "2"):
                answer = site.call(
                    "POST", site.hook_path(f"token {number}", "/resume"), {"approved": True, "by": f"{number}.{key}"}
                )
                if answer.status != 202:
                    with lock:
                        errors.append(answer)
            return run_id

        with site.working(), ThreadPoolExecutor(8) as pool:
            runs = list(pool.map(one, range(16)))
            results = [site.get(f"/v1/runs/{run_id}/result?wait=5")["result"] for run_id in runs]
        assert errors == []
        for number, result in enumerate(results):
            assert [each["by"] for each in result] == [f"{number}.1", f"{number}.2"]


def _index(query: str, count: int) -> int:
    """The index that a query's start stands for."""
    start = int(query.partition("=")[2] or 0)
    return start if start >= 0 else max(0, count + start)
