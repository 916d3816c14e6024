"""Bad input: one clear line, exit code 2, nothing written."""

from __future__ import annotations

import sqlite3

import pytest

from tests.cli.commands import APP

MODULES = {
    "two.py": "from everstep import Workflows\na = Workflows()\nb = Workflows()\n@a.workflow\nasync def flow(): pass\n",
    "empty.py": "",
    "json.py": "",
    "leaves.py": "import sys\nsys.exit(3)\n",
    "wrong.py": "from everstep import Workflows\nwf = Workflows()\n@wf.workflow\ndef flow(): pass\n",
    "ill.py": "def inner():\n    1 / 0\ninner()\n",
    "lacks.py": "import no_such_library\n",
    "syntax.py": "def (:\n",
    "inside.py": "from . import shop\n",
    "package/__init__.py": "",
}

CASES = {
    "no target": (["run"], ["missing argument 'TARGET'"]),
    "no command": (["rum", "shop:greet"], ["no command 'rum'", "did you mean 'run'"]),
    "unknown option": (["run", "shop:greet", "--imput", "{}"], ["--imput"]),
    "no workflow": (["run", "shop"], ["say which workflow", "shop:greet", "shop:fails"]),
    "unknown workflow": (["run", "shop:gret"], ["no workflow 'gret'", "did you mean 'greet'", "fails"]),
    "unknown module": (["run", "shpo:greet"], ["no module 'shpo'", "did you mean 'shop'"]),
    "unknown package": (["run", "far.away:greet"], ["no module 'far'"]),
    "unknown file": (["run", "shpo.py:greet"], ["no file 'shpo.py'", "did you mean 'shop.py'"]),
    "a folder": (["run", "./package:greet"], ["is a folder"]),
    "not a module": (["run", "a b:greet"], ["not the name of a module"]),
    "no module": (["run", ":greet"], ["names no module"]),
    "a step": (["run", "shop:salute"], ["is a step", "shop:greet"]),
    "a module": (["run", "shop:asyncio"], ["not a workflow but module"]),
    "a class": (["run", "shop:FatalError"], ["plain class", "@wf.workflow"]),
    "no workflows": (["run", "empty:flow"], ["no workflow 'flow'", "no workflows at all"]),
    "an empty package": (["run", "package:flow"], ["package.module:flow"]),
    "a taken name": (["run", "json.py:flow"], ["rename the file"]),
    "an exit": (["run", "leaves:flow"], ["sys.exit()", "__main__"]),
    "a wrong declaration": (["run", "wrong:flow"], ["cannot import 'wrong'", "'async def'", "wrong.py:3"]),
    "two apps": (["worker", "--app", "two"], ["several Workflows objects", "two:a or two:b"]),
    "no app": (["worker", "--app", "empty"], ["no Workflows object"]),
    "unknown app": (["worker", "--app", "two:c"], ["no Workflows object 'c'", "a, b"]),
    "no JSON": (["run", "shop:greet", "-i", "{name: Ada}"], ["not JSON", "column 2", "single quotes"]),
    "half JSON": (["run", "shop:greet", "-i", '{"name": "Ada"'], ["not JSON"]),
    "NaN": (["run", "shop:greet", "-i", "[NaN]"], ["NaN is not a JSON number"]),
    "twice": (["run", "shop:greet", "-i", '{"name": "a", "name": "b"}'], ["'name' is given twice"]),
    "a scalar": (["run", "shop:greet", "-i", '"Ada"'], ["an object", "an array", """'["Ada"]'"""]),
    "deep": (["run", "shop:greet", "-i", "[" * 100_000], ["nested too deep"]),
    "missing": (["run", "shop:greet"], ["missing a required argument: 'name'", "(name: str, times: int = 1)"]),
    "unexpected": (["run", "shop:greet", "-i", '{"name": "a", "tines": 2}'], ["'tines'", "did you mean 'times'"]),
    "too many": (["run", "shop:greet", "-i", "[1, 2, 3]"], ["too many", "(name: str, times: int = 1)"]),
    "wrong type": (["run", "shop:greet", "-i", '["Ada", "x"]'], ["'greet'", "'times'", "integer", "'x'"]),
    "no file": (["run", "shop:greet", "-i", "@order.json"], ["@order.json", "No such file"]),
    "no pair": (["run", "shop:greet", "-i", '["a"]', "--attribute", "x"], ["KEY=VALUE", "'x'"]),
    "pair twice": (["run", "shop:greet", "-i", '["a"]', "--attribute", "x=1", "--attribute", "x=2"], ["given twice"]),
    "ours": (["run", "shop:greet", "-i", '["a"]', "--attribute", "$app=1"], ["'$app'", "reserved"]),
    "long value": (["run", "shop:greet", "-i", '["a"]', "--attribute", "x=" + "y" * 257], ["'x'", "256 bytes"]),
    "no key": (["run", "shop:greet", "-i", '["a"]', "--idempotency-key", ""], ["--idempotency-key", "1 to 256"]),
    "mode": (["run", "shop:greet", "-i", '["a"]', "--synchronous", "OFF"], ["'NORMAL', 'FULL'"]),
    "concurrency": (["worker", "--app", "shop", "--concurrency", "0"], ["--concurrency", "1<=x<=10000"]),
    "no database to list": (["inspect", "runs"], ["no Everstep database at"]),
    "no database to show": (["inspect", "steps", "wrun_01JD3V6Y8Q2M4ZK7T9B5XCNAEF"], ["no Everstep database at"]),
    "no database to resume": (["resume", "wrun_01JD3V6Y8Q2M4ZK7T9B5XCNAEF"], ["no Everstep database at"]),
    "not a database": (["run", "shop:greet", "-i", '["a"]', "--db", "shop.py"], ["shop.py", "not an SQLite database"]),
    "another's database": (["start", "shop:greet", "-i", '["a"]', "--db", "other.db"], ["another program"]),
    "a newer database": (["inspect", "runs", "--db", "newer.db"], ["newer Everstep", "version 99"]),
    "a folder as database": (["worker", "--app", "shop", "--db", "package"], ["is a folder"]),
    "file and aws": (["start", "shop:greet", "-i", '["a"]', "--db", "a.db", "--backend", "aws"],
        ["--db is of the sqlite backend, and --backend aws of aws"]),
    "file and stack": (["inspect", "runs", "--db", "a.db", "--stack", "s"],
        ["--db is of the sqlite backend, and --stack of aws"]),
    "mode and stack": (["inspect", "runs", "--synchronous", "FULL", "--stack", "s"],
        ["--synchronous is of the sqlite backend"]),
    "stack and sqlite": (["resume", "wrun_0000", "--stack", "s", "--backend", "sqlite"],
        ["--stack is of the aws backend, and --backend says sqlite"]),
    "backend": (["inspect", "runs", "--backend", "gcp"], ["'gcp' is not one of 'sqlite', 'aws'"]),
    "name of a stack": (["inspect", "runs", "--stack", "my shop"], ["--stack 'my shop' cannot be the name of a stack"]),
    "empty name of a stack": (["env", "--stack", ""], ["--stack '' cannot be the name of a stack"]),
    "no stack": (["start", "shop:greet", "-i", '["a"]', "--backend", "aws"],
        ["say which stack on AWS: --stack NAME", "'everstep env --stack NAME'"]),
    "no stack to check": (["deploy-check"], ["say which stack on AWS"]),
    "no stack to print": (["env"], ["say which stack on AWS"]),
    "no region": (["inspect", "runs", "--stack", "s"], ["no AWS region: set AWS_REGION"]),
    "run on aws": (["run", "shop:greet", "-i", '["a"]', "--stack", "s"],
        ["the deployed functions do the work: start the run with 'everstep start'"]),
    "work on aws": (["worker", "--app", "shop", "--backend", "aws"],
        ["there is no worker to start", "'everstep deploy-check'"]),
    "an app on aws": (["resume", "wrun_0000", "--app", "shop", "--stack", "s"], ["--app is for runs that go on here"]),
    "verify on aws": (["resume", "wrun_0000", "--verify", "--stack", "s"], ["--verify is for runs that go on here"]),
    "input for nothing": (["deploy-check", "--stack", "s", "--input", "[]"], ["--input is for the workflow of --run"]),
    "round trip of nothing": (["deploy-check", "--stack", "s", "--run", "shop:gret"], ["did you mean 'greet'"]),
    "cost of nothing": (["cost", "shop:gret"], ["did you mean 'greet'"]),
    "memory": (["cost", "shop:greet", "-i", '["a"]', "--memory", "64"], ["--memory", "128<=x<=10240"]),
    "no folder": (["init"], ["missing argument 'DIR'"]),
    "full folder": (["init", "package"], ["package is not empty (it has __init__.py)", "nothing is overwritten"]),
    "a file for a folder": (["init", "shop.py"], ["shop.py is a file"]),
    "below a file": (["init", "shop.py/new"], ["shop.py/new cannot be made"]),
    "name of a project": (["init", "new", "--name", "7 shops"], ["--name '7 shops' cannot be the name of a stack"]),
    "folder without a name": (["init", "77"], ["'77' cannot name a stack on AWS: give --name NAME"]),
    "unknown inspection": (["inspect", "stesp"], ["no such command 'stesp'"]),
    "unknown status": (["inspect", "runs", "--status", "done"], ["'done' is not one of", "'parked'"]),
}  # fmt: skip


