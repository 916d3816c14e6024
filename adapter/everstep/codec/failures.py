"""Errors as data, and back to errors that ``except`` clauses know.

An error is stored as JSON: its type, message, arguments and attributes in the tagged form, notes, traceback text, cause
and context, and the members of a group. Reading makes the same class again if it is a builtin or if its module is
already imported, without running its ``__init__``; else a `RemoteError` stands in. Nothing is imported.

A body may see the class itself on its first run, because a step had imported its module, and the stand-in after a
restart. So the stand-in passes for it: it has the class's name, text, arguments and attributes, and is an instance of
those of its bases that every process has.

The traceback text stays with the error that was read, as ``remote_traceback``. When that error is stored again, the
text comes first and the traceback from here follows.
"""

from __future__ import annotations

import builtins
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final, TypeVar

from everstep.codec import values
from everstep.codec.classes import lasting_name
from everstep.codec.jsontext import make_scanner, write
from everstep.errors import RemoteError, SerializationError

__all__ = ["ErrorView", "decode_error", "describe_error", "encode_error"]

MAX_MESSAGE: Final = 8 * 1024
MAX_TRACEBACK: Final = 16 * 1024
MAX_STATE: Final = 32 * 1024
MAX_ERRORS: Final = 50
"""How many errors one record holds: causes, contexts, members of groups and attributes together."""

REMOTE_TRACEBACK: Final = "remote_traceback"
REMOTE_TEXT: Final = "remote_text"
_AGAIN: Final = "\n\nRaised again here:\n\n"
_NOT_STATE: Final = frozenset({REMOTE_TRACEBACK, REMOTE_TEXT, "__notes__"})
_EVERYWHERE: Final = frozenset({"builtins", "asyncio.exceptions", "everstep.errors"})
"""Modules that every process has imported."""
_C_FIELDS: Final[tuple[tuple[type[BaseException], tuple[str, ...]], ...]] = (
    (OSError, ("filename", "filename2")),
    (ImportError, ("name", "path")),
    (NameError, ("name",)),
    (AttributeError, ("name",)),
)
"""Attributes that builtin errors keep neither in ``args`` nor in ``__dict__``."""

T = TypeVar("T")
Node = dict[str, Any]
_read: Final = make_scanner()


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorView:
    """A stored error for display.

    Attributes:
        type: the class's name as Python shows it: ``ValueError``, ``shop.errors.CardError``.
        traceback: text as Python prints it, or empty.
        cause: what it was raised from, or what was being handled when it was raised.
    """

    type: str
    message: str
    traceback: str
    cause: ErrorView | None
    notes: tuple[str, ...]


# --- writing ---------------------------------------------------------------------------------------


def encode_error(error: BaseException) -> bytes:
    """The bytes of an error. Never raises, whatever the error's own methods do."""
    try:
        return write(_dump(error, _Budget())).encode()
    except Exception as problem:
        name = type(error).__qualname__.encode("ascii", "replace").decode()
        text = f"(the error could not be stored: {type(problem).__name__})"
        return write({"type": f"builtins:{name}" if hasattr(builtins, name) else f"?:{name}", "message": text}).encode()


class _Budget:
    """Counts errors and keeps each from being written inside itself."""

    def __init__(self) -> None:
        self.left = MAX_ERRORS
        self.open: set[int] = set()


