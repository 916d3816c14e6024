"""Two virtual environments, made when they are missing: MiniStack pins botocore, and SAM CLI pins much else.

They lie in ``.venv-e2e`` in the checkout (``make clean`` removes it) and are made for the Python that runs the tests:
MiniStack runs functions on its own interpreter. Packages come from wherever pip is configured to take them.
"""

from __future__ import annotations

import fcntl
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]
HOME: Final = ROOT / ".venv-e2e"
MINISTACK: Final = ("ministack==1.5.33", "aws-sam-translator==1.115.0", "cryptography")
SAM: Final = ("aws-sam-cli==1.170.0",)
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
ARCHITECTURE: Final = {"x86_64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}[platform.machine()]
_SECONDS: Final = 400


def ministack_environment() -> Path:
    return _made(*MINISTACK)


def sam_environment() -> Path:
    return _made(*SAM)


def _made(*packages: str) -> Path:
    """The environment's folder. One process makes it while others wait; one left half made is made anew."""
    home = HOME / f"{packages[0].replace('==', '-')}-py{PYTHON}"
    HOME.mkdir(exist_ok=True)
    (HOME / ".gitignore").write_text("*\n")
    with (HOME / f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = home / "everstep-stamp"
        wanted = "\n".join((sys.version, *packages))
        if not stamp.is_file() or stamp.read_text() != wanted:
            shutil.rmtree(home, ignore_errors=True)
            _do(sys.executable, "-m", "venv", str(home))
            pip = (str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "--quiet")
            _do(*pip, "install", *packages)
            stamp.write_text(wanted)
    return home


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed ({done.returncode}):\n{done.stdout}\n{done.stderr}")
