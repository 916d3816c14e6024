"""dynalite (https://github.com/architect/dynalite): DynamoDB in memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.aws.servers import environments
from tests.aws.servers.processes import free_port, running


@contextmanager
def dynalite() -> Iterator[str]:
    """A fresh one; its endpoint."""
    port = free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--createTableMs", "0", "--deleteTableMs", "0"]
    command = [*environments.dynalite(), *options]
    with (
        tempfile.TemporaryDirectory(prefix="everstep-dynalite-") as folder,
        running(command, environment={"PATH": os.defpath}, folder=Path(folder), port=port, path="/"),
    ):
        yield f"http://127.0.0.1:{port}"
