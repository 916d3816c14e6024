"""The servers the AWS backend is tested on, installed when they are missing and ended when they are no longer needed.

MiniStack (https://github.com/ministackorg/ministack, MIT) speaks all of AWS that we use and bears many threads; it gets
a virtual environment of its own, because it pins botocore. dynalite (Apache-2.0) is DynamoDB only, and stricter in what
it accepts. Both are installed once into the user's cache folder (15 s and 5 s), each under its version, and bind to
loopback. If one cannot be had, the tests that need it fail.
"""

from __future__ import annotations

import fcntl
import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

MINISTACK: Final = "ministack==1.5.33"
DYNALITE: Final = "dynalite@4.0.0"
REGION: Final = "eu-central-1"
_INSTALL_SECONDS: Final = 300
_START_SECONDS: Final = 60


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "everstep-tests"


@contextmanager
def ministack() -> Iterator[str]:
    """A fresh MiniStack without access control; its endpoint."""
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    home = _installed(cache_folder() / f"{MINISTACK.replace('==', '-')}-{python}", _install_ministack)
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="everstep-ministack-", ignore_cleanup_errors=True) as folder:
        settings = {
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
            "MINISTACK_REGION": REGION,
            "TMPDIR": folder,
            "STATE_DIR": folder,
        }
        with _running([str(home / "bin" / "ministack")], settings, Path(folder), port, "/_ministack/health"):
            yield f"http://127.0.0.1:{port}"


def reset_ministack(endpoint: str) -> None:
    """Forget everything (4 ms)."""
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=10)
    connection.request("POST", "/_ministack/reset", body=b"")
    assert connection.getresponse().status == 200
    connection.close()


@contextmanager
def dynalite() -> Iterator[str]:
    """A fresh dynalite; its endpoint."""
    home = _installed(cache_folder() / DYNALITE.replace("@", "-"), _install_dynalite)
    port = _free_port()
    command = [_tool("node"), str(home / "node_modules" / "dynalite" / "cli.js"), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--createTableMs", "0", "--deleteTableMs", "0"]
    folder = tempfile.TemporaryDirectory(prefix="everstep-dynalite-")
    with folder, _running(command, {}, Path(folder.name), port, "/"):
        yield f"http://127.0.0.1:{port}"


# --- installing ------------------------------------------------------------------------------------


def _installed(home: Path, install: Callable[[Path], None]) -> Path:
    """The folder, filled by one process while others wait. A folder left half filled is filled anew."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with (home.parent / f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        complete = home / "complete"
        if not complete.exists():
            shutil.rmtree(home, ignore_errors=True)
            install(home)
            complete.touch()
    return home


def _install_ministack(home: Path) -> None:
    _do([sys.executable, "-m", "venv", str(home)])
    pip = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _do([*pip, "install", MINISTACK])


def _install_dynalite(home: Path) -> None:
    home.mkdir()
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--no-save", "--silent"]
    _do([_tool("npm"), "install", *options, "--prefix", str(home), DYNALITE])


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is not on this machine: install Node.js 20 or later, whose dynalite is tested on")
    return found


def _do(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed ({done.returncode}):\n{done.stdout}\n{done.stderr}")


# --- running ---------------------------------------------------------------------------------------


@contextmanager
def _running(command: Sequence[str], settings: Mapping[str, str], folder: Path, port: int, path: str) -> Iterator[None]:
    """The server, from when it answers until the end of the block. It sees little of this process's environment."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    log = folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env={**environment, **settings}, cwd=folder, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_for(process, port, path, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _wait_for(process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"{process.args!r} did not start:\n{log.read_text(errors='replace')[-4000:]}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            connection.getresponse().read()
            connection.close()
            return
        except OSError:
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
