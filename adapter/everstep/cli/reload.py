"""Start a process anew when source files change.

The process that watches holds the socket and the signals; the one that serves is its child. It gets the socket, and a
pipe by which it sees that its parent has ended.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from everstep.cli.console import Console
from everstep.cli.exits import ExitCode
from everstep.cli.signals import staged

LOOK_SECONDS: Final = 0.3
PATIENCE_SECONDS: Final = 3.0
"""How long running steps may take when the code has changed, before they are cut off; they run again then."""
_SKIPPED: Final = frozenset({"__pycache__", "node_modules", "site-packages"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """What a child has from its parent, by number: the socket that listens, and the pipe that ends with the parent."""

    server: int
    pipe: int

    @classmethod
    def read(cls, text: str) -> Inherited:
        server, _, pipe = text.partition(",")
        return cls(server=int(server), pipe=int(pipe))

    def __str__(self) -> str:
        return f"{self.server},{self.pipe}"

    def watch_parent(self) -> None:
        """Stop this process when the parent has ended, however it did."""

        def wait() -> None:
            os.read(self.pipe, 1)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=wait, name="everstep-parent", daemon=True).start()


def supervise(app: str, server: socket.socket, console: Console) -> ExitCode:
    """Run this command in a child, anew whenever a source file changes, until a signal comes; the child's exit code.

    A first child that ends by itself ends this too: it was given something wrong. A later one waits to be mended.
    """
    folders = _folders(app)
    pipe, kept = os.pipe()  # we keep the end that nobody writes to: it is closed when we end
    handles = Inherited(server=server.fileno(), pipe=pipe)
    child: list[subprocess.Popen[bytes]] = []

    def stop() -> None:
        for each in child:
            each.send_signal(signal.SIGTERM)

    try:
        with staged([stop, stop]) as signals:
            seen = _sources(folders)
            child.append(_start(handles))
            changes, told = 0, False
            while True:
                time.sleep(LOOK_SECONDS)
                ended = child[0].poll()
                if ended is not None and (changes == 0 or signals.number is not None):
                    return _code(ended)
                if ended is not None and not told:
                    told = True
                    console.say("it has ended; it is started anew when a source file changes")
                now = _sources(folders)
                if now == seen or signals.number is not None:
                    continue
                console.say(f"{_changed(seen, now)} changed: starting anew")
                _end(child[0])
                if signals.number is None:
                    child[0] = _start(handles)
                    seen, told, changes = now, False, changes + 1
    finally:
        os.close(pipe)
        os.close(kept)


def _start(handles: Inherited) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *sys.orig_argv[1:], "--inherited", str(handles)],
        pass_fds=(handles.server, handles.pipe),
        start_new_session=True,  # Ctrl-C reaches the parent only, which passes it on
        # Without bytecode: that of a file that changes twice in a second would be stale.
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask, insist, and end it."""
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(number)
        try:
            process.wait(PATIENCE_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue


def _code(ended: int) -> ExitCode:
    try:
        return ExitCode(ended)
    except ValueError:  # it was killed
        return ExitCode.TERMINATED


# --- source files ----------------------------------------------------------------------------------


def _folders(app: str) -> list[Path]:
    """This folder, and the one that holds the app's file."""
    place = Path(app.rpartition(":")[0] or app) if ".py" in app else Path()
    here, there = Path.cwd(), place.resolve().parent if place.suffix == ".py" else Path.cwd()
    return [here] if there.is_relative_to(here) else [here, there]


def _sources(folders: list[Path]) -> Mapping[str, int]:
    """The .py files in these folders, and when each was changed."""
    return {path: changed for folder in folders for path, changed in _walk(str(folder))}


def _walk(folder: str) -> Iterator[tuple[str, int]]:
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError:  # it went away, or is not ours to read
        return
    if any(entry.name == "pyvenv.cfg" for entry in found):
        return
    for entry in found:
        try:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _SKIPPED and not entry.name.startswith("."):
                    yield from _walk(entry.path)
            elif entry.name.endswith(".py"):
                yield entry.path, entry.stat().st_mtime_ns
        except OSError:
            continue


def _changed(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """What differs, in words."""
    paths = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    first = Path(paths[0])
    shown = str(first.relative_to(Path.cwd())) if first.is_relative_to(Path.cwd()) else str(first)
    return shown if len(paths) == 1 else f"{shown} and {len(paths) - 1} more"