@pytest.fixture
def place(tmp_path, here, monkeypatch):
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    for name, source in MODULES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    for name, settings in (("other.db", "PRAGMA user_version = 1"), ("newer.db", "PRAGMA application_id = 0x45565354")):
        connection = sqlite3.connect(tmp_path / name)
        connection.execute(settings)
        connection.execute("CREATE TABLE theirs (x)")
        if name == "newer.db":
            connection.execute("PRAGMA user_version = 99")
        connection.commit()
        connection.close()
    return tmp_path


def contents(path):
    return {each.relative_to(path): each.read_bytes() for each in path.rglob("*") if each.is_file()}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_clear_line_and_nothing_is_written(place, here, case):
    words, expected = CASES[case]
    before = contents(place)
    done = here(*words)
    assert done.code == 2, done.err
    assert done.out == ""
    assert done.line.startswith("everstep: error: ")
    for part in expected:
        assert part in done.line
    assert contents(place) == before


@pytest.mark.parametrize(
    ("target", "shown", "line"),
    [
        ("ill:flow", ["in inner", "1 / 0", "ZeroDivisionError"], "cannot import 'ill': ZeroDivisionError"),
        ("ill.py:flow", ["in inner"], "(ill.py:2)"),
        ("lacks:flow", ["import no_such_library"], "No module named 'no_such_library' (lacks.py:1)"),
        ("syntax:flow", ["def (:"], "SyntaxError: invalid syntax (syntax.py:1)"),
        ("inside.py:flow", ["from . import shop"], "package.module:workflow"),
    ],
)
def test_an_error_of_the_user_s_module_is_shown_where_it_was_raised(place, here, target, shown, line):
    done = here("run", target)
    assert done.code == 2
    *above, last = done.err.splitlines()
    assert last.startswith("everstep: error: cannot import")
    assert line in last
    for part in shown:
        assert part in "\n".join(above)
    assert "everstep/cli" not in done.err
    assert "importlib" not in done.err
    assert not (place / ".everstep").exists()


