"""Run `everstep` as a user does: as a process, in a folder with an app in it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parent.parent.parent / "adapter"
PATIENCE = 20.0

APP = '''
import asyncio
import os
import sys
from everstep import FatalError, RetryPolicy, Workflows, sleep

wf = Workflows()


@wf.workflow
async def greet(name: str, times: int = 1) -> list[str]:
    return [await salute(name) for _ in range(times)]


@wf.step
async def salute(name: str) -> str:
    print("a step prints")
    return f"Hello {name}"


@wf.workflow
async def fails():
    await broken()


@wf.step(max_retries=1, retry=RetryPolicy(first_delay="1ms"))
def broken():
    try:
        {}["key"]
    except KeyError as error:
        raise ValueError("no such customer") from error


@wf.workflow
async def reads():
    open("/etc/hosts")


@wf.workflow
async def waits(gate: str):
    """Waits until somebody opens the named pipe for writing and closes it."""
    first = await salute("first")
    await passed(gate)
    return [first, await salute("last")]


@wf.step
def passed(gate: str):
    with open("trace", "a") as trace:
        print(os.getpid(), file=trace)
    open(gate).read()


@wf.workflow
async def seeds() -> list:
    return [os.environ.get("PYTHONHASHSEED"), list({"a", "b", "c", "d", "e"})]


@wf.workflow
async def naps(seconds: float):
    await sleep(seconds)
    return "rested"
'''


@dataclass
class Done:
    """What a finished command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def line(self) -> str:
        """All that was said; it must be one line."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


@dataclass
class Started:
    """A command that runs. Its output is read as it comes, so that a test can wait for a line."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)
    _readers: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        for stream in (self.process.stdout, self.process.stderr):
            reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
            reader.start()
            self._readers.append(reader)

    def _read(self, stream: Any) -> None:
        for line in stream:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first line, past or to come, that has it."""

        def found() -> re.Match[str] | None:
            return next((hit for line in self.lines if (hit := re.search(pattern, line))), None)

        with self._news:
            ended = lambda: not any(reader.is_alive() for reader in self._readers)  # noqa: E731
            self._news.wait_for(lambda: found() or ended(), PATIENCE)
            hit = found()
        assert hit is not None, f"no line has {pattern!r}:\n" + "\n".join(self.lines)
        return hit

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        code = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code


@dataclass
class Folder:
    """A folder with ``shop.py`` in it, and the commands started there."""

    path: Path
    running: list[Started] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.path / "shop.py").write_text(APP)

    @property
    def db(self) -> Path:
        return self.path / ".everstep" / "runs.db"

    @property
    def environment(self) -> Mapping[str, str]:
        found = {name: value for name, value in os.environ.items() if name not in ("PYTHONHASHSEED", "NO_COLOR")}
        return {**found, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(self, *words: str, stdin: str = "") -> Done:
        """Run a command to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "everstep", *words],
            cwd=self.path,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str) -> Started:
        """Start a command and leave it running until the test ends."""
        started = Started(
            subprocess.Popen(
                [sys.executable, "-m", "everstep", *words],
                cwd=self.path,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        self.running.append(started)
        return started

    def gate(self, name: str = "gate") -> Path:
        """A named pipe for the workflow `waits`."""
        path = self.path / name
        os.mkfifo(path)
        return path

    def close(self) -> None:
        for started in self.running:
            started.process.kill()
            started.wait()
            for stream in (started.process.stdout, started.process.stderr):
                if stream is not None:
                    stream.close()


def open_gate(gate: Path) -> None:
    """Let one step pass. Waits until it is there."""
    with gate.open("w"):
        pass
