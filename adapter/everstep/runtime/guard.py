"""Notice I/O in a workflow body where Python tells of it: its audit events (https://peps.python.org/pep-0578/).

The hook is installed once per process, when the first engine is made, and costs a few nanoseconds per audited
call outside a body. Reading code (``import``, tracebacks) is allowed. The wall clock and the random module raise no
audit events: those are found when a workflow is declared (`core.lint`) and by `verify`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

from everstep.core.loop import WorkflowLoop

_REFUSED: Final = {
    "open": "open",
    "os.fork": "os.fork",
    "os.forkpty": "os.forkpty",
    "os.mkdir": "os.mkdir",
    "os.posix_spawn": "os.posix_spawn",
    "os.putenv": "os.environ[…] = …",
    "os.remove": "os.remove",
    "os.rename": "os.rename",
    "os.rmdir": "os.rmdir",
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
_running_loop = asyncio._get_running_loop
_installed = False


def install() -> None:
    """Add the audit hook to this process. Calling it again does nothing."""
    global _installed
    if not _installed:
        _installed = True
        sys.addaudithook(_hook)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event not in _REFUSED:
        return
    loop = _running_loop()
    if type(loop) is not WorkflowLoop or loop.discarded or loop.trusted:
        return
    if event == "open" and (not isinstance(args[0], (str, bytes)) or str(args[0]).rstrip("'").endswith(_CODE)):
        return
    shown = f"({args[0]!r})" if args and isinstance(args[0], (str, bytes, float, int)) else "()"
    advice = (
        "use 'await everstep.sleep(…)'" if event == "time.sleep" else "a replay cannot repeat it: move it into a step"
    )
    loop.refuse(_REFUSED[event] + shown, advice)
