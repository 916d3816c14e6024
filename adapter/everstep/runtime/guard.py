"""Notice I/O in a workflow body where Python tells of it: its audit events (https://peps.python.org/pep-0578/).

The hook is installed once per process, when the first engine is made, and costs a few nanoseconds per audited
call outside a body. Reading code (``import``, tracebacks, what is installed) is allowed, and so are time zones, logging
and the debugger. The wall clock and the random module raise no audit events: those are found when a workflow is
declared (`core.lint`) and by `verify`.
"""

from __future__ import annotations

import asyncio
import sys
from types import FrameType
from typing import Any, Final

from everstep.core.loop import WorkflowLoop

_REFUSED: Final = {
    "_thread.start_joinable_thread": "threading.Thread.start",
    "_thread.start_new_thread": "threading.Thread.start",
    "builtins.input": "input",
    "open": "open",
    "os.fork": "os.fork",
    "os.forkpty": "os.forkpty",
    "os.listdir": "os.listdir",
    "os.mkdir": "os.mkdir",
    "os.posix_spawn": "os.posix_spawn",
    "os.putenv": "os.environ[…] = …",
    "os.remove": "os.remove",
    "os.rename": "os.rename",
    "os.rmdir": "os.rmdir",
    "os.scandir": "os.scandir",
    "os.spawn": "os.spawn",
    "os.startfile": "os.startfile",
    "os.system": "os.system",
    "os.unsetenv": "del os.environ[…]",
    "shutil.copyfile": "shutil.copyfile",
    "shutil.move": "shutil.move",
    "shutil.rmtree": "shutil.rmtree",
    "socket.bind": "socket.bind",
    "socket.connect": "socket.connect",
    "socket.getaddrinfo": "socket.getaddrinfo",
    "socket.gethostbyname": "socket.gethostbyname",
    "socket.sendmsg": "socket.sendmsg",
    "socket.sendto": "socket.sendto",
    "sqlite3.connect": "sqlite3.connect",
    "subprocess.Popen": "subprocess.Popen",
    "tempfile.mkdtemp": "tempfile.mkdtemp",
    "tempfile.mkstemp": "tempfile.mkstemp",
    "time.sleep": "time.sleep",
    "urllib.Request": "urllib.request",
}
_CODE: Final = (".py", ".pyc", ".pyi", ".so", ".pyd", ".zip", ".cfg", ".pth")
_ZONES: Final = ("zoneinfo", "tzdata")
_ALLOWED: Final = frozenset({"bdb", "importlib", "logging", "pdb"})
"""Packages that may do I/O in a body: importing and asking what is installed, writing logs, debugging."""
_running_loop = asyncio._get_running_loop
_installed = False


def install() -> None:
    """Add the audit hook to this process. Calling it again does nothing."""
    global _installed
    if not _installed:
        _installed = True
        sys.addaudithook(_hook)


def _is_data(path: object) -> bool:
    """Whether opening the path is more than reading code; ``<…>`` is how tracebacks name code without a file."""
    if not isinstance(path, (str, bytes)):
        return False
    text = path.decode("utf-8", "replace") if isinstance(path, bytes) else path
    if any(zones in text.split("/") for zones in _ZONES):
        return False
    return not text.endswith(_CODE) and not (text.startswith("<") and text.endswith(">"))


def _allowed() -> bool:
    """Whether the body does this by way of something that may: what a module does at import is not the body's I/O."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code is not _OUTERMOST:
        if frame.f_globals.get("__name__", "").partition(".")[0] in _ALLOWED:
            return True
        frame = frame.f_back
    return False


_OUTERMOST: Final = WorkflowLoop.drain.__code__
"""The code below which the stack is ours and no longer the body's."""


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event not in _REFUSED:
        return
    loop = _running_loop()
    if type(loop) is not WorkflowLoop or loop.discarded or loop.trusted:
        return
    if event == "open" and not _is_data(args[0]):
        return
    if _allowed():
        return
    shown = f"({args[0]!r})" if args and isinstance(args[0], (str, bytes, float, int)) else "()"
    advice = (
        "use 'await everstep.sleep(…)'" if event == "time.sleep" else "a replay cannot repeat it: move it into a step"
    )
    loop.refuse(_REFUSED[event] + shown, advice)
