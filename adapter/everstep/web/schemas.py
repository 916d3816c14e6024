"""JSON schemas of what workflows take and return, for programs that ask people for it."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter
from typing import Any, NotRequired

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError
from typing_extensions import TypedDict

from everstep.codec.signatures import Hints, signature_of


def schema_of(annotation: Any) -> dict[str, Any]:
    """The JSON schema of an annotation; of one that has none, the schema of anything."""
    return _schema(annotation) or {}


def call_schemas(func: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schemas of a function's arguments by name, and of its result."""
    signature = signature_of(func)
    hints = Hints(func, signature).of
    members: dict[str, Any] = {}
    for each in signature.parameters.values():
        if each.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY):
            hint = hints.get(each.name, Any)
            known = hint if _schema(hint) is not None else Any
            members[each.name] = known if each.default is Parameter.empty else NotRequired[known]
    arguments = _schema(TypedDict(func.__name__, members)) or {}  # type: ignore[operator]
    arguments.setdefault("properties", {})
    if all(each.kind is not Parameter.VAR_KEYWORD for each in signature.parameters.values()):
        arguments["additionalProperties"] = False
    return arguments, schema_of(hints.get("return", Any))


def _schema(annotation: Any) -> dict[str, Any] | None:
    try:
        return TypeAdapter(annotation).json_schema()
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError):
        return None
