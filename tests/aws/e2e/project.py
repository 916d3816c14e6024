"""A user's project, and somebody at a terminal in its folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from botocore.credentials import Credentials

from tests.aws.servers import environments
from tests.aws.servers.emulator import REGION, Emulator

ROOT: Final = Path(__file__).resolve().parents[3]
APPS: Final = Path(__file__).with_name("app")
_SECONDS: Final = 300
_OURS: Final = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VENV", "VIRTUAL_ENV")
"""Variables that `make` and an active environment have set for these tests, and nobody for the project."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A command that has ended."""

    command: str
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)

    def __str__(self) -> str:
        return f"{self.command} ended with {self.code}\n{self.out}\n{self.err}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Types commands in the project's folder; an AWS of their own is the emulator."""

    project: Path
    emulator: Emulator
    credentials: Credentials

    def make(self, *arguments: str) -> Done:
        """One of the project's own commands. It must succeed."""
        return self._run("make", f"PYTHON={sys.executable}", *arguments)

    def sam(self, *arguments: str) -> Done:
        """It must succeed."""
        return self._run("sam", *arguments)

    def everstep(self, *arguments: str, code: int = 0, **variables: str) -> Done:
        """The project's `everstep`, which must end with this code."""
        return self._run(str(self.project / ".venv" / "bin" / "everstep"), *arguments, code=code, variables=variables)

    def shell(self, script: str) -> Done:
        """With the project's environment activated. It must succeed."""
        return self._run("sh", "-euc", f". .venv/bin/activate\n{script}")

    def _run(self, *command: str, code: int = 0, variables: Mapping[str, str] | None = None) -> Done:
        environment = {name: value for name, value in os.environ.items() if name not in _OURS}
        environment |= {
            "PATH": f"{self.project.parent / 'commands'}{os.pathsep}{environment['PATH']}",
            "AWS_ACCESS_KEY_ID": self.credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": self.credentials.secret_key,
            "AWS_ENDPOINT_URL": self.emulator.endpoint,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": "/nonexistent",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
            "AWS_EC2_METADATA_DISABLED": "true",
            "SAM_CLI_TELEMETRY": "0",
            "__SAM_CLI_APP_DIR": str(self.project.parent / "sam"),
            **(variables or {}),
        }
        done = run(command, cwd=self.project, environment=environment)
        assert done.code == code, f"not {code}: {done}"
        return done


def make_project(folder: Path, name: str, parameters: Mapping[str, str]) -> Path:
    """What `everstep init` of this repository's wheel writes, and the workflows of these tests, in a folder of this.

    Args:
        parameters: of the stack; they are written to ``samconfig.toml``, as ``sam deploy --guided`` does.
    """
    wheel = _wheel(folder)
    installed = folder / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    project = folder / "project"
    # From the wheel, not the checkout: it must bring all that a project needs.
    everstep = (sys.executable, "-m", "everstep", "init", str(project), "--name", name)
    done = run(everstep, cwd=folder, environment={**os.environ, "PYTHONPATH": str(installed)})
    assert done.code == 0, done
    for app in APPS.glob("*.py"):
        shutil.copy2(app, project)
    shutil.copy2(wheel, project)
    for requirements in ("requirements.txt", "requirements-dev.txt"):
        _edit(project / requirements, r"^everstep(\[[\w,]+\]).*$", rf"{wheel.name}\1")
    _edit(project / "samconfig.toml", r"^confirm_changeset = true$", "confirm_changeset = false")
    set_parameters(project, parameters)
    commands = folder / "commands"
    commands.mkdir()
    (commands / "sam").symlink_to(environments.sam())
    return project


def set_parameters(project: Path, parameters: Mapping[str, str]) -> None:
    """In ``samconfig.toml``, for `sam build` and `sam deploy`."""
    file = project / "samconfig.toml"
    text = re.sub(r"^parameter_overrides = .*\n", "", file.read_text(), flags=re.MULTILINE)
    line = "parameter_overrides = " + json.dumps(" ".join(f'{name}="{value}"' for name, value in parameters.items()))
    text, replaced = re.subn(
        r"^\[default\.(build|deploy)\.parameters\]$", lambda found: f"{found[0]}\n{line}", text, flags=re.MULTILINE
    )
    assert replaced == 2, text
    file.write_text(text)


def run(command: tuple[str, ...], *, cwd: Path, environment: Mapping[str, str]) -> Done:
    """Run a command to its end."""
    shown = " ".join(command)
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"{shown} did not end within {_SECONDS} s:\n{error.stdout!r}\n{error.stderr!r}") from None
    return Done(command=shown, code=done.returncode, out=done.stdout, err=done.stderr)


def _wheel(folder: Path) -> Path:
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--quiet", "--no-deps")
    done = run((*pip, "--wheel-dir", str(folder), str(ROOT)), cwd=folder, environment=os.environ)
    assert done.code == 0, done
    (wheel,) = folder.glob("*.whl")
    return wheel


def _edit(file: Path, pattern: str, replacement: str) -> None:
    text, replaced = re.subn(pattern, replacement, file.read_text(), flags=re.MULTILINE)
    assert replaced == 1, text
    file.write_text(text)
