"""microburst (https://github.com/pingedbrain/microburst): between clients and MiniStack, it lets calls fail."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.aws.servers import environments
from tests.aws.servers.processes import free_port, running


@contextmanager
def microburst(upstream: str) -> Iterator[str]:
    """A fresh one without rules, in front of that endpoint; its own endpoint, which has its control API too."""
    port = free_port()
    command = [str(environments.microburst()), "--host", "127.0.0.1", "--port", str(port), "--upstream", upstream]
    with (
        tempfile.TemporaryDirectory(prefix="everstep-microburst-") as folder,
        running(command, environment={"PATH": os.defpath}, folder=Path(folder), port=port, path="/"),
    ):
        yield f"http://127.0.0.1:{port}"