def test_bad_options_of_reading_commands(place, here):
    assert here("run", "shop:greet", "-q", "-i", '["a"]').code == 0
    for words, part in (
        (["runs", "--since", "yesterday"], "1h"),
        (["runs", "--cursor", "yes"], "cursor"),
        (["runs", "--limit", "0"], "1<=x<=1000"),
        (["run", "wrun_01JD3V6Y8Q2M4ZK7T9B5XCNAEF"], "there is no run wrun_01JD3V6Y8Q2M4ZK7T9B5XCNAEF in"),
        (["run", "nonsense!"], "is not a run id"),
        (["run", "wrun_7ZZZZ"], "no run id in"),
    ):
        done = here("inspect", *words)
        assert done.code == 2
        assert part in done.line


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"EVERSTEP_SYNCHRONOUS": "OFF"}, "EVERSTEP_SYNCHRONOUS='OFF': Input should be 'NORMAL' or 'FULL'"),
        ({"EVERSTEP_BACKEND": "gcp"}, "EVERSTEP_BACKEND='gcp': Input should be 'sqlite' or 'aws'"),
        ({"EVERSTEP_BACKEND": "aws"}, "say which stack on AWS: --stack NAME"),
        ({"EVERSTEP_BACKEND": "aws", "EVERSTEP_TABLE": "t"}, "no AWS region: set AWS_REGION"),
        (
            {"EVERSTEP_BACKEND": "aws", "EVERSTEP_TABLE": "t", "AWS_REGION": "eu-central-1"},
            "EVERSTEP_BACKEND=aws needs EVERSTEP_QUEUE_URL, EVERSTEP_QUEUE_ARN, EVERSTEP_BUCKET",
        ),
    ],
)
def test_a_setting_of_the_environment_is_named(place, here, monkeypatch, variables, said):
    before = contents(place)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = here("start", "shop:greet", "-i", '["a"]')
    assert done.code == 2
    assert said in done.line
    assert contents(place) == before


