"""The programs in examples/ run, as a reader would run them, and print what they should."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType

import pytest

from everstep import HookNotFoundError, RunStatus, WorkflowRunCancelledError, WorkflowRunFailedError, resume_hook_sync
from everstep.backends.memory import open_memory
from everstep.core.ids import child_run_id
from everstep.testing import WorkflowEnvironment
from tests.docs.pages import ROOT
from tests.web.site import Site

EXAMPLES = ROOT / "examples"
LIMIT = 5.0

PRINTED = {
    "approval": ["Dear manager, please decide about 120", "paid 120 euros, approved by the director"],
    "cancel_cleanup": ["returned: room of ada\nreturned: flight of ada\ncancelled: the customer is ill"],
    "create_site": ['"title": "Ada\'s place"', '"pages": 3'],
    "deadline": ["anvil: 9.50, as of yesterday"],
    "fan_out": ["39800"],
    "long_sleeper": ["Welcome! Your trial runs for 2 seconds.", "Your trial has ended.", "ended at 20"],
    "streaming_report": ["[forget the last 5 words]", "The report: Section 1 says", "rivers. (end)", "30 words"],
    "parent": ["45 imported, 5 failed:", "file-50.csv: it is empty"],
    "payment_webhook": ["the provider says 'pending' and is answered 202", "order-17 is paid"],
    "order": ["Receipt(order_id='o1', payment='payment for 12.50", "shipment='shipment of reservation-o1'"],
}


def test_every_example_is_tested() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*.py")) == sorted(PRINTED)


def test_every_example_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [name for name in PRINTED if f"({name}.py)" not in listed] == []


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_example_runs(name: str, tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "adapter")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < LIMIT
    missing = [text for text in PRINTED[name] if text not in done.stdout]
    assert not missing, done.stdout
    assert (tmp_path / ".everstep" / "runs.db").is_file()


@pytest.fixture
def example(request: pytest.FixtureRequest) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{request.param}", EXAMPLES / f"{request.param}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("example", ["long_sleeper"], indirect=True)
def test_two_weeks_take_no_time(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    with WorkflowEnvironment(example.wf) as env:
        start = datetime.fromisoformat("2025-06-15T15:06:40+00:00")  # where the virtual clock begins
        ended = env.run(example.trial, "ada")
    assert timedelta(days=14) <= ended - start < timedelta(days=14, minutes=1)
    assert time.monotonic() - began < LIMIT
    assert [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()] == [
        "Welcome! Your trial runs for 14 days.",
        "Your trial ends in 2 days.",
        "Your trial has ended.",
    ]


@pytest.mark.parametrize("example", ["order"], indirect=True)
def test_an_order_that_fails_is_undone_in_reverse(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    order = example.Order("o2", example.Decimal("12.50"), "nowhere")
    with WorkflowEnvironment(example.wf) as env, pytest.raises(WorkflowRunFailedError) as caught:
        env.run(example.place_order, order)
    assert isinstance(caught.value.__cause__, example.OutOfStockError)
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["released", "refunded"]


def _token(mail: str) -> str:
    found = re.search(r"token=(\S+)", mail)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("example", ["approval"], indirect=True)
@pytest.mark.parametrize("approved", [True, False])
def test_an_approval_within_days(example: ModuleType, capsys: pytest.CaptureFixture[str], approved: bool) -> None:
    with WorkflowEnvironment(example.wf) as env:
        run = env.start(example.expense, 80, patience=3 * 86400)
        env.run_until_idle(lambda: len(env.history(run).turns) == 2)  # the mail is sent
        assert asyncio.run(run.attributes()) == {"waits_for": "manager"}
        resume_hook_sync(_token(capsys.readouterr().out), {"approved": approved, "by": "manager"})
        result = run.wait()
        assert asyncio.run(run.attributes()) == {}
    assert result == ("paid 80 euros, approved by the manager" if approved else "refused by the manager")


@pytest.mark.parametrize("example", ["approval"], indirect=True)
def test_an_approval_that_comes_too_late(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with WorkflowEnvironment(example.wf) as env:
        run = env.start(example.expense, 80, patience=3 * 86400)
        assert run.wait() == "paid 80 euros, approved by the director"
        assert asyncio.run(run.query("note")) == "the manager did not answer"
        with pytest.raises(HookNotFoundError):
            resume_hook_sync(_token(capsys.readouterr().out), {"approved": True, "by": "manager"})


@pytest.mark.parametrize("example", ["parent"], indirect=True)
def test_the_children_of_a_parent(example: ModuleType) -> None:
    with WorkflowEnvironment(example.wf) as env:
        run = env.start(example.import_all)
        report = run.wait()
        children = [env.connection.get(child_run_id(run.run_id, number)) for number in range(50)]
        assert asyncio.run(run.query("progress")) == {"done": 50, "of": 50}
    assert [child.status for child in children].count(RunStatus.FAILED) == len(report.failed) == 5
    assert {child.attributes["batch"] for child in children} == {"monday"}


async def _no_reply(customer: str) -> None: ...


@pytest.mark.parametrize("example", ["cancel_cleanup"], indirect=True)
def test_a_trip_is_cancelled_while_the_customer_waits(
    example: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example.ask_customer, "func", _no_reply)
    with WorkflowEnvironment(example.wf) as env:
        run = env.start(example.book_trip, "ada")
        env.run_until_idle(lambda: len(env.history(run).turns) == 4)  # it sleeps
        asyncio.run(run.cancel("strike"))
        with pytest.raises(WorkflowRunCancelledError, match="strike"):
            run.wait()
        env.run_until_idle()
    assert capsys.readouterr().out.splitlines() == ["returned: room of ada", "returned: flight of ada"]


@pytest.mark.parametrize("example", ["payment_webhook"], indirect=True)
def test_only_the_provider_is_believed(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider's part is taken by the test: it says what it wants, when it wants."""
    callbacks: list[str] = []
    monkeypatch.setattr(example, "provider", lambda key, order, cents, callback: callbacks.append(callback))
    site = Site(open_memory(atomic_units=True), app=example.wf)
    try:
        run_id = site.start("checkout", ["order-1", 1250])
        site.work()
        path = callbacks[0].removeprefix(site.connection.public_url)

        def say(status: str, secret: bytes = example.secret()) -> None:
            body = json.dumps({"status": status}).encode()
            signature = hmac.new(secret, body, hashlib.sha256).hexdigest()
            assert site.call("POST", path, body, token=None, headers={"X-Signature": signature}).status == 202
            site.work()

        say("paid", b"somebody else's")
        say("pending")
        assert site.run(run_id)["status"] == "running"
        say("refused")
        assert site.get(f"/v1/runs/{run_id}/result")["result"] == "order-1 is refused"
        assert site.call("POST", path, b"{}", token=None).status == 404
    finally:
        site.close()


@pytest.mark.parametrize("example", ["payment_webhook"], indirect=True)
def test_a_payment_that_does_not_come(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "provider", lambda *_: None)
    with WorkflowEnvironment(example.wf) as env:
        assert env.run(example.checkout, "order-1", 1250) == "order-1 was not paid in time"
