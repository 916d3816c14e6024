"""Pydantic's schemas, changed so that what is written reads back as the same value.

Importing this module imports pydantic; `everstep.codec.typed` does it at the first real use.

Pydantic generates the core schema of an annotation; `_Rewriter` walks it and changes the nodes that do not round-trip
through JSON by themselves:

========================== =======================================================================
node                       becomes
========================== =======================================================================
any, bare containers       the tagged form of `everstep.codec.values`
arbitrary class            the tagged form, so the class must be registered; likewise registered classes
union with alike members   ``{"<member>": value}``; plain values of older records still read
set, frozenset             written in the order of the encoded elements
dict, keys not text-like   a list of pairs
enum, odd member values    the member's name
field with default None    nullable, for pydantic does not check defaults
Iterable                   a list
model                      bytes as base64, non-finite floats as text, unless the model says otherwise
========================== =======================================================================

The core schema is pydantic's public, documented format (`pydantic_core.core_schema`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from pydantic import VERSION, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, SchemaSerializer, SchemaValidator
from typing_extensions import TypedDict

from everstep.codec import classes
from everstep.codec.jsontext import make_scanner, write
from everstep.codec.nodes import (
    Lazily,
    Node,
    after,
    by_exact_type,
    enum_schema,
    is_secret,
    labeller,
    only_member,
    plain_serializer,
    refusal,
    reveal,
    tagged_schema,
    without_ref,
)
from everstep.codec.problems import ONLY, explain, explain_unexpected
from everstep.errors import ConfigurationError, SerializationError

__all__ = ["FieldsCodec", "PydanticSerializationError", "Schema", "ValidationError", "members_schema"]

if tuple(map(int, VERSION.split(".")[:2])) < (2, 13):
    # Older ones take the validator and serializer of a nested model from its class, whatever its schema says.
    raise ConfigurationError(f"everstep needs pydantic 2.13 or later, and finds {VERSION}: pip install -U pydantic")

_CONFIG: Final = ConfigDict(
    ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings", arbitrary_types_allowed=True
)
_CORE_CONFIG: Final[Any] = {"ser_json_bytes": "base64", "val_json_bytes": "base64", "ser_json_inf_nan": "strings"}


class Schema:
    """Validator and serializer of one annotation or one set of parameters."""

    __slots__ = ("_original", "_serializer", "_validator", "built_in_only", "check", "dump", "load")

    check: Callable[[Any], Any]
    """From a Python value to one that fits, or ValidationError."""
    dump: Callable[[Any], bytes]
    """From a checked value to JSON. Raises PydanticSerializationError for what `check` could not see."""
    load: Callable[[str | bytes], Any]
    """From that JSON to the value, or ValidationError."""

    def __init__(self, original: Node, *, exempt: type | None = None) -> None:
        self._original: Any = original
        rewriter = _Rewriter(exempt)
        changed: Any = rewriter.rewrite_root(original)
        validator = SchemaValidator(changed, _CORE_CONFIG, _use_prebuilt=False)
        serializer = SchemaSerializer(changed, _CORE_CONFIG, _use_prebuilt=False)
        self._serializer, self._validator = serializer, validator
        self.built_in_only = rewriter.built_in_only
        if rewriter.built_in_only:
            self.check, self.dump, self.load = validator.validate_python, serializer.to_json, validator.validate_json
        else:
            # Instances of models and dataclasses pass the check as they are, so the serializer must look at what is in
            # them; asking for that takes a microsecond. Their fields may have aliases: only names are stored.
            self.check = partial(validator.validate_python, by_alias=True, by_name=True)
            self.dump = partial(serializer.to_json, by_alias=False, warnings="error")
            self.load = partial(validator.validate_json, by_alias=True, by_name=True)

    def why_not(self, value: Any) -> ValidationError | None:
        """What is wrong, and where, with a checked value that `dump` refuses: reading it back may tell."""
        data = self._serializer.to_json(value, by_alias=False, warnings="none")
        for strict in (False, True):
            try:
                self._validator.validate_json(data, strict=strict, by_alias=True, by_name=True)
            except ValidationError as error:
                return error
        return None

    def from_foreign_json(self, text: str | bytes) -> Any:
        """Read JSON that people or other programs wrote: pydantic's own rules, nothing in it is a tag."""
        return SchemaValidator(self._original, _CORE_CONFIG).validate_json(text, by_alias=True, by_name=True)