def _dump(error: BaseException, budget: _Budget) -> Node:
    cls = type(error)
    budget.left -= 1
    budget.open.add(id(error))
    node: Node = {"type": _type_name(cls), "message": _message(error)}
    bases = _bases(cls)
    if bases:
        node["bases"] = bases
    arguments = error.args
    if isinstance(error, BaseExceptionGroup):
        arguments = arguments[:1]
        node["members"] = [_dump(member, budget) for member in error.exceptions if _allowed(member, budget)]
    encoded = _guarded(lambda: [_value(item) for item in arguments])
    node["args"] = [node["message"]] if encoded is None or _size(encoded) > MAX_STATE else encoded
    cause, context = error.__cause__, error.__context__
    _dump_state(error, cause, node, budget)
    notes = _guarded(lambda: [_bounded(_clean(str(note)), MAX_MESSAGE) for note in error.__notes__])
    if notes:
        node["notes"] = notes[:50]
    node["traceback"] = _traceback(error)
    if cause is not None:
        if _allowed(cause, budget):
            node["cause"] = _dump(cause, budget)
    elif context is not None and not error.__suppress_context__ and _allowed(context, budget):
        node["context"] = _dump(context, budget)
    if error.__suppress_context__ and cause is None:
        node["suppress"] = True
    budget.open.discard(id(error))
    return node


def _type_name(cls: type[BaseException]) -> str:
    return _clean(f"{lasting_name(str(cls.__module__))}:{cls.__qualname__}")


def _bases(cls: type[BaseException]) -> list[str]:
    """What every process knows of a class that it may not have: the nearest of its bases, by name."""
    if cls.__module__ in _EVERYWHERE:
        return []
    known = [base for base in cls.__mro__ if base.__module__ in _EVERYWHERE and base is not RemoteError]
    nearest = [base for base in known if not any(issubclass(other, base) for other in known if other is not base)]
    return [_type_name(base) for base in nearest if issubclass(base, BaseException) and base is not Exception]


def _allowed(error: BaseException, budget: _Budget) -> bool:
    return budget.left > 0 and id(error) not in budget.open


def _dump_state(error: BaseException, cause: BaseException | None, node: Node, budget: _Budget) -> None:
    state: Node = {}
    errors: Node = {}
    room = MAX_STATE
    for name, value in _attributes(error).items():
        if isinstance(value, BaseException):
            if value is cause:
                errors[name] = "cause"
            elif _allowed(value, budget):
                errors[name] = _dump(value, budget)
            continue
        encoded = _encodable(value)
        size = _size(encoded)
        if encoded is not None and size <= room:
            room -= size
            state[name] = encoded[0]
    if state:
        node["state"] = state
    if errors:
        node["errors"] = errors


def _attributes(error: BaseException) -> dict[str, Any]:
    """What can be read of ``__dict__``, of slots, and of what builtin errors keep in C."""
    found: dict[str, Any] = {}
    for base, names in _C_FIELDS:
        if isinstance(error, base):
            for name in names:
                value = _guarded(partial(getattr, error, name, None))
                if value is not None:
                    found[name] = value
    for cls in type(error).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            if name[:2] != "__":
                value = _guarded(partial(getattr, error, name, None))
                if value is not None:
                    found[name] = value
    state = _guarded(lambda: dict(error.__dict__)) or {}
    found.update((name, value) for name, value in state.items() if type(name) is str and name not in _NOT_STATE)
    return {name: value for name, value in found.items() if _clean(name) == name}


def _encodable(value: object) -> list[Any] | None:
    return _guarded(lambda: [values.tagged(value)])


def _value(value: object) -> Any:
    encoded = _encodable(value)
    return _bounded(_clean(repr(value)), MAX_MESSAGE) if encoded is None else encoded[0]


def _size(encoded: Any) -> int:
    size = _guarded(lambda: len(write(encoded)))
    return 0 if size is None else size


def _guarded(read: Callable[[], T]) -> T | None:
    """What ``read`` returns, or None if it raises: even SystemExit, for it may be any code of the error's class."""
    try:
        return read()
    except BaseException:
        return None


def _message(error: BaseException) -> str:
    text = _guarded(lambda: str(error))
    if text is None:
        text = _guarded(lambda: repr(error.args)) or "(its message could not be read)"
    return _bounded(_clean(text), MAX_MESSAGE)


