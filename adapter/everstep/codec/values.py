"""The tagged JSON form: values without annotations.

JSON types are themselves. Every other type is an object with one key that begins with ``$``, such as
``{"$tuple": [1, 2]}``. A dict that could be read as such an object, or has keys that are not text, is
``{"$dict": [[key, value], ...]}``. Sets are in the order of their encoded elements, so the bytes do not depend on the
hash seed.

What comes back is what went in, type for type, with these exceptions: the time zone of a `datetime` or `time` becomes
its UTC offset, and ``fold`` is lost. Subclasses of built-in types are refused, never narrowed.
"""

from __future__ import annotations

import base64
import math
import pathlib
from collections.abc import Awaitable, Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType
from typing import Any, Final
from uuid import UUID

from everstep.codec import classes
from everstep.codec.classes import register_serializable, serializable
from everstep.codec.jsontext import make_scanner, write
from everstep.errors import EverstepError, SerializationError

__all__ = [
    "MAX_DEPTH",
    "decode",
    "decode_members",
    "encode",
    "encode_members",
    "register_serializable",
    "serializable",
    "tagged",
    "untagged",
]

MAX_DEPTH: Final = 100
"""How deep containers may nest. Far below what the C encoder, the scanner and the stack can take."""

_ATOMS: Final = frozenset({str, int, bool, float, NoneType})
_TEXT: Final = frozenset({str})


def encode(value: Any, *, where: str = "value") -> bytes:
    """The bytes of a value.

    Args:
        where: what the value is, for the message: "the result of step 'charge'".

    Raises:
        SerializationError: something in it cannot be stored; the message has the path, the type and what to do.
    """
    try:
        kind = type(value)
        if kind in _ATOMS or _is_plain(value, MAX_DEPTH):
            return write(value).encode()
    except ValueError:  # a non-finite float, a lone surrogate, a huge int: the careful way tags them
        pass
    return write(_tag_all(value, where)).encode()


def decode(data: bytes) -> Any:
    """The value of bytes made by `encode`.

    Raises:
        SerializationError: the bytes are damaged, a newer version wrote them, or a class in them is not registered.
    """
    try:
        text = data.decode()
        return _read_tagged(text) if '"$' in text else _read_plain(text)
    except (ValueError, RecursionError) as error:
        raise damaged(data, error) from error


def encode_members(members: Mapping[str, Any], where: str) -> bytes:
    """One JSON object of named values. Its names are never taken for a tag, so they must not begin with ``$``."""
    try:
        if _TEXT.issuperset(map(type, members)) and _members_plain(members):
            return write(members).encode()
    except ValueError:
        pass
    out = {name: _tag_all(value, f"{where}, parameter {name!r}") for name, value in members.items()}
    return write(out).encode()


def decode_members(data: bytes) -> dict[str, Any]:
    members = decode(data)
    if type(members) is not dict:
        raise SerializationError(f"stored arguments are not a JSON object but begin with {data[:40]!r}")
    return members


def tagged(value: Any, where: str = "value") -> Any:
    """The tagged form as Python objects of JSON types, for use inside a larger JSON document."""
    return value if type(value) in _ATOMS and type(value) is not float else _tag_all(value, where)


def untagged(value: Any) -> Any:
    """Back from `tagged`."""
    kind = type(value)
    if kind is list:
        return [untagged(item) for item in value]
    if kind is dict:
        return _from_object({name: untagged(item) for name, item in value.items()})
    return value


def damaged(data: bytes, error: Exception) -> SerializationError:
    """What to raise for bytes that are not JSON text, or hold a tag that makes no sense."""
    what = "nested too deep" if isinstance(error, RecursionError) else str(error)
    return SerializationError(
        f"stored payload is damaged ({len(data)} bytes, beginning with {data[:40]!r}): {what[:200]}. Restore it from a "
        f"backup, or check that nothing but Everstep wrote it"
    )


# --- is it JSON already? ---------------------------------------------------------------------------


def _is_plain(value: Any, depth: int) -> bool:
    """Whether the value is made of exact JSON types and needs no escape, so that the C encoder can write it."""
    kind = type(value)
    if kind is list:
        if _ATOMS.issuperset(map(type, value)):
            return True
        items = value
    elif kind is dict:
        if not _TEXT.issuperset(map(type, value)) or (len(value) == 1 and next(iter(value))[:1] == "$"):
            return False
        items = value.values()
        if _ATOMS.issuperset(map(type, items)):
            return True
    else:
        return False
    if not depth:
        return False
    depth -= 1
    for item in items:
        if type(item) not in _ATOMS and not _is_plain(item, depth):
            return False
    return True


def _members_plain(members: Mapping[str, Any]) -> bool:
    items = members.values()
    if _ATOMS.issuperset(map(type, items)):
        return True
    return all(type(item) in _ATOMS or _is_plain(item, MAX_DEPTH) for item in items)


