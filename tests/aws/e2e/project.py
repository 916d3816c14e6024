"""A user's project: what `everstep init` of this repository's wheel writes, and the workflows of this test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

from tests.aws.e2e.environments import ROOT

APP: Final = Path(__file__).with_name("app") / "e2e_app.py"
_SECONDS: Final = 200


def make_project(folder: Path) -> Path:
    """Make it in a folder of this folder; return that."""
    wheel = _wheel(folder)
    installed = folder / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    project = folder / "project"
    # From the wheel, not the checkout: it must bring all that a project needs.
    do([sys.executable, "-m", "everstep", "init", str(project)], cwd=folder, PYTHONPATH=str(installed))
    shutil.copy2(APP, project)
    shutil.copy2(wheel, project)
    requirements = project / "requirements.txt"
    text, replaced = re.subn(
        r"^everstep(\[[\w,]+\]).*$", rf"{wheel.name}\1", requirements.read_text(), flags=re.MULTILINE
    )
    assert replaced == 1, text
    requirements.write_text(text)
    return project


def _wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--quiet", "--no-deps"]
    do([*command, "--wheel-dir", str(folder), str(ROOT)], cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def do(command: list[str], *, cwd: Path, **environment: str) -> str:
    """Run a command to its end; what it wrote."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        written = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout
        raise AssertionError(f"{' '.join(command)} did not end within {_SECONDS} s:\n{written}") from None
    if done.returncode:
        raise AssertionError(f"{' '.join(command)} failed ({done.returncode}):\n{done.stdout}")
    return done.stdout
