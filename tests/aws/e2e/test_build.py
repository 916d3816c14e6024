"""What a new project can do before anything is deployed."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final

import pytest

from infra.template import load_template
from tests.aws.e2e.conftest import phase
from tests.aws.e2e.project import Person, run
from tests.aws.servers import environments

FUNCTIONS: Final = {"WorkerFunction": "worker", "ApiFunction": "api", "DeadLetterFunction": "deadletter"}
AARCH64: Final = b"\xb7\x00"  # e_machine of an ELF file, little endian


def test_the_commands_of_the_project(owner: Person) -> None:
    listed = owner.make().out
    assert re.findall(r"^(\w+) ", listed, flags=re.MULTILINE) == [
        *("help", "test", "run", "dev", "worker", "build", "deploy", "check", "start", "clean")
    ]


def test_the_tests_of_the_project(owner: Person) -> None:
    with phase("make test"):
        assert "2 passed" in owner.make("test").out


def test_the_workflow_of_the_project_on_this_machine(owner: Person) -> None:
    with phase("make run"):
        done = owner.make("run", "NAME=Grace")
    assert done.out == '"Hello Grace! Good bye Grace!"\n'
    assert "completed" in done.err
    assert (owner.project / ".everstep" / "runs.db").is_file()


def test_the_template_is_valid(owner: Person) -> None:
    with phase("sam validate --lint"):
        assert "is a valid SAM Template" in owner.sam("validate", "--lint").out


def test_the_defaults_can_be_built_here(owner: Person, tmp_path: Path) -> None:
    """Whatever this machine and its Python are."""
    defaults = load_template(owner.project / "template.yaml").defaults()
    assert (defaults["Runtime"], defaults["Architecture"]) == ("python3.13", "arm64")
    overrides = [f"{name}={defaults[name]}" for name in ("Runtime", "Architecture")]
    with phase("sam build, python3.13 on arm64"):
        owner.sam("build", "--build-dir", str(tmp_path / "build"), "--parameter-overrides", *overrides)
    for function in FUNCTIONS:
        libraries = list((tmp_path / "build" / function).rglob("*.so"))
        assert libraries
        for library in libraries:
            assert library.read_bytes()[18:20] == AARCH64, library
            assert "cpython-313" in library.name or "abi3" in library.name


@pytest.mark.parametrize(("function", "handler"), FUNCTIONS.items())
def test_an_artifact_has_all_that_it_imports(built: Person, tmp_path: Path, function: str, handler: str) -> None:
    """But the AWS SDK, which Lambda has. The emulator's functions see the emulator's packages too: it shows nothing."""
    (installed,) = environments.ministack().glob("lib/python3.*/site-packages")
    for name in ("boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six.py", "urllib3"):
        (tmp_path / name).symlink_to(installed / name)
    code = f"import sys; sys.path[:0] = ['.', {str(tmp_path)!r}]; import handlers.{handler}"
    folder = built.project / ".aws-sam" / "build" / function
    done = run((sys.executable, "-I", "-S", "-c", code), cwd=folder, environment=os.environ)
    assert done.code == 0, done
