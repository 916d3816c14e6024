"""Classes that the tagged form may store: registered by the program, never found by a name in the data.

The id of a class is stored with each value. The default id, ``module:qualname``, breaks when the class moves; give a
``class_id`` of your own to values that live long. A class may have several ids: the first is written, all are read.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any, TypeVar, overload

from everstep.errors import RegistrationError

__all__ = ["RegisteredClass", "class_of_id", "lasting_name", "register_serializable", "registered", "serializable"]

C = TypeVar("C", bound=type)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredClass:
    """How one class is stored.

    Attributes:
        serialize: from an instance to a value of the tagged form.
        deserialize: from that value back to an instance.
    """

    cls: type
    class_id: str
    serialize: Callable[[Any], Any]
    deserialize: Callable[[Any], Any]


_by_class: dict[type, RegisteredClass] = {}
_by_id: dict[str, RegisteredClass] = {}


def registered(cls: type) -> RegisteredClass | None:
    """How instances of exactly this class are stored; a subclass needs a registration of its own."""
    return _by_class.get(cls)


def class_of_id(class_id: str) -> RegisteredClass | None:
    return _by_id.get(class_id)


@overload
def serializable(cls: C, /) -> C: ...
@overload
def serializable(*, class_id: str | None = None) -> Callable[[C], C]: ...
def serializable(cls: C | None = None, /, *, class_id: str | None = None) -> C | Callable[[C], C]:
    """Class decorator: instances may be stored where no annotation says their type. See `register_serializable`."""

    def register(target: C) -> C:
        register_serializable(target, class_id=class_id)
        return target

    return register if cls is None else register(cls)


def register_serializable(
    cls: type,
    *,
    class_id: str | None = None,
    serialize: Callable[[Any], Any] | None = None,
    deserialize: Callable[[Any], Any] | None = None,
) -> None:
    """Let instances of ``cls`` be stored where no annotation says their type.

    Args:
        class_id: what is stored to name the class; by default ``module:qualname``.
        serialize: from an instance to a value that can be stored. By default the class's method
            ``_workflow_serialize(self)``; for an Enum the value; for dataclasses and pydantic models the fields.
        deserialize: back. By default the class's classmethod ``_workflow_deserialize(cls, data)``, and so on.

    Raises:
        RegistrationError: another class has this id, or there is no way to serialize the class.
    """
    if not isinstance(cls, type):
        raise RegistrationError(f"register_serializable needs a class, not {cls!r}")
    name = _class_name(cls)
    chosen = class_id or name
    holder = _by_id.get(chosen)
    if holder is not None and holder.cls is not cls and _class_name(holder.cls) != name:
        raise RegistrationError(
            f"class id {chosen!r} of {name} already belongs to {_class_name(holder.cls)}: give one of them another "
            f"class_id, as in @serializable(class_id='...')"
        )
    if (serialize is None) != (deserialize is None):
        raise RegistrationError(f"give both serialize and deserialize for {name}, or neither")
    if serialize is None or deserialize is None:
        serialize, deserialize = _default_functions(cls, name)
    entry = RegisteredClass(cls=cls, class_id=chosen, serialize=serialize, deserialize=deserialize)
    _by_id[chosen] = entry
    first = _by_class.get(cls)
    if first is None or first.class_id == chosen:
        _by_class[cls] = entry


def lasting_name(module: str) -> str:
    """A module's name in every process: what runs as a script has the name by which others import it.

    ``python -m app``, ``python path/to/app.py``, ``import app`` and ``--app path/to/app.py`` agree on ``app``.
    """
    if module != "__main__":
        return module
    main = sys.modules.get("__main__")
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    return getattr(spec, "name", None) or (PurePath(file).stem if file else module)


def _class_name(cls: type) -> str:
    return f"{lasting_name(cls.__module__)}:{cls.__qualname__}"


def _default_functions(cls: type, name: str) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    down = getattr(cls, "_workflow_serialize", None)
    up = getattr(cls, "_workflow_deserialize", None)
    if callable(down) and callable(up):
        return down, up
    if issubclass(cls, Enum):
        return _enum_value, cls
    if dataclasses.is_dataclass(cls):
        return _typed_functions(cls)
    if hasattr(cls, "__pydantic_core_schema__") and hasattr(cls, "model_validate"):
        return _typed_functions(cls)
    raise RegistrationError(
        f"{name} cannot be made serializable: define _workflow_serialize(self) and the classmethod "
        f"_workflow_deserialize(cls, data) on it, or pass serialize= and deserialize= to register_serializable"
    )


def _enum_value(member: Enum) -> Any:
    return member.value


def _typed_functions(cls: type) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """The fields by name, typed by the class's annotations. Pydantic is imported when the first value is stored."""
    codecs: list[Any] = []

    def codec() -> Any:
        if not codecs:
            from everstep.codec.schemas import FieldsCodec

            codecs.append(FieldsCodec(cls))
        return codecs[0]

    return (lambda value: codec().dump(value)), (lambda data: codec().load(data))
