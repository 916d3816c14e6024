"""Make the virtual environment and install this project into it, unless that is already done.

    python3 scripts/venv.py .venv          what a user installs
    python3 scripts/venv.py .venv dev      and the tools of development

The environment is used again as long as `pyproject.toml` and the interpreter are the same; both are recorded in a
stamp file inside. Needs nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = "everstep-stamp"
OLDEST = (3, 11)


def main(arguments: list[str]) -> int:
    if sys.version_info < OLDEST:
        print(f"Everstep needs Python 3.11 or later; {sys.executable} is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    target = (ROOT / arguments[0]).absolute()
    extras = arguments[1:]
    wanted = fingerprint()
    found = read_stamp(target)
    usable = (target / "bin" / "python").exists() and found[:1] == [wanted]
    if usable and set(extras) <= set(found[1:]):
        return 0
    if not usable:
        make(target)
    install(target, extras)
    (target / STAMP).write_text("\n".join([wanted, *extras]) + "\n")
    return 0


def fingerprint() -> str:
    """What the environment depends on: the project's metadata, the interpreter, and where the project lies."""
    parts = [(ROOT / "pyproject.toml").read_bytes(), sys.version.encode(), sys.base_prefix.encode(), str(ROOT).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def read_stamp(target: Path) -> list[str]:
    try:
        return (target / STAMP).read_text().split()
    except FileNotFoundError:
        return []


def make(target: Path) -> None:
    print(f"making {target.name} with Python {sys.version.split()[0]}", flush=True)
    # The interpreter itself, not the one of an environment that is active, which may be the one to replace.
    python = getattr(sys, "_base_executable", None) or sys.executable
    run([python, "-m", "venv", "--clear", str(target)])
    (target / ".gitignore").write_text("*\n")


def install(target: Path, extras: list[str]) -> None:
    what = f".[{','.join(extras)}]" if extras else "."
    print(f"installing {what}", flush=True)
    # Twice quiet: errors only.
    pip = [str(target / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q", "-q"]
    run([*pip, "--editable", what])


def run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
