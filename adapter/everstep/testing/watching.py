"""See, or end, every call of a backend's ports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

from everstep.ports import Backend

Moment: TypeAlias = Literal["before", "after"]
Hook: TypeAlias = Callable[[Moment, str, tuple[Any, ...], Any], None]
"""Told of a call: when, its name (``"runs.append"``), its positional arguments, and what it returned (after)."""


class Crash(KeyboardInterrupt):
    """The process died here. Nothing catches it, and a dead worker's later calls raise it again."""


# --- watching a backend ------------------------------------------------------------------------------


class _Port:
    """A port whose calls are told to a hook."""

    def __init__(self, name: str, port: Any, hook: Hook) -> None:
        self._name = name
        self._port = port
        self._hook = hook

    def __getattr__(self, method: str) -> Any:
        call, label, hook = getattr(self._port, method), f"{self._name}.{method}", self._hook

        def watched_call(*args: Any, **options: Any) -> Any:
            hook("before", label, args, None)
            value = call(*args, **options)
            hook("after", label, args, value)
            return value

        setattr(self, method, watched_call)
        return watched_call


def watched(backend: Backend, hook: Hook) -> Backend:
    """The backend, with every call told to the hook, which may raise `Crash`.

    The end of a unit is a call too: ``unit.commit``; a crash before it undoes the unit where units are atomic.
    """

    @contextmanager
    def unit() -> Iterator[None]:
        with backend.unit():
            yield
            hook("before", "unit.commit", (), None)
        hook("after", "unit.commit", (), None)

    names = ("runs", "inbox", "hooks", "steps", "streams", "queue", "source", "inspector")
    ports: dict[str, Any] = {name: _Port(name, getattr(backend, name), hook) for name in names}
    return Backend(**ports, unit=unit, close=backend.close)
