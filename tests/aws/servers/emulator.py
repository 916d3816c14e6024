"""MiniStack (https://github.com/ministackorg/ministack), started by `launcher.py`, which closes its gaps."""

from __future__ import annotations

import http.client
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.aws.servers import environments
from tests.aws.servers.processes import free_port, running

REGION: Final = "eu-central-1"
CREDENTIALS: Final = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
"""Of the account's root, for whom MiniStack takes this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulator:
    """A running MiniStack."""

    port: int
    log: Path

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def emulator(*, access_control: bool) -> Iterator[Emulator]:
    """A fresh MiniStack, with a folder of its own that is deleted with it.

    Args:
        access_control: enforce IAM policies.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="everstep-ministack-", ignore_cleanup_errors=True) as name:
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
        }
        python = environments.ministack() / "bin" / "python"
        command = [str(python), "-P", str(Path(__file__).with_name("launcher.py"))]
        with running(command, environment=environment, folder=folder, port=port, path="/_ministack/health") as log:
            yield Emulator(port=port, log=log)


def reset_ministack(endpoint: str) -> None:
    """Forget everything (4 ms)."""
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=10)
    connection.request("POST", "/_ministack/reset", body=b"")
    assert connection.getresponse().status == 200
    connection.close()
