"""`everstep init`: the project it writes, and that a wheel brings all that one is made from."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from everstep.cli import init as command
from everstep.cli.entry import cli
from everstep.serverless.apps import load_app
from infra.template import load_template

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    ".gitignore",
    "Makefile",
    "README.md",
    "app.py",
    "handlers/api.py",
    "handlers/deadletter.py",
    "handlers/worker.py",
    "infra/Makefile",
    "infra/artifact.py",
    "requirements-dev.txt",
    "requirements.txt",
    "samconfig.toml",
    "template.yaml",
    "tests/conftest.py",
    "tests/test_app.py",
}


def files_of(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def project(here, tmp_path):
    assert here("init", "shop").code == 0
    return tmp_path / "shop"


# --- what is written -------------------------------------------------------------------------------


def test_the_files_and_what_is_said(here, tmp_path):
    done = here("init", "my shop")
    assert (done.code, done.out) == (0, "my shop\n")
    assert files_of(tmp_path / "my shop") == FILES
    assert done.err.splitlines()[0].endswith(f"my shop has {len(FILES)} files: your workflows go into app.py. Next:")
    assert [line.strip() for line in done.err.splitlines()[1:]] == [
        "cd 'my shop'",
        "make run",
        "make test",
        "sam build && sam deploy --guided",
    ]


def test_what_is_deployed_is_what_this_repository_deploys(project):
    for path in ("handlers/api.py", "handlers/deadletter.py", "handlers/worker.py", "infra/Makefile"):
        assert (project / path).read_bytes() == (ROOT / path).read_bytes()
    ours, theirs = load_template(), load_template(project / "template.yaml")
    assert {**theirs.sections, "Description": ""} == {**ours.sections, "Description": ""}


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["shop"], "shop"),
        (["deep/er/My_Shop 2"], "My-Shop-2"),
        (["77", "--name", "seventy-seven"], "seventy-seven"),
        (["shop", "--name", "Other"], "Other"),
    ],
)
def test_the_name_is_the_one_of_the_stack(here, tmp_path, words, name):
    assert here("init", *words).code == 0
    folder = tmp_path / words[0]
    settings = tomllib.loads((folder / "samconfig.toml").read_text())["default"]
    assert settings["global"]["parameters"]["stack_name"] == name
    assert settings["deploy"]["parameters"]["parameter_overrides"] == 'AppModule="app"'
    assert f"Description: {name}, durable workflows with Everstep\n" in (folder / "template.yaml").read_text()
    assert (folder / "README.md").read_text().startswith(f"# {name}\n")
    assert (folder / "app.py").read_text().startswith(f'"""The workflows of {name}.')
    for path in files_of(folder):
        assert "@NAME@" not in (folder / path).read_text()
        assert "@VERSION@" not in (folder / path).read_text()
    assert f"everstep[aws,web]>={version('everstep')}\n" in (folder / "requirements.txt").read_text()


def test_nothing_of_this_repository_is_left_in_it(project):
    for path in files_of(project):
        text = (project / path).read_text()
        assert "examples" not in text, path


def test_a_folder_that_is_there_must_be_empty(here, tmp_path):
    (tmp_path / "empty").mkdir()
    assert here("init", "empty").code == 0
    before = {path: (tmp_path / "empty" / path).read_bytes() for path in files_of(tmp_path / "empty")}
    done = here("init", "empty", "--name", "other")
    assert done.code == 2
    assert "empty is not empty (it has .gitignore, Makefile, README.md and others)" in done.line
    assert {path: (tmp_path / "empty" / path).read_bytes() for path in files_of(tmp_path / "empty")} == before


def test_a_folder_that_is_a_repository_already(here, tmp_path):
    (tmp_path / "cloned" / ".git").mkdir(parents=True)
    (tmp_path / "cloned" / ".git" / "HEAD").touch()
    assert here("init", "cloned").code == 0
    assert files_of(tmp_path / "cloned") == FILES | {".git/HEAD"}


# --- whether it works ------------------------------------------------------------------------------


def test_its_own_tests_pass(project):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"],
        cwd=project,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert files_of(project) == FILES


def test_the_functions_find_its_app(project):
    app = load_app(str(project / "app.py"))
    assert (sorted(app.workflows), sorted(app.steps)) == (["hello"], ["greet", "part"])
    parameters = load_template(project / "template.yaml").parameters
    assert parameters["AppModule"]["Default"] == "app"


def test_make_calls_the_command_line_with_what_it_is_given(project, here):
    """The recipes, with programs that only print their arguments."""
    for name in ("everstep", "python"):
        program = project / "tools" / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text('#!/bin/sh\nprintf "%s|" "${0##*/}" "$@"\n')
        program.chmod(0o755)
    (project / "tools" / "ready").touch()

    def make(*words):
        done = subprocess.run(
            ["make", "--no-print-directory", "VENV=tools", *words],
            cwd=project,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split("|")[:-1]

    hello = ["--input", '{"name": "O\'Hara $x"}']
    name = "NAME=O'Hara $$x"
    assert make("run", name) == ["everstep", "run", "app:hello", *hello]
    assert make("test", "ARGS=-k hello") == ["python", "-m", "pytest", "-k", "hello"]
    assert make("dev") == ["everstep", "dev", "--app", "app"]
    assert make("worker") == ["everstep", "worker", "--app", "app"]
    assert make("start", name) == ["everstep", "start", "app:hello", *hello, "--backend", "aws", "--wait"]
    assert make("check", name) == ["everstep", "deploy-check", "--run", "app:hello", *hello]
    assert make("check", name, "STACK=b") == ["everstep", "deploy-check", "--stack", "b", "--run", "app:hello", *hello]
    for words in (make("run"), make("dev"), make("worker"), make("start", "STACK=b"), make("check", "STACK=b")):
        chosen = cli.get_command(click.Context(cli), words[1])
        assert chosen is not None
        chosen.make_context(words[1], words[2:]).close()  # these options exist


# --- the wheel -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_wheel_holds_the_package_and_what_a_project_is_made_from(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = ROOT / "adapter" / "everstep"
    sources = {
        f"everstep/{path.relative_to(package)}"
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    shared = {f"everstep/project/{path}" for path in command.SHARED}
    assert names == sources | shared
    assert {f"everstep/project/{path}" for path in command.FILES.values()} <= sources
    assert "everstep/py.typed" in sources
    unwanted = [name for name in names if {"tests", "docs", "benchmarks", "examples"} & set(Path(name).parts)]
    assert unwanted == []


def test_a_project_written_from_the_wheel_is_the_same(wheel, project, tmp_path):
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    done = subprocess.run(
        [sys.executable, "-m", "everstep", "init", "again/shop"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    again = tmp_path / "again" / "shop"
    assert files_of(again) == FILES
    assert [path for path in FILES if (again / path).read_bytes() != (project / path).read_bytes()] == []
    for path in command.SHARED:
        (installed / "everstep" / "project" / path).unlink()
    broken = subprocess.run(
        [sys.executable, "-m", "everstep", "init", "third"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert broken.returncode == 2
    assert "this installation of Everstep lacks template.yaml" in broken.stderr
    assert not (tmp_path / "third").exists()