class FieldsCodec:
    """A registered dataclass or model as JSON data: its fields by name, typed by its annotations."""

    def __init__(self, cls: type) -> None:
        self._schema = Schema(_pick(_generate({ONLY: cls}), ONLY), exempt=cls)
        self._cls = cls
        self._read = make_scanner()

    def dump(self, value: Any) -> Any:
        try:
            data = self._schema.dump(self._schema.check(value))
            self._schema.load(data)
            return self._read(data.decode())
        except (ValidationError, PydanticSerializationError) as error:
            cause = refusal.get()
            if isinstance(error, ValidationError):
                raise SerializationError(explain(error, self._cls.__qualname__, "field")) from error
            raise cause or SerializationError(explain_unexpected(error) or str(error)) from error
        finally:
            refusal.set(None)

    def load(self, data: Any) -> Any:
        try:
            return self._schema.load(write(data))
        except ValidationError as error:
            raise SerializationError(explain(error, self._cls.__qualname__, "field")) from error


def members_schema(annotations: dict[str, Any]) -> tuple[Schema, frozenset[str]]:
    """One schema for a set of parameters, and the names whose annotation pydantic has no schema for.

    Those take any value, in the tagged form.
    """
    try:
        return Schema(_generate(annotations)), frozenset()
    except Exception:  # whatever an annotation does, decoration and calls must go on; find the ones at fault
        failing = frozenset(name for name, annotation in annotations.items() if not _works(annotation))
        if not failing:
            raise
        return Schema(_generate({n: Any if n in failing else a for n, a in annotations.items()})), failing


def _works(annotation: Any) -> bool:
    try:
        Schema(_generate({ONLY: annotation}))
    except Exception:
        return False
    return True


def _generate(annotations: dict[str, Any]) -> Node:
    make: Any = TypedDict
    members = make("members", annotations, total=False)
    members.__pydantic_config__ = ConfigDict(**_CONFIG, extra="forbid")
    return dict(TypeAdapter(members).core_schema)


def _is_members(node: Node) -> bool:
    return getattr(node.get("cls"), "__module__", None) == __name__


def _pick(schema: Node, name: str) -> Node:
    """The schema of one member, with the definitions it may refer to."""
    if schema["type"] == "definitions":
        return {**schema, "schema": _pick(schema["schema"], name)}
    picked: Node = schema["fields"][name]["schema"]
    return picked


# --- rewriting -------------------------------------------------------------------------------------


_SINGLE: Final = (
    "schema",
    "items_schema",
    "keys_schema",
    "values_schema",
    "json_schema",
    "lax_schema",
    "strict_schema",
    "extras_schema",
)
_TEXT_KEYS: Final = frozenset({"str", "int", "uuid", "date", "datetime"})
_BUILT_IN: Final = frozenset(
    {"none", "bool", "int", "float", "str", "bytes", "date", "time", "datetime", "timedelta", "decimal", "uuid", "list"}
    | {"tuple", "set", "frozenset", "dict", "literal", "enum", "nullable", "any", "union", "typed-dict"}
)
_OPAQUE: Final = frozenset({"function-plain", "to-string", "format"})
_SHAPES: Final[dict[str, str]] = {
    "none": "n",
    "bool": "b",
    "int": "i",
    "float": "fs",  # non-finite ones are text
    **dict.fromkeys(("list", "tuple", "set", "frozenset", "deque", "named-tuple", "generator"), "a"),
    **dict.fromkeys(("model", "dataclass", "typed-dict", "dict", "tagged-union"), "o"),
    **dict.fromkeys(("str", "bytes", "date", "time", "datetime", "timedelta", "decimal", "uuid", "url"), "s"),
    **dict.fromkeys(("multi-host-url", "complex"), "s"),
}
_EVERY_SHAPE: Final = "nbifsao"