# --- tagging ---------------------------------------------------------------------------------------


class _RejectedError(Exception):
    """Something cannot be stored. Collects the path while it travels up."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path: list[str] = []
        self.parents: list[int] = []
        self.too_deep = False

    def passes(self, parent: object, step: str) -> None:
        self.path.append(step)
        self.parents.append(id(parent))


def _tag_all(value: Any, where: str) -> Any:
    try:
        return _tag(value, MAX_DEPTH)
    except _RejectedError as reject:
        steps = reject.path[::-1]
        problem = reject.problem
        if reject.too_deep:
            parents = reject.parents[::-1]
            again = next((n for n, parent in enumerate(parents) if parent in parents[:n]), None)
            if again is not None:
                steps = steps[:again]
                problem = "contains itself; store a copy without the cycle"
            else:
                steps = [*steps[:6], "..."]
                problem = f"is nested deeper than {MAX_DEPTH} levels; flatten it, or store it as text"
        raise SerializationError(f"{where} cannot be stored: ${''.join(steps)} {problem}") from reject.__cause__


def _tag(value: Any, depth: int) -> Any:
    kind = type(value)
    tagger = _TAGGERS.get(kind)
    if tagger is not None:
        if depth < 0:
            reject = _RejectedError("")
            reject.too_deep = True
            raise reject
        return tagger(value, depth)
    entry = classes.registered(kind)
    if entry is not None:
        return _tag_instance(value, entry, depth)
    raise _RejectedError(_why_not(value))


def _why_not(value: Any) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(value, Enum):
        return (
            f"is a member of the Enum {name}, which is not registered; annotate the parameter or the return type with "
            f"it, put @serializable on the class, or store its value"
        )
    if isinstance(value, Awaitable):
        return f"is {value!r}, which was not awaited: write 'await' before it"
    parent = next((base for base in kind.__mro__[1:] if base in _TAGGERS), None)
    narrowed = f" (a subclass of {parent.__name__}, which would be lost)" if parent is not None else ""
    return (
        f"is of type {name}{narrowed}; annotate the parameter or the return type with its type, put @serializable on "
        f"the class, or convert it to built-in types first"
    )


def _itself(value: Any, depth: int) -> Any:
    return value


def _tag_int(value: int, depth: int) -> Any:
    # Python refuses to convert ints beyond 4300 digits to and from decimal text; hexadecimal has no such limit.
    return value if value.bit_length() < 14_000 else {"$int": hex(value)}


def _tag_float(value: float, depth: int) -> Any:
    return value if math.isfinite(value) else {"$float": repr(value)}


def _tag_str(value: str, depth: int) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:  # lone surrogates, as os.listdir gives for names that are not UTF-8
        return {"$str": base64.b64encode(value.encode("utf-8", "surrogatepass")).decode()}
    return value


def _tag_items(value: Any, depth: int) -> list[Any]:
    out: list[Any] = []
    append = out.append
    depth -= 1
    try:
        for item in value:
            append(_tag(item, depth))
    except _RejectedError as reject:
        reject.passes(value, f"[{len(out)}]")
        raise
    return out


def _tag_tuple(value: tuple[Any, ...], depth: int) -> Any:
    return {"$tuple": _tag_items(value, depth)}


def _tag_set(value: set[Any], depth: int) -> Any:
    return {"$set": _sorted_items(value, depth)}


def _tag_frozenset(value: frozenset[Any], depth: int) -> Any:
    return {"$frozenset": _sorted_items(value, depth)}


def _sorted_items(value: set[Any] | frozenset[Any], depth: int) -> list[Any]:
    items = []
    for item in value:
        try:
            items.append(_tag(item, depth - 1))
        except _RejectedError as reject:
            reject.passes(value, "{}")
            raise
    return sorted(items, key=write)


def _tag_dict(value: dict[Any, Any], depth: int) -> Any:
    if not _TEXT.issuperset(map(type, value)) or (len(value) == 1 and next(iter(value))[:1] == "$"):
        return _tag_pairs(value, depth)
    out = {}
    name = ""
    depth -= 1
    try:
        for name, item in value.items():
            out[name] = _tag(item, depth)
            name.encode()
    except _RejectedError as reject:
        reject.passes(value, f".{name}" if name.isidentifier() else f"[{_short(name)}]")
        raise
    except UnicodeEncodeError:
        return _tag_pairs(value, depth + 1)
    return out


def _tag_pairs(value: dict[Any, Any], depth: int) -> Any:
    pairs = []
    for key, item in value.items():
        try:
            pairs.append([_tag(key, depth - 1), _tag(item, depth - 1)])
        except _RejectedError as reject:
            reject.passes(value, f"[{_short(key)}]")
            raise
    return {"$dict": pairs}


def _short(key: object) -> str:
    try:
        text = repr(key)
    except Exception:
        text = f"<{type(key).__name__}>"
    return text if len(text) <= 40 else text[:37] + "..."


def _tag_instance(value: Any, entry: classes.RegisteredClass, depth: int) -> Any:
    name = entry.cls.__qualname__
    try:
        data = entry.serialize(value)
    except EverstepError as error:
        raise _RejectedError(f"is of the registered class {name}: {error}") from error
    except Exception as error:
        raise _RejectedError(
            f"is of the registered class {name}, whose serialize raised {type(error).__name__}: {error}"
        ) from error
    try:
        if depth < 0:
            reject = _RejectedError("")
            reject.too_deep = True
            raise reject
        return {"$class": [entry.class_id, _tag(data, depth - 1)]}
    except _RejectedError as reject:
        reject.passes(value, f".<{name}>")
        raise


def _tag_datetime(value: datetime, depth: int) -> Any:
    return {"$datetime": value.isoformat()}


_MICROSECOND: Final = timedelta(microseconds=1)

_TAGGERS: Final[dict[type, Callable[[Any, int], Any]]] = {
    NoneType: _itself,
    bool: _itself,
    int: _tag_int,
    float: _tag_float,
    str: _tag_str,
    list: _tag_items,
    dict: _tag_dict,
    tuple: _tag_tuple,
    set: _tag_set,
    frozenset: _tag_frozenset,
    bytes: lambda value, depth: {"$bytes": base64.b64encode(value).decode()},
    bytearray: lambda value, depth: {"$bytearray": base64.b64encode(value).decode()},
    complex: lambda value, depth: {"$complex": [repr(value.real), repr(value.imag)]},
    datetime: _tag_datetime,
    date: lambda value, depth: {"$date": value.isoformat()},
    time: lambda value, depth: {"$time": value.isoformat()},
    timedelta: lambda value, depth: {"$timedelta": value // _MICROSECOND},
    Decimal: lambda value, depth: {"$decimal": str(value)},
    UUID: lambda value, depth: {"$uuid": str(value)},
    type(pathlib.Path()): lambda value, depth: {"$path": _tag_str(str(value), depth)},
    pathlib.PurePosixPath: lambda value, depth: {"$posixpath": _tag_str(str(value), depth)},
    pathlib.PureWindowsPath: lambda value, depth: {"$windowspath": _tag_str(str(value), depth)},
}


# --- reading tags ----------------------------------------------------------------------------------


def _from_object(obj: dict[str, Any]) -> Any:
    """One JSON object whose members are already values: the value it stands for."""
    if len(obj) != 1:
        return obj
    ((name, content),) = obj.items()
    if name[:1] != "$":
        return obj
    reader = _READERS.get(name)
    if reader is None:
        raise SerializationError(
            f"stored payload uses the tag {name!r}, which this version of Everstep does not know: a newer version "
            f"wrote it. Upgrade everstep in this process"
        )
    try:
        return reader(content)
    except SerializationError:
        raise
    except Exception as error:
        raise ValueError(f"bad content of {name!r}: {error}") from error


def _read_instance(content: Any) -> Any:
    class_id, data = content
    entry = classes.class_of_id(class_id)
    if entry is None:
        module = f"import the module {class_id.split(':')[0]!r}, which" if ":" in class_id else "import the module that"
        raise SerializationError(
            f"stored payload holds a value of class {class_id!r}, and no class is registered under this id here: "
            f"{module} registers it with @serializable, before the run goes on; after a rename, register the old id too"
        )
    try:
        return entry.deserialize(data)
    except SerializationError:
        raise
    except Exception as error:
        raise SerializationError(
            f"stored value of class {class_id!r} cannot be read back: its deserialize raised "
            f"{type(error).__name__}: {error}"
        ) from error


def _base64(content: str) -> bytes:
    return base64.b64decode(content, validate=True)


_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "$int": lambda text: int(text, 16),
    "$float": float,
    "$str": lambda text: _base64(text).decode("utf-8", "surrogatepass"),
    "$tuple": tuple,
    "$set": set,
    "$frozenset": frozenset,
    "$dict": dict,
    "$bytes": _base64,
    "$bytearray": lambda text: bytearray(_base64(text)),
    "$complex": lambda parts: complex(float(parts[0]), float(parts[1])),
    "$datetime": datetime.fromisoformat,
    "$date": date.fromisoformat,
    "$time": time.fromisoformat,
    "$timedelta": lambda micros: timedelta(microseconds=micros),
    "$decimal": Decimal,
    "$uuid": UUID,
    "$path": pathlib.Path,
    "$posixpath": pathlib.PurePosixPath,
    "$windowspath": pathlib.PureWindowsPath,
    "$class": _read_instance,
}
_read_plain: Final = make_scanner()
_read_tagged: Final = make_scanner(_from_object)
