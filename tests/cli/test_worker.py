"""`everstep worker`, beside `start` and `inspect` on the same file."""

from __future__ import annotations

import json
import signal

import pytest

from tests.cli.commands import open_gate

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals and named pipes")


def test_a_worker_takes_up_what_others_start_while_others_look(folder):
    worker = folder.start("worker", "--app", "shop")
    worker.wait_for(r"worker \d+: app shop \(6 workflows, 3 steps, build \w+\), db .everstep/runs.db")
    gate = folder.gate()
    waiting = folder.run("start", "shop:waits", "-i", json.dumps([str(gate)])).out.strip()
    quick = folder.run("start", "shop:greet", "-i", '["Ada"]').out.strip()
    failing = folder.run("start", "shop:fails").out.strip()
    worker.wait_for(rf"{quick} greet completed in")
    worker.wait_for(rf"{failing} step 0 broken attempt 1 failed")
    worker.wait_for(rf"{failing} fails failed in .*: ValueError: no such customer")
    listed = folder.run("inspect", "runs", "--json").json["runs"]
    assert {run["run_id"]: run["status"] for run in listed} == {
        waiting: "running",
        quick: "completed",
        failing: "failed",
    }
    steps = folder.run("inspect", "steps", waiting, "--json").json["operations"]
    assert [(step["name"], step["state"]) for step in steps] == [("salute", "completed"), ("passed", "running")]
    worker.send(signal.SIGTERM)
    worker.wait_for("stopping: finishing 1 step; once more")
    open_gate(gate)
    assert worker.wait() == 0
    assert folder.run("inspect", "run", waiting, "--json").json["turns"] == 3
    assert not any("salute started" in line for line in worker.lines)


def test_a_second_signal_stops_at_once_and_the_next_worker_goes_on(folder):
    gate = folder.gate()
    run_id = folder.run("start", "shop:waits", "-i", json.dumps([str(gate)])).out.strip()
    worker = folder.start("worker", "--app", "shop.py", "-v")
    worker.wait_for("step 1 passed started")
    worker.send(signal.SIGTERM)
    worker.wait_for("finishing 1 step")
    worker.send(signal.SIGTERM)
    assert worker.wait() == 143
    following = folder.start("worker", "--app", "shop:wf", "--json", "-v")
    following.wait_for('"step_started".*"op": 1')
    open_gate(gate)
    following.wait_for('"run_closed"')
    following.send(signal.SIGINT)
    assert following.wait() == 0
    events = [json.loads(line) for line in following.lines if line.startswith("{")]
    assert [each["event"] for each in events] == [
        "started",
        "warning",
        "step_started",
        "step_completed",
        "step_started",
        "step_completed",
        "run_closed",
        "stopping",
        "stopped",
    ]
    closed = events[6]
    assert (closed["run_id"], closed["workflow"], closed["status"]) == (run_id, "waits", "completed")
    trace = (folder.path / "trace").read_text().split()
    assert len(trace) == 2, "the interrupted step ran once more"


def test_a_worker_parks_what_it_does_not_know_and_one_with_other_code_tries_it(folder):
    run_id = folder.run("start", "shop:reads").out.strip()
    worker = folder.start("worker", "--app", "shop")
    worker.wait_for(rf"{run_id} parked: .*move it into a step")
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    worker.wait_for("stopping: no step is running")
    source = (folder.path / "shop.py").read_text()
    (folder.path / "shop.py").write_text(source.replace('open("/etc/hosts")', 'return "fixed"'))
    fixed = folder.start("worker", "--app", "shop")
    fixed.wait_for(rf"{run_id} reads completed")