def test_options_and_the_backend_of_the_environment(place, here, monkeypatch):
    """An option that names a store wins over the variable; one that only fits the other backend does not."""
    monkeypatch.setenv("EVERSTEP_BACKEND", "aws")
    words = ("run", "shop:greet", "-q", "-i", '["a"]')
    assert "or give --backend sqlite, for EVERSTEP_BACKEND says aws" in here(*words).line
    done = here("start", *words[1:2], *words[3:], "--synchronous", "FULL")
    assert done.code == 2
    assert "--synchronous is of the sqlite backend, and EVERSTEP_BACKEND says aws: add --backend sqlite" in done.line
    assert not (place / ".everstep").exists()
    assert here(*words, "--backend", "sqlite", "--synchronous", "FULL").out == '["Hello a"]\n'
    assert here(*words, "--db", "other-runs.db").out == '["Hello a"]\n'
    assert (place / "other-runs.db").exists()


@pytest.mark.parametrize("content", ["stack_name = ", "[default", "\xff"])
def test_a_samconfig_that_cannot_be_read(place, here, content):
    (place / "samconfig.toml").write_text(content, encoding="latin-1")
    done = here("inspect", "runs", "--backend", "aws")
    assert done.code == 2
    assert "samconfig.toml cannot be read" in done.line


def test_a_resumed_run_needs_an_app_that_has_its_workflow(place, here):
    run_id = here("start", "shop:greet", "-i", '["a"]').out.strip()
    done = here("resume", run_id, "--app", "two:a")
    assert done.code == 2
    assert "no workflow 'greet'" in done.line
    assert "it has flow" in done.line
    (place / "shop.py").unlink()
    import sys

    del sys.modules["shop"]
    done = here("resume", run_id)
    assert "no module 'shop'" in done.line
    assert "--app" in done.line


def test_an_error_of_our_own_is_short_and_says_how_to_see_more(place, here, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("everstep.cli.inspect.open_store", fail)
    done = here("inspect", "runs")
    assert done.code == 70
    assert "unexpected RuntimeError: boom" in done.line
    assert "EVERSTEP_DEBUG=1" in done.line
    debug = here("--debug", "inspect", "runs")
    assert "Traceback (most recent call last)" in debug.err
    assert debug.code == 70


def test_the_app_of_these_tests_is_fine(here):
    assert "wf = Workflows()" in APP
    assert here("run", "shop:greet", "-q", "-i", '["a"]').out == '["Hello a"]\n'
