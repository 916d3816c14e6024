"""MiniStack as a process: on loopback, with access control, nothing of this machine's environment, and a folder of its
own that is deleted with it."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.aws.e2e.environments import ministack_environment

REGION: Final = "eu-central-1"
CREDENTIALS: Final = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
"""Of the account's root, for whom MiniStack takes this name. The functions run under their roles."""
_START_SECONDS: Final = 60
_STOP_SECONDS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulator:
    """A running MiniStack."""

    port: int
    log: Path

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def emulator(*, access_control: bool = True, functions_see: Mapping[str, str] | None = None) -> Iterator[Emulator]:
    """A fresh MiniStack.

    Args:
        access_control: enforce IAM policies.
        functions_see: more variables, which functions inherit.
    """
    python = ministack_environment() / "bin" / "python"
    launcher = Path(__file__).with_name("launcher.py")
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="everstep-e2e-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        made = {each: folder / each for each in ("tmp", "state", "home")}
        for each in made.values():
            each.mkdir()
        # Functions inherit all of it: nothing that they could mistake for theirs.
        environment = {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "HOME": str(made["home"]),
            "TMPDIR": str(made["tmp"]),
            "STATE_DIR": str(made["state"]),
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
            "MINISTACK_REGION": REGION,
            "AUTH": "true" if access_control else "false",
            **(functions_see or {}),
        }
        log = folder / "log.txt"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(python), str(launcher)],
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait_for(process, port, log)
            yield Emulator(port=port, log=log)
        finally:
            _stop(process)


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"MiniStack did not start:\n{log.read_text(errors='replace')[-4000:]}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/_ministack/health")
            connection.getresponse().read()
            connection.close()
            return
        except OSError:
            time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, then end what is left of its session: the functions' processes outlive it."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(_STOP_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
