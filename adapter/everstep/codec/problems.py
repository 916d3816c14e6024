"""What pydantic objects to, in words for the author of a workflow; and whether two values mean the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from everstep.codec.jsontext import make_scanner
from everstep.errors import SerializationError, TypeValidationError

if TYPE_CHECKING:
    from pydantic import ValidationError

    from everstep.codec.schemas import Schema

__all__ = ["ONLY", "explain", "explain_unexpected", "inbound_error", "outbound_error", "same", "same_json"]

_MAX_LINES: Final = 10
_read: Final = make_scanner()
ONLY: Final = "="
"""The name of a value that has none; no parameter can have it."""
_UNEXPECTED: Final = re.compile(
    r"Expected (.{1,200}?) - serialized value may not be as expected \[(.{1,200}?)\]?\)?$", re.M
)
"""How pydantic's serializer says that a value is not what the schema promised: a model changed after it was made."""


def outbound_error(
    error: Exception, what: str, notes: Mapping[str, str], schema: Schema, members: Mapping[str, Any] | None
) -> SerializationError:
    """What to raise when named values cannot be stored.

    Args:
        notes: why an annotation was not used, by name.
        members: the values, to find the one at fault; None when they are not Python values yet.
    """
    from everstep.codec.nodes import refusal
    from everstep.codec.schemas import PydanticSerializationError, ValidationError

    if isinstance(error, ValidationError):
        return TypeValidationError(explain(error, what))
    name = _culprit(schema, members) if members is not None else None
    subject = what if name is None or name == ONLY else f"{what}, parameter {name!r}"
    note = f" ({notes[name]})" if name is not None and name in notes else ""
    cause = refusal.get() or _root(error)
    refusal.set(None)
    if isinstance(cause, SerializationError):
        text = str(cause)
        prefix = "value cannot be stored: "
        text = f"cannot be stored: {text[len(prefix) :]}" if text.startswith(prefix) else f"cannot be stored: {text}"
        return type(cause)(f"{subject} {text}{note}")
    if isinstance(cause, UnicodeEncodeError) or "surrogates not allowed" in str(error):
        return SerializationError(
            f"{subject} cannot be stored: it holds text that is not valid Unicode (a lone surrogate). Encode it to "
            f"bytes first, for example with os.fsencode"
        )
    if isinstance(error, PydanticSerializationError):
        unexpected = explain_unexpected(error)
        found = None if unexpected is None or members is None else _why_not(schema, members)
        if found is not None:
            return TypeValidationError(explain(found, what))
        if unexpected is not None:
            return TypeValidationError(f"{subject} does not fit its annotation: {unexpected}{note}")
        return SerializationError(
            f"{subject} cannot be stored: {str(error)[:300]}{note}. Pass data instead, or put "
            f"@serializable on its class"
        )
    if isinstance(error, ValueError) and members is None:
        return SerializationError(f"{subject}: the input is not plain JSON: {error}")
    return TypeValidationError(
        f"{subject} cannot be stored: a validator or serializer raised {type(error).__name__}: {error}"
    )


def inbound_error(error: Exception, what: str, data: bytes) -> SerializationError:
    """What to raise when stored bytes do not read as the annotations say."""
    from everstep.codec.schemas import ValidationError

    if isinstance(error, ValidationError):
        if any(problem["type"] == "json_invalid" for problem in error.errors(include_url=False, include_input=False)):
            return SerializationError(
                f"stored payload of {what} is damaged ({len(data)} bytes, beginning with {data[:40]!r}): "
                f"it is not JSON. Restore it from a backup, or check that nothing but Everstep wrote it"
            )
        return TypeValidationError(
            f"stored payload does not fit the code: {explain(error, what)}\nRestore the annotation it was stored with, "
            f"or widen the new one (for example with a default or a union)"
        )
    cause = _root(error)
    if isinstance(cause, SerializationError):
        return type(cause)(f"{what}: {cause}")
    return SerializationError(
        f"stored payload of {what} cannot be read: {type(error).__name__}: {error}. Restore the code it was stored with"
    )


def _root(error: BaseException) -> BaseException:
    seen = 0
    while error.__cause__ is not None and not isinstance(error, SerializationError) and seen < 10:
        error = error.__cause__
        seen += 1
    return error


def _culprit(schema: Schema, members: Mapping[str, Any]) -> str | None:
    for name, value in members.items():
        try:
            schema.dump(schema.check({name: value}))
        except Exception:
            return name
    return None


def _why_not(schema: Schema, members: Mapping[str, Any]) -> ValidationError | None:
    try:
        return schema.why_not(schema.check(members))
    except Exception:
        return None


def explain(error: ValidationError, what: str, noun: str = "parameter") -> str:
    """Pydantic's findings, one a line: which parameter, where in it, what is wrong, what was found."""
    problems = error.errors(include_url=False, include_context=False)
    lines = []
    for problem in problems[:_MAX_LINES]:
        name, *path = problem["loc"] or (ONLY,)
        subject = what if name == ONLY else f"{what}, {noun} {name!r}"
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
        if problem["type"] == "extra_forbidden" and not path:
            lines.append(f"{subject}: the function no longer takes it")
            continue
        at = f" at ${place}" if place else ""
        lines.append(f"{subject}{at}: {problem['msg']} (got {_shown(problem.get('input'))})")
    if len(problems) > _MAX_LINES:
        lines.append(f"and {len(problems) - _MAX_LINES} more")
    return "\n".join(lines)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = "..."
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def explain_unexpected(error: Exception) -> str | None:
    """What pydantic's serializer found instead of what was promised, if that is what the error is about."""
    found = _UNEXPECTED.search(str(error))
    return None if found is None else f"expected {found[1]}, found {found[2]}"


def same(a: Any, b: Any) -> bool:
    """Equal, of equal types all the way down; not-a-number equals itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return len(a) == len(b) and all(key in b and same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return a == b or (a != a and b != b)
    if a == b:
        return True
    state = getattr(a, "__dict__", None)  # classes without an __eq__ of their own
    return "__eq__" not in _own_names(type(a)) and bool(state) and same(state, b.__dict__)


def same_json(a: bytes, b: bytes) -> bool:
    """Whether two encoded values mean the same whatever their type: the order of an object's members does not count."""
    return a == b or same(_read(a.decode()), _read(b.decode()))


def _own_names(cls: type) -> set[str]:
    return {name for part in cls.__mro__[:-1] for name in part.__dict__}