def _clean(text: str) -> str:
    """Text that UTF-8 can hold: a lone surrogate becomes its escape."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _bounded(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2 - 30
    return f"{text[:half]}\n... [{len(text) - 2 * half} characters left out] ...\n{text[-half:]}"


def _traceback(error: BaseException) -> str:
    remote = _guarded(lambda: error.__dict__.get(REMOTE_TRACEBACK))
    if not isinstance(remote, str):
        whole = _guarded(
            lambda: "".join(traceback.format_exception(type(error), error, error.__traceback__, chain=False))
        )
        return _bounded(_clean(whole or ""), MAX_TRACEBACK)
    remote = _clean(remote)
    here = _guarded(lambda: "".join(traceback.format_tb(error.__traceback__))) or ""
    local = f"{_AGAIN}Traceback (most recent call last):\n{_clean(here)}".rstrip()
    if not here or remote.endswith(local):
        return _bounded(remote, MAX_TRACEBACK)
    return _bounded(remote.rstrip() + local, MAX_TRACEBACK)


# --- reading ---------------------------------------------------------------------------------------


def decode_error(data: bytes) -> BaseException:
    """The error again, or a `RemoteError` in its place.

    Raises:
        SerializationError: the bytes are not a stored error.
    """
    return _build(_node(data))


def describe_error(data: bytes) -> ErrorView:
    """A stored error for display, without making it.

    Raises:
        SerializationError: the bytes are not a stored error.
    """
    return _view(_node(data))


def _node(data: bytes) -> Node:
    try:
        node = _read(data.decode())
        _check(node)
    except (ValueError, RecursionError) as error:
        raise SerializationError(
            f"stored error is damaged ({len(data)} bytes, beginning with {data[:40]!r}): {str(error)[:200]}. Restore "
            f"it from a backup, or check that nothing but Everstep wrote it"
        ) from error
    checked: Node = node
    return checked


_SHAPE: Final[dict[str, type]] = {
    "type": str,
    "message": str,
    "traceback": str,
    "bases": list,
    "args": list,
    "state": dict,
    "errors": dict,
    "notes": list,
    "members": list,
    "cause": dict,
    "context": dict,
}


def _check(node: Any) -> None:
    if type(node) is not dict or "type" not in node or "message" not in node:
        raise ValueError("an error needs a type and a message")
    for name, kind in _SHAPE.items():
        if name in node and type(node[name]) is not kind:
            raise ValueError(f"{name!r} is not {kind.__name__}")
    for inner in (*node.get("members", ()), *(node[name] for name in ("cause", "context") if name in node)):
        _check(inner)
    for inner in node.get("errors", {}).values():
        if inner != "cause":
            _check(inner)


def _view(node: Node) -> ErrorView:
    cause = node.get("cause") or node.get("context")
    return ErrorView(
        type=node["type"].removeprefix("builtins:").replace(":", "."),
        message=node["message"],
        traceback=node.get("traceback", ""),
        cause=None if cause is None else _view(cause),
        notes=tuple(map(str, node.get("notes", ()))),
    )


def _build(node: Node) -> BaseException:
    cause = _build(node["cause"]) if "cause" in node else None
    errors = {n: cause if inner == "cause" else _build(inner) for n, inner in node.get("errors", {}).items()}
    error = _instance(node, errors)
    if cause is not None:
        _put(error, "__cause__", cause)
    elif "context" in node:
        _put(error, "__context__", _build(node["context"]))
    if node.get("suppress"):
        _put(error, "__suppress_context__", True)
    for note in node.get("notes", ()):
        _guarded(partial(BaseException.add_note, error, str(note)))
    error.__dict__[REMOTE_TRACEBACK] = node.get("traceback", "")
    return error


def _instance(node: Node, errors: dict[str, Any]) -> BaseException:
    members = [_build(member) for member in node.get("members", ())]
    cls = _class(node["type"])
    error = None if cls is None else _guarded(lambda: _made(cls, node, errors, members))
    if error is None and members:
        error = _guarded(lambda: BaseExceptionGroup(node["message"], members))
    if error is None:
        error = _guarded(lambda: _standing_in(node, errors))
    return RemoteError(node["message"], name=node["type"].rpartition(":")[2]) if error is None else error


def _standing_in(node: Node, errors: dict[str, Any]) -> BaseException:
    cls = _stand_in(node["type"], tuple(map(str, node.get("bases", ()))))
    error = _made(cls, node, errors, [])
    error.__dict__[REMOTE_TEXT] = node["message"]
    error.__dict__.setdefault("message", node["message"])
    error.__dict__.setdefault("name", cls.__name__)
    return error


@lru_cache(maxsize=1000)
def _stand_in(name: str, bases: tuple[str, ...]) -> type[BaseException]:
    """A class that passes for the one of this name, which is not here."""
    module, _, path = name.partition(":")
    known = [cls for cls in map(_class, bases) if cls is not None and cls.__module__ in _EVERYWHERE]
    members = {
        "__module__": module,
        "__qualname__": path,
        "__str__": lambda self: self.__dict__.get(REMOTE_TEXT, ""),
        "__reduce__": lambda self: (decode_error, (encode_error(self),)),
    }
    return type(path.rpartition(".")[2], tuple(dict.fromkeys((RemoteError, *known))), members)


def _class(name: str) -> type[BaseException] | None:
    module_name, _, path = name.partition(":")
    modules = ["__main__", module_name] if lasting_name("__main__") == module_name else [module_name]
    for found in map(sys.modules.get, modules):
        cls: Any = found
        for part in path.split("."):
            # Not getattr: a module's __getattr__ may import, and a name in the data must never do that.
            cls = getattr(cls, "__dict__", {}).get(part)
        if isinstance(cls, type) and issubclass(cls, BaseException):
            return cls
    return None


def _made(cls: type[BaseException], node: Node, errors: dict[str, Any], members: list[Any]) -> BaseException:
    args = tuple(values.untagged(item) for item in node.get("args", ()))
    if members:
        args = (*args[:1], members)
    native = next(base for base in cls.__mro__ if base.__module__ == "builtins")
    error = _guarded(lambda: cls.__new__(cls, *args))
    if error is None:  # a __new__ of its own that wants other arguments than ended up in args
        make: Any = native.__new__
        error = make(cls, *args)
    if not members:
        _put(error, "args", args)
        if native is not cls or native.__init__ is not BaseException.__init__:
            _guarded(partial(_init, native, error, args))
            _put(error, "args", args)
    for name, item in node.get("state", {}).items():
        _guarded(partial(_set_stored, error, name, item))
    for name, inner in errors.items():
        _set(error, name, inner)
    text = _guarded(lambda: str(error))
    if text == node["message"] or len(node["message"]) >= MAX_MESSAGE - 100:
        return error
    if not members:  # an argument that could not be stored
        _put(error, "args", (node["message"],))
        if _guarded(lambda: str(error)) == node["message"]:
            return error
        _put(error, "args", args)
    if text is None:
        raise ValueError("its __str__ needs what was not stored")
    return error


def _put(error: BaseException, name: str, value: object) -> None:
    """Set an attribute whatever the class does in ``__setattr__``, as frozen dataclasses do."""
    BaseException.__setattr__(error, name, value)


def _init(native: Any, error: BaseException, args: tuple[Any, ...]) -> None:
    """The builtin part of making an error, which sets what C keeps: ``errno``, ``code``, ``value``."""
    native.__init__(error, *args)


def _set_stored(error: BaseException, name: str, item: Any) -> None:
    _set(error, name, values.untagged(item))


def _set(error: BaseException, name: str, value: Any) -> None:
    """Set a stored attribute: in ``__dict__``, so that no property setter runs, or where C and slots keep it."""
    kept_in_c = any(isinstance(error, base) and name in names for base, names in _C_FIELDS)
    slot = any(name in cls.__dict__ for cls in type(error).__mro__ if "__slots__" in cls.__dict__)
    if kept_in_c or slot:
        _guarded(partial(_put, error, name, value))
    else:
        error.__dict__[name] = value
