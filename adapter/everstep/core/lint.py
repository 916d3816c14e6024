"""A look at a workflow's code when it is declared: calls that a replay cannot repeat.

It reads bytecode, so it is cheap and sees names as they are resolved, but only in the body itself (and functions
nested in it), not in what the body calls. It warns; it never refuses.
"""

from __future__ import annotations

import dis
import warnings
from collections.abc import Callable, Iterator
from types import CodeType, ModuleType
from typing import Any, Final

_STEP: Final = "move it into a step"
_BANNED: Final[dict[str, str]] = {
    "asyncio.as_completed": "use everstep.as_completed, whose order replays",
    "asyncio.create_subprocess_exec": _STEP,
    "asyncio.create_subprocess_shell": _STEP,
    "asyncio.open_connection": _STEP,
    "asyncio.run": "await the coroutine instead",
    "asyncio.to_thread": _STEP,
    "builtins.input": _STEP,
    "builtins.open": _STEP,
    "datetime.date.today": "use everstep.now().date()",
    "datetime.datetime.now": "use everstep.now()",
    "datetime.datetime.today": "use everstep.now()",
    "datetime.datetime.utcnow": "use everstep.now()",
    "os.getenv": _STEP,
    "os.getpid": _STEP,
    "os.urandom": "use everstep.random() or everstep.uuid4()",
    "os.listdir": _STEP,
    "random.choice": "use everstep.random().choice",
    "random.choices": "use everstep.random().choices",
    "random.gauss": "use everstep.random().gauss",
    "random.getrandbits": "use everstep.random().getrandbits",
    "random.randbytes": "use everstep.random().randbytes",
    "random.randrange": "use everstep.random().randrange",
    "random.randint": "use everstep.random().randint",
    "random.random": "use everstep.random().random",
    "random.sample": "use everstep.random().sample",
    "random.shuffle": "use everstep.random().shuffle",
    "random.uniform": "use everstep.random().uniform",
    "secrets.token_hex": _STEP,
    "secrets.token_urlsafe": _STEP,
    "subprocess.check_output": _STEP,
    "subprocess.run": _STEP,
    "threading.Thread": _STEP,
    "time.monotonic": "use everstep.now()",
    "time.perf_counter": "use everstep.now()",
    "time.sleep": "use 'await everstep.sleep(…)'",
    "time.time": "use everstep.now().timestamp()",
    "time.time_ns": "use everstep.time_ns()",
    "uuid.uuid1": "use everstep.uuid4()",
    "uuid.uuid4": "use everstep.uuid4()",
}
_MODULES: Final = frozenset({"aiohttp", "boto3", "httpx", "psycopg", "requests", "socket", "sqlite3", "urllib3"})


class DeterminismWarning(UserWarning):
    """A workflow body calls something that a replay cannot repeat."""


def check_body(func: Callable[..., Any], name: str) -> None:
    """Warn about each such call in the function's code."""
    seen: set[str] = set()
    for code in _codes(func.__code__):
        for line, call in _calls(code, func.__globals__):
            advice = _BANNED.get(call) or (_STEP if call.partition(".")[0] in _MODULES else None)
            if advice is not None and call not in seen:
                seen.add(call)
                warnings.warn_explicit(
                    f"workflow {name!r} uses {call.removeprefix('builtins.')}, which a replay cannot repeat: {advice}",
                    DeterminismWarning,
                    code.co_filename,
                    line,
                )


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _calls(code: CodeType, scope: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """Dotted names the code loads through its globals, such as ``time.time``, with their lines."""
    line = code.co_firstlineno
    value: object = None
    for instruction in dis.get_instructions(code):
        if instruction.positions is not None and instruction.positions.lineno is not None:
            line = instruction.positions.lineno
        if instruction.opname == "LOAD_GLOBAL":
            builtins = scope.get("__builtins__")
            names = builtins.__dict__ if isinstance(builtins, ModuleType) else builtins or {}
            value = scope.get(instruction.argval, names.get(instruction.argval))
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and value is not None:
            value = getattr(value, instruction.argval, None) if isinstance(value, (ModuleType, type)) else None
        else:
            value = None
        dotted = _name(value)
        if dotted is not None:
            yield line, dotted


def _name(value: object) -> str | None:
    if value is None or isinstance(value, ModuleType):
        return None
    module = getattr(value, "__module__", None)
    qualname = getattr(value, "__qualname__", None)
    owner = getattr(value, "__self__", None)
    if type(owner).__module__ == "random":  # random.random is a method of a hidden instance
        return f"random.{getattr(value, '__name__', '')}"
    if isinstance(owner, type):  # a class method such as datetime.now
        return f"{owner.__module__}.{owner.__qualname__}.{getattr(value, '__name__', '')}"
    if not isinstance(module, str) or not isinstance(qualname, str):
        return None
    if module in ("_io", "io") and qualname == "open":
        return "builtins.open"
    module = {"asyncio.tasks": "asyncio", "asyncio.runners": "asyncio", "asyncio.threads": "asyncio"}.get(
        module, module
    )
    module = {"asyncio.subprocess": "asyncio", "asyncio.streams": "asyncio", "posix": "os", "nt": "os"}.get(
        module, module
    )
    return f"{module}.{qualname}"
