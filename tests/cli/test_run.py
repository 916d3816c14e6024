"""`everstep run`, `start` and `resume` as processes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import pytest

from tests.cli.commands import open_gate

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals and named pipes")


def test_the_result_is_on_stdout_and_everything_else_on_stderr(folder):
    done = folder.run("run", "shop:greet", "--input", '{"name": "Ada"}')
    assert (done.code, done.out) == (0, '["Hello Ada"]\n')
    for said in (
        "run wrun_",
        "step 0 salute started",
        "a step prints",
        "step 0 salute completed",
        "greet completed in",
    ):
        assert said in done.err
    assert folder.db.is_file()


def test_a_file_is_a_target_from_any_folder(folder):
    (folder.path / "sub").mkdir()
    (folder.path / "shop.py").rename(folder.path / "sub" / "my_shop.py")
    done = folder.run("run", "sub/my_shop.py:greet", "--input", '["Ada"]', "--json")
    assert done.json["attributes"] == {"$app": str((folder.path / "sub" / "my_shop.py").resolve())}


def test_the_input_comes_from_an_array_a_file_or_stdin(folder):
    (folder.path / "order.json").write_text('{"name": "file"}')
    assert folder.run("run", "shop:greet", "-q", "-i", '["array", 2]').out == '["Hello array","Hello array"]\n'
    assert folder.run("run", "shop:greet", "-q", "-i", "@order.json").out == '["Hello file"]\n'
    assert folder.run("run", "shop:greet", "-q", "-i", "-", stdin='["stdin"]').out == '["Hello stdin"]\n'


def test_json_describes_the_run(folder):
    done = folder.run("run", "shop:greet", "-i", '["Ada"]', "--attribute", "who=ada", "--json")
    run = done.json
    assert done.code == 0
    assert {key: run[key] for key in ("workflow", "status", "input", "result", "attributes", "error", "problem")} == {
        "workflow": "greet",
        "status": "completed",
        "input": {"name": "Ada"},
        "result": ["Hello Ada"],
        "attributes": {"who": "ada", "$app": "shop"},
        "error": None,
        "problem": None,
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", run["completed_at"])


def test_a_failed_run_shows_what_was_raised_and_where(folder):
    done = folder.run("run", "shop:fails")
    assert (done.code, done.out) == (1, "")
    assert "attempt 1 failed" in done.err
    assert "KeyError: 'key'" in done.err
    assert 'raise ValueError("no such customer") from error' in done.err
    assert re.search(r"✗ fails failed after .*: ValueError: no such customer", done.err)
    as_json = folder.run("run", "shop:fails", "--json")
    assert as_json.code == 1
    assert as_json.json["error"]["type"] == "ValueError"
    assert as_json.json["error"]["cause"]["type"] == "KeyError"


def test_a_parked_run_says_why_and_goes_on_with_fixed_code(folder):
    parked = folder.run("run", "shop:reads")
    assert parked.code == 3
    assert "move it into a step" in parked.err
    command = re.search(r"everstep (resume wrun_\w+)", parked.err)
    assert command is not None
    again = folder.run(*command[1].split())
    assert again.code == 3
    source = (folder.path / "shop.py").read_text()
    (folder.path / "shop.py").write_text(source.replace('open("/etc/hosts")', 'return "fixed"'))
    fixed = folder.run(*command[1].split())
    assert (fixed.code, fixed.out) == (0, '"fixed"\n')


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_stopped_run_goes_on_where_it_was(folder, number, code):
    gate = folder.gate()
    running = folder.start("run", "shop:waits", "--input", json.dumps([str(gate)]), "--db", "my runs.db")
    run_id = running.wait_for(r"run (wrun_\w+) of waits")[1]
    running.wait_for("step 1 passed started")
    running.send(number)
    assert running.wait() == code
    if number != signal.SIGKILL:
        running.wait_for("stopped; the run is kept")
        running.wait_for(rf"everstep resume {run_id} --db 'my runs.db'")
    resumed = folder.start("resume", run_id, "--db", "my runs.db")
    resumed.wait_for("goes on: 1 step done before")
    open_gate(gate)
    assert resumed.wait() == 0
    assert '["Hello first","Hello last"]' in resumed.lines
    assert not any("step 0" in line for line in resumed.lines)
    ended = folder.run("resume", run_id, "--db", "my runs.db")
    assert (ended.code, ended.out) == (0, '["Hello first","Hello last"]\n')
    assert "had completed before" in ended.err


def test_a_second_ctrl_c_ends_what_does_not_stop(folder):
    (folder.path / "stubborn.py").write_text(
        "import asyncio\n"
        "from everstep import Workflows\n"
        "wf = Workflows()\n"
        "@wf.workflow\n"
        "async def flow(): await stays()\n"
        "@wf.step\n"
        "async def stays():\n"
        "    while True:\n"
        "        try: await asyncio.Event().wait()\n"
        "        except asyncio.CancelledError: print('stays', flush=True)\n"
    )
    running = folder.start("run", "stubborn:flow")
    running.wait_for("stays started")
    running.send(signal.SIGINT)
    running.wait_for("^stays$")
    running.wait_for("once more")
    running.send(signal.SIGINT)
    assert running.wait() == 130
    running.wait_for("everstep resume wrun_")


def test_the_hash_seed_is_fixed_where_bodies_run(folder):
    first = folder.run("run", "shop:seeds", "-q").json
    second = folder.run("run", "shop:seeds", "-q").json
    assert first == second
    assert first[0] == "0"


def test_a_hash_seed_of_the_user_s_is_kept(folder, monkeypatch):
    original = folder.environment
    monkeypatch.setattr(type(folder), "environment", {**original, "PYTHONHASHSEED": "7"})
    assert folder.run("run", "shop:seeds", "-q").json[0] == "7"


def test_the_same_idempotency_key_gives_the_same_run(folder):
    first = folder.run("start", "shop:greet", "-i", '["Ada"]', "--idempotency-key", "k1")
    again = folder.run("run", "shop:greet", "-i", '["Ada"]', "--idempotency-key", "k1", "--json")
    assert again.json["run_id"] == first.out.strip()
    other = folder.run("run", "shop:greet", "-i", '["Bob"]', "--idempotency-key", "k1")
    assert other.code == 2
    assert "another input" in other.line


def test_start_prints_the_id_and_nothing_else(folder):
    done = folder.run("start", "shop:greet", "-i", '["Ada"]')
    assert re.fullmatch(r"wrun_[0-9A-Z]{26}\n", done.out)
    assert done.err == ""
    as_json = folder.run("start", "shop:greet", "-i", '["Ada"]', "--json").json
    assert as_json["status"] == "pending"


def test_steps_that_start_runs_use_the_same_database(folder):
    (folder.path / "chain.py").write_text(
        "from everstep import Workflows, start_sync\n"
        "wf = Workflows()\n"
        "@wf.workflow\n"
        "async def first(): return await begin()\n"
        "@wf.step\n"
        "def begin(): return start_sync(second).run_id\n"
        "@wf.workflow\n"
        "async def second(): return 2\n"
    )
    second = folder.run("run", "chain:first", "--db", "other.db", "-q").json
    resumed = folder.run("resume", second, "--db", "other.db", "--app", "chain", "-q")
    assert (resumed.code, resumed.out) == (0, "2\n")
    assert not folder.db.exists()


def test_a_run_that_does_not_say_its_app_needs_one(folder):
    (folder.path / "plain.py").write_text(
        "from everstep import start_sync\nfrom shop import greet\nprint(start_sync(greet, 'Ada').run_id)\n"
    )
    run_id = subprocess.run(
        [sys.executable, "plain.py"],
        cwd=folder.path,
        env=folder.environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    without = folder.run("resume", run_id)
    assert without.code == 2
    assert "--app" in without.line
    assert folder.run("resume", run_id, "--app", "shop.py", "-q").out == '["Hello Ada"]\n'


def test_a_script_that_was_killed_is_gone_on_with_by_the_command(folder):
    """What the script's own classes and lazily imported ones did to the run, they do again where both are missing."""
    (folder.path / "lazy.py").write_text("class LateError(OSError): pass\n")
    script = folder.path / "script.py"
    script.write_text(
        "import os, signal\n"
        "from everstep import Workflows, run, serializable\n"
        "wf = Workflows()\n"
        "class SoldOutError(Exception): pass\n"
        "@serializable\n"
        "class Ticket:\n"
        "    seat = 5\n"
        "    def _workflow_serialize(self): return None\n"
        "    @classmethod\n"
        "    def _workflow_deserialize(cls, data): return cls()\n"
        "@wf.step(max_retries=0)\n"
        "def buy(): raise SoldOutError('none left')\n"
        "@wf.step(max_retries=0)\n"
        "def ask():\n"
        "    import lazy\n"
        "    raise lazy.LateError(110, 'too late')\n"
        "@wf.step\n"
        "def ticket(): return Ticket()\n"
        "@wf.step\n"
        "def tell(what): return what\n"
        "@wf.step\n"
        "def die():\n"
        "    if 'DIE' in os.environ: os.kill(os.getpid(), signal.SIGKILL)\n"
        "@wf.workflow\n"
        "async def main():\n"
        "    told = []\n"
        "    try: await buy()\n"
        "    except SoldOutError as error: told.append(await tell(str(error)))\n"
        "    try: await ask()\n"
        "    except OSError as error: told.append(await tell([type(error).__name__, str(error), error.errno]))\n"
        "    told.append((await ticket()).seat)\n"
        "    await die()\n"
        "    return told\n"
        "if __name__ == '__main__': run(main)\n"
    )
    killed = subprocess.run(
        [sys.executable, "script.py"], cwd=folder.path, env={**folder.environment, "DIE": "1"}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    run_id = folder.run("inspect", "runs", "--json").json["runs"][0]["run_id"]
    resumed = folder.run("resume", run_id, "--app", "script.py", "-q")
    assert (resumed.code, resumed.out) == (0, '["none left",["LateError","[Errno 110] too late",110],5]\n'), resumed.err
