"""`everstep cancel`, `terminate`, `pause`, `unpause`, `wake-up`, `rerun`, `hooks` and `resume-hook`."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everstep.assembly import connect_sqlite
from everstep.runtime.connection import Connection
from everstep.runtime.worker import Worker
from tests.cli.commands import Done

Run = Callable[..., Done]

MORE = """
from dataclasses import dataclass
from everstep import BaseHook, create_hook, create_webhook


@dataclass
class Clearance(BaseHook):
    approved: bool


@wf.workflow
async def approves(token: str) -> bool:
    return (await Clearance.wait(token=token, metadata={"for": token})).approved


@wf.workflow
async def called() -> str:
    return (await create_webhook()).text()


@wf.workflow
async def two() -> list[str]:
    return [await salute("one"), await salute("two")]
"""


@pytest.fixture
def shop(here: Run, tmp_path: Path) -> Run:
    with (tmp_path / "shop.py").open("a") as file:
        file.write(MORE)
    return here


def start(shop: Run, workflow: str, given: str = "{}", *more: str) -> str:
    return shop("start", f"shop:{workflow}", "-i", given, *more).out.strip()


def work(seconds: float = 0.3) -> None:
    """Let a worker do what there is to do."""
    import shop as app  # type: ignore[import-not-found]

    connection = connect_sqlite(".everstep/runs.db")
    worker = Worker(connection.engine(app.wf))

    async def serve() -> None:
        asyncio.get_running_loop().call_later(seconds, worker.stop)
        await worker.serve()

    with contextlib.redirect_stdout(io.StringIO()):  # what steps print
        asyncio.run(serve())
    connection.close()


def status(shop: Run, run_id: str) -> str:
    found: str = shop("inspect", "run", run_id, "--json").json["status"]
    return found


def test_a_run_is_cancelled_and_one_that_has_ended_is_left_alone(shop: Run) -> None:
    run_id = start(shop, "naps", "[3600]")
    work()
    done = shop("cancel", run_id[:14], "--reason", "too late", "--json")
    assert (done.code, done.json["status"]) == (0, "running"), "as it was"
    assert f"run {run_id} is asked to end with its next turn" in done.err
    assert f"everstep inspect run {run_id}" in done.err
    work()
    assert status(shop, run_id) == "cancelled"
    done = shop("cancel", run_id)
    assert (done.code, done.line) == (0, f"run {run_id} is cancelled already, and is left as it is")


def test_all_runs_that_fit_are_cancelled(shop: Run) -> None:
    runs = [start(shop, "naps", "[3600]", "--attribute", f"number={number}") for number in range(3)]
    other = start(shop, "greet", '["Ada"]')
    done = shop("cancel", "--workflow", "naps", "--attribute", "number=1")
    assert (done.out.split(), done.line) == ([runs[1]], "1 run asked to end")
    done = shop("cancel", "--since", "1h", "--workflow", "naps", "--limit", "2", "--json")
    assert len(done.json) == 2
    assert done.line == "2 runs asked to end; there may be more, repeat the command"
    assert shop("cancel", "--until", "2020-01-01").line == "0 runs asked to end"
    work()
    assert status(shop, other) == "completed"
    assert status(shop, runs[1]) == "cancelled"


def test_pause_unpause_wake_up_and_terminate(shop: Run) -> None:
    run_id = start(shop, "naps", "[3600]")
    work()
    assert shop("pause", run_id).code == 0
    work()
    assert status(shop, run_id) == "paused"
    assert shop("wake-up", run_id).code == 0
    assert shop("unpause", run_id).code == 0
    work()
    assert status(shop, run_id) == "completed"
    other = start(shop, "naps", "[3600]")
    work()
    assert shop("terminate", other, "--reason", "enough").code == 0
    work()
    assert status(shop, other) == "cancelled"


def test_rerun(shop: Run) -> None:
    run_id = start(shop, "two")
    done = shop("rerun", run_id, "--from-step", "1")
    assert (done.code, "only a run that has ended" in done.line) == (2, True)
    work()
    whole = shop("rerun", run_id).out.strip()
    by_number = shop("rerun", run_id, "--from-step", "1").out.strip()
    by_name = shop("rerun", run_id, "--from-step", "salute", "--json").json["run_id"]
    work()
    for new in (whole, by_number, by_name):
        run = shop("inspect", "run", new, "--json").json
        assert (run["status"], run["result"]) == ("completed", ["Hello one", "Hello two"])
        assert run["attributes"]["$rerunOf"] == run_id
    assert "has no step 'nothing'" in shop("rerun", run_id, "--from-step", "nothing").line


def test_hooks_are_shown_and_resumed(shop: Run, tmp_path: Path) -> None:
    run_id = start(shop, "approves", '["order-1"]')
    assert shop("hooks", run_id).line == "the run has opened no hook yet"
    work()
    [hook] = shop("hooks", run_id, "--json").json["hooks"]
    assert (hook["token"], hook["state"], hook["payload"]) == ("order-1", "open", "Clearance")
    assert "0 received, token order-1" in shop("hooks", run_id).out
    done = shop("resume-hook", "order-1", '{"approved": "perhaps"}', "--app", "shop")
    assert (done.code, "approved: Input should be a valid boolean" in done.line) == (2, True)
    (tmp_path / "payload.json").write_text('{"approved": true}')
    done = shop("resume-hook", "order-1", "@payload.json", "--app", "shop", "--resume-id", "1", "--json")
    assert done.json == {"run_id": run_id, "workflow": "approves", "payload": "Clearance"}
    work()
    assert shop("inspect", "run", run_id, "--json").json["result"] is True
    done = shop("resume-hook", "order-1", "1")
    assert (done.code, "no run has an open hook with the token 'order-1'" in done.line) == (2, True)
    assert shop("hooks", run_id).out.count("disposed") == 1


def test_a_webhook_has_the_address_that_the_settings_say(shop: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSTEP_PUBLIC_URL", "https://shop.example")
    made: list[Connection] = []
    real = connect_sqlite

    def seen(*args: Any, **kwargs: Any) -> Connection:
        made.append(real(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr("everstep.assembly.connect_sqlite", seen)
    start(shop, "called")
    assert made[0].public_url == "https://shop.example"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cancel"], "say which run, or which runs"),
        (["cancel", "wrun_01M81EPQ5BXQE1SNKS666FDPR3", "--workflow", "naps"], "not both"),
        (["cancel", "--workflow", "naps", "--since", "soon"], "--since takes how long ago"),
        (["cancel", "wrun_01M81EPQ5BXQE1SNKS666FDPR3"], "there is no run"),
        (["pause", "wrun_01M81EPQ5BXQE1SNKS666FDPR3"], "there is no run"),
        (["terminate", "x"], "is not a run id"),
        (["resume-hook", "order-1", "{"], "JSON is not JSON"),
        (["resume-hook", "order-1", "@nowhere.json"], "JSON @nowhere.json: the file cannot be read"),
        (["hooks"], "missing argument 'ID'"),
    ],
)
def test_bad_input(shop: Run, words: list[str], said: str) -> None:
    start(shop, "naps", "[1]")
    done = shop(*words)
    assert (done.code, said in done.line) == (2, True), done.err


def test_a_reason_that_is_too_long(shop: Run) -> None:
    run_id = start(shop, "naps", "[3600]")
    done = shop("cancel", run_id, "--reason", "x" * 600)
    assert (done.code, "512 are allowed" in done.line) == (2, True)