class _Rewriter:
    """One walk over one core schema. Never changes the original, which pydantic caches on classes."""

    def __init__(self, exempt: type | None) -> None:
        self._exempt = exempt
        self._originals: dict[str, Node] = {}
        self._definitions: list[Node] = []
        self.built_in_only = True

    def rewrite_root(self, schema: Node) -> Node:
        if schema["type"] != "definitions":
            return self.rewrite(schema)
        self._originals = {definition["ref"]: definition for definition in schema["definitions"]}
        for definition in schema["definitions"]:
            self._definitions.append({**self.rewrite(definition), "ref": definition["ref"]})
        return {"type": "definitions", "schema": self.rewrite(schema["schema"]), "definitions": self._definitions}

    def rewrite(self, node: Node, *, python_only: bool = False) -> Node:
        kind = node["type"]
        cls = node.get("cls")
        if kind not in _BUILT_IN or "serialization" in node or (kind == "typed-dict" and not _is_members(node)):
            self.built_in_only = False
        if isinstance(cls, type) and cls is not self._exempt and classes.registered(cls) is not None:
            return tagged_schema(cls)
        serialization = node.get("serialization")
        if serialization is not None and is_secret(serialization):
            return {**without_ref(node), "serialization": plain_serializer(reveal, {"type": "any"})}
        if serialization is not None and serialization["type"] in _OPAQUE:
            return without_ref(node)
        if kind == "model" and node.get("custom_init"):
            return without_ref(node)  # its __init__ validates with the class's own, unchanged schema
        if kind == "is-instance" and not python_only and isinstance(cls, type):
            return tagged_schema(cls)
        if kind == "any":
            return tagged_schema(None)
        changed = self._rewrite_parts(without_ref(node), python_only)
        match kind:
            case "set" | "frozenset" if serialization is None:
                return self._sorted(changed)
            case "dict" if serialization is None:
                return self._dict(node, changed)
            case "enum" if serialization is None:
                return enum_schema(changed)
            case "union" if serialization is None and not python_only:
                return self._union(node, changed)
            case "default" if changed.get("default", ...) is None:
                changed["schema"] = {"type": "nullable", "schema": changed["schema"]}
            case "bytes":
                changed.setdefault("strict", True)  # or a str would be read as base64
            case "generator":
                return {"type": "list", "items_schema": changed.get("items_schema", tagged_schema(None))}
            case "list":
                changed.setdefault("items_schema", tagged_schema(None))
            case "model" | "dataclass":
                changed["config"] = {**_CORE_CONFIG, **changed.get("config", {})}
            case "typed-dict":
                changed["config"] = {**_CORE_CONFIG, **changed.get("config", {})}
                changed.pop("computed_fields", None)
            case "model-fields":
                changed.pop("computed_fields", None)  # derived: not an input, so not stored
            case "dataclass-args":
                changed.pop("computed_fields", None)
                changed["fields"] = [{**field, "init": True} for field in changed["fields"]]
        return changed

    def _rewrite_parts(self, node: Node, python_only: bool) -> Node:
        for key in _SINGLE:
            part = node.get(key)
            if isinstance(part, dict):
                node[key] = self.rewrite(part, python_only=python_only)
            elif isinstance(part, list):  # the items of a tuple
                node[key] = [self.rewrite(item, python_only=python_only) for item in part]
        if "python_schema" in node:
            node["python_schema"] = self.rewrite(node["python_schema"], python_only=True)
        serialization = node.get("serialization")
        if serialization is not None and "schema" in serialization:
            node["serialization"] = {**serialization, "schema": self.rewrite(serialization["schema"])}
        if "steps" in node:
            node["steps"] = [self.rewrite(step, python_only=python_only) for step in node["steps"]]
        choices = node.get("choices")
        if isinstance(choices, dict):
            node["choices"] = {k: self._part(v, python_only) for k, v in choices.items()}
        elif isinstance(choices, list):
            node["choices"] = [self._part(choice, python_only) for choice in choices]
        fields = node.get("fields")
        if isinstance(fields, dict):
            node["fields"] = {name: self._rewrite_parts(dict(f), python_only) for name, f in fields.items()}
        elif isinstance(fields, list) and node["type"] != "dataclass":
            node["fields"] = [self._rewrite_parts(dict(field), python_only) for field in fields]
        return node

    def _part(self, part: Any, python_only: bool) -> Any:
        if isinstance(part, tuple):  # a union's choice with a label for its errors
            return (self.rewrite(part[0], python_only=python_only), part[1])
        return self.rewrite(part, python_only=python_only) if isinstance(part, dict) else part

    def _standalone(self, node: Node) -> Any:
        """A schema that stands on its own: with the definitions it may refer to."""
        if not self._definitions:
            return node
        return {"type": "definitions", "schema": node, "definitions": self._definitions}

    def _sorted(self, node: Node) -> Node:
        items = node.get("items_schema", tagged_schema(None))
        encode = Lazily(lambda: SchemaSerializer(self._standalone(items), _CORE_CONFIG, _use_prebuilt=False).to_json)

        def in_order(value: Any) -> list[Any]:
            kinds = set(map(type, value))
            return sorted(value) if kinds <= {int} or kinds <= {str} else sorted(value, key=encode.get())

        out = {"type": "list", "items_schema": items}
        return {**node, "items_schema": items, "serialization": plain_serializer(in_order, out)}

    def _dict(self, original: Node, node: Node) -> Node:
        keys = original.get("keys_schema", {"type": "any"})
        items = original.get("values_schema", {"type": "any"})
        if keys["type"] == "any" and items["type"] == "any":
            return tagged_schema(dict)
        if keys["type"] in _TEXT_KEYS:
            return node
        pair: Node = {
            "type": "tuple",
            "items_schema": [
                node.get("keys_schema", tagged_schema(None)),
                node.get("values_schema", tagged_schema(None)),
            ],
        }
        pairs: Node = {"type": "list", "items_schema": pair}
        return {
            "type": "json-or-python",
            "json_schema": after(pairs, dict),
            "python_schema": node,
            "serialization": plain_serializer(lambda value: list(value.items()), pairs),
        }

    def _union(self, original: Node, node: Node) -> Node:
        choices = [choice[0] if isinstance(choice, tuple) else choice for choice in node["choices"]]
        originals = [choice[0] if isinstance(choice, tuple) else choice for choice in original["choices"]]
        shapes = [self._shape(choice) for choice in originals]
        if sum(map(len, shapes)) == len(frozenset().union(*shapes)):
            return node  # JSON tells them apart
        labels = self._labels(originals)
        wire: Node = {
            "type": "typed-dict",
            "config": _CORE_CONFIG,
            "fields": {
                label: {"type": "typed-dict-field", "schema": choice, "required": False}
                for label, choice in zip(labels, choices, strict=True)
            },
        }
        chooser: Node = {
            "type": "union",
            "choices": [after(choice, labeller(label)) for label, choice in zip(labels, choices, strict=True)],
        }
        validate = Lazily(
            lambda: SchemaValidator(self._standalone(chooser), _CORE_CONFIG, _use_prebuilt=False).validate_python
        )
        choose = by_exact_type([self._named(choice) for choice in originals], labels, validate)
        read_tagged: list[Node] = [
            after(
                {
                    "type": "typed-dict",
                    "extra_behavior": "forbid",
                    "config": _CORE_CONFIG,
                    "fields": {label: {"type": "typed-dict-field", "schema": choice, "required": True}},
                },
                only_member,
            )
            for label, choice in zip(labels, choices, strict=True)
        ]
        return {
            "type": "json-or-python",
            "json_schema": {"type": "union", "mode": "left_to_right", "choices": [*read_tagged, node]},
            "python_schema": node,
            "serialization": plain_serializer(choose, wire),
        }

    def _labels(self, choices: list[Node]) -> list[str]:
        labels: list[str] = []
        for choice in choices:
            named = self._named(choice)
            cls = named.get("cls")
            label = cls.__name__ if isinstance(cls, type) else str(named["type"])
            labels.append(label if label not in labels else f"{label}#{len(labels)}")
        return labels

    def _named(self, node: Node) -> Node:
        while True:
            if node["type"] == "definition-ref":
                node = self._originals[node["schema_ref"]]
            elif node["type"].startswith("function-") and "schema" in node:
                node = node["schema"]
            else:
                return node

    def _shape(self, node: Node) -> frozenset[str]:
        """The kinds of JSON value a node may be written as: null, bool, int, float, string, array, object."""
        kind = node["type"]
        cls = node.get("cls")
        if "serialization" in node or (isinstance(cls, type) and classes.registered(cls) is not None):
            return frozenset(_EVERY_SHAPE)
        match kind:
            case "definition-ref":
                return self._shape(self._originals[node["schema_ref"]])
            case "nullable":
                return self._shape(node["schema"]) | {"n"}
            case "model" if node.get("root_model"):
                return frozenset(_EVERY_SHAPE)
            case "dict":
                return frozenset("oa")
            case "default" | "function-after" | "function-before" | "function-wrap":
                return self._shape(node["schema"])
            case "union":
                parts = [choice[0] if isinstance(choice, tuple) else choice for choice in node["choices"]]
                return frozenset().union(*map(self._shape, parts))
            case "literal":
                return frozenset(
                    {bool: "b", int: "i", str: "s", type(None): "n"}.get(type(v), "s") for v in node["expected"]
                )
            case _:
                return frozenset(_SHAPES.get(kind, _EVERY_SHAPE))
