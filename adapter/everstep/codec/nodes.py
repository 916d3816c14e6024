"""The parts that `everstep.codec.schemas` puts into pydantic's core schemas."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, TypeAlias
from uuid import UUID

from everstep.codec import values
from everstep.errors import SerializationError

__all__ = [
    "Lazily",
    "Node",
    "after",
    "by_exact_type",
    "enum_schema",
    "is_secret",
    "labeller",
    "only_member",
    "plain_serializer",
    "refusal",
    "reveal",
    "tagged_schema",
    "without_ref",
]

Node: TypeAlias = dict[str, Any]

refusal: ContextVar[SerializationError | None] = ContextVar("refusal", default=None)
"""Why the tagged form refused a value. Pydantic passes on only the text of an error that a serializer raises."""


def _tagged(value: Any) -> Any:
    try:
        return values.tagged(value)
    except SerializationError as error:
        refusal.set(error)
        raise


_TYPES: Final[dict[str, type]] = {
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "bytes": bytes,
    "complex": complex,
    "date": date,
    "time": time,
    "datetime": datetime,
    "timedelta": timedelta,
    "decimal": Decimal,
    "uuid": UUID,
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
}


def by_exact_type(choices: list[Node], labels: list[str], validate: Lazily) -> Callable[[Any], Any]:
    """A function that says which member of a union a value is: ``{label: value}``.

    Pydantic's own choice (``validate``, a union of labelled choices) is asked only where the exact type leaves it open,
    because it does not tell an instance of a subclass from one of its base.
    """
    found: dict[type, str | None] = {}
    for choice, label in zip(choices, labels, strict=True):
        kind = choice.get("cls") or _TYPES.get(choice["type"])
        if isinstance(kind, type):
            found[kind] = None if kind in found else label
    any_label = next((label for choice, label in zip(choices, labels, strict=True) if choice["type"] == "any"), None)

    def choose(value: Any) -> Any:
        label = found.get(type(value)) or any_label
        return {label: value} if label is not None else validate.get()(value)

    return choose


def is_secret(serialization: Node) -> bool:
    """Whether it writes asterisks, as pydantic's secrets do: what is stored must read back."""
    function = serialization.get("function")
    name = getattr(function, "__name__", "")
    return getattr(function, "__module__", "") == "pydantic.types" and name.startswith("_serialize_secret")


def reveal(secret: Any) -> Any:
    return secret.get_secret_value()


def labeller(label: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {label: value}


class Lazily:
    """Something costly, made when first asked for."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None

    def get(self) -> Any:
        if self._made is None:
            self._made = self._make()
        return self._made


def without_ref(node: Node) -> Node:
    """A copy that may stand at several places; only definitions keep their ``ref``."""
    return {key: value for key, value in node.items() if key != "ref"}


def after(schema: Node, function: Callable[[Any], Any]) -> Node:
    return {"type": "function-after", "function": {"type": "no-info", "function": function}, "schema": schema}


def plain_serializer(function: Callable[[Any], Any], out: Node) -> Node:
    return {"type": "function-plain", "function": function, "return_schema": out}


def only_member(members: dict[str, Any]) -> Any:
    return next(iter(members.values()))


def tagged_schema(cls: type | None) -> Node:
    """Any value, or any instance of a class, in the tagged form."""
    python: Node = {"type": "any"} if cls is None else {"type": "is-instance", "cls": cls}
    if cls is dict:
        python = {"type": "dict"}
    read: Node = {"type": "function-plain", "function": {"type": "no-info", "function": values.untagged}}
    return {
        "type": "json-or-python",
        "json_schema": read if cls is None else after(read, _instance_check(cls)),
        "python_schema": python,
        "serialization": plain_serializer(_tagged, {"type": "any"}),
    }


def _instance_check(cls: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, cls):
            raise ValueError(f"Input should be an instance of {cls.__qualname__}")
        return value

    return check


def enum_schema(node: Node) -> Node:
    """By value when JSON has the value, else by name."""
    cls: Any = node["cls"]
    kinds = {type(member.value) for member in node["members"]}
    if kinds <= {str} or kinds <= {int}:
        return node

    def by_name(name: Any) -> Any:
        if isinstance(name, str) and name in cls.__members__:
            return cls.__members__[name]
        raise ValueError(f"Input should be the name of a member of {cls.__qualname__}")

    def name_of(member: Any) -> Any:
        return member.name

    return {
        "type": "json-or-python",
        "json_schema": {"type": "function-plain", "function": {"type": "no-info", "function": by_name}},
        "python_schema": node,
        "serialization": plain_serializer(name_of, {"type": "str"}),
    }
