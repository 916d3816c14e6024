"""Read ``template.yaml`` as plain data, and resolve what refers to parameters and resources.

Only as much of CloudFormation as the template uses: ``Ref``, ``GetAtt``, ``Sub``, ``If``, ``FindInMap``, ``Join``,
``Select`` and the conditions. What cannot be resolved is a `TemplateError` that names it, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias, cast

import yaml

Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"

TEMPLATE: Final = Path(__file__).resolve().parent.parent / "template.yaml"

_NO_VALUE: Final = {"Ref": "AWS::NoValue"}
_SUB: Final = re.compile(r"\$\{(!?)([^}]+)\}")


class TemplateError(Exception):
    """The template does not hold what was asked for, or holds something that this module does not know."""


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short tags: ``!Ref X`` becomes ``{"Ref": "X"}``, ``!Sub X`` ``{"Fn::Sub": "X"}``."""


def _construct(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Value]:
    value: Value
    match node:
        case yaml.ScalarNode():
            value = loader.construct_scalar(node)
        case yaml.SequenceNode():
            value = loader.construct_sequence(node, deep=True)
        case yaml.MappingNode():
            value = cast("dict[str, Value]", loader.construct_mapping(node, deep=True))
        case _:
            raise TemplateError(f"!{suffix}: unknown YAML node")
    if suffix == "GetAtt" and isinstance(value, str):
        value = list(value.split(".", 1))
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _construct)


@dataclass(frozen=True, slots=True)
class Template:
    """The template's sections, unresolved."""

    sections: Mapping[str, Value]

    @property
    def resources(self) -> Mapping[str, Mapping[str, Value]]:
        return cast("Mapping[str, Mapping[str, Value]]", self.section("Resources"))

    @property
    def parameters(self) -> Mapping[str, Mapping[str, Value]]:
        return cast("Mapping[str, Mapping[str, Value]]", self.section("Parameters"))

    def section(self, name: str) -> Mapping[str, Value]:
        return mapping(self.sections.get(name, {}), name)

    def of_type(self, kind: str) -> Iterator[str]:
        """Logical ids of the resources of a type, in the template's order."""
        return (name for name, resource in self.resources.items() if resource.get("Type") == kind)

    def properties(self, logical_id: str) -> Mapping[str, Value]:
        """A resource's properties; for a function, with the template's globals."""
        resource = self.resources.get(logical_id)
        if resource is None:
            raise TemplateError(f"no resource {logical_id}")
        own = mapping(resource.get("Properties", {}), logical_id)
        if resource.get("Type") != "AWS::Serverless::Function":
            return own
        shared = mapping(self.section("Globals").get("Function", {}), "Globals.Function")
        return cast("Mapping[str, Value]", _merge(shared, own))

    def defaults(self) -> dict[str, str]:
        """Every parameter that has a default, as text, which is what CloudFormation makes of it."""
        return {name: str(each["Default"]) for name, each in self.parameters.items() if "Default" in each}


def load_template(path: Path = TEMPLATE) -> Template:
    loaded: object = yaml.load(path.read_text(), Loader=_Loader)
    if not isinstance(loaded, dict):
        raise TemplateError(f"{path.name} is not a mapping")
    return Template(loaded)


def mapping(value: Value, what: str) -> Mapping[str, Value]:
    if not isinstance(value, Mapping):
        raise TemplateError(f"{what}: expected a mapping, found {value!r}")
    return value


def sequence(value: Value, what: str) -> Sequence[Value]:
    """A list; one value stands for a list of one, as in policies."""
    if isinstance(value, list):
        return value
    if value is None:
        raise TemplateError(f"{what}: expected a list, found nothing")
    return [value]


def _merge(shared: Value | Mapping[str, Value], own: Value | Mapping[str, Value]) -> Value:
    """As SAM merges globals: mappings key by key, lists one after the other, else the function's own wins."""
    if isinstance(shared, Mapping) and isinstance(own, Mapping):
        merged: dict[str, Value] = dict(shared)
        for key, value in own.items():
            merged[key] = _merge(shared[key], value) if key in shared else value
        return merged
    if isinstance(shared, list) and isinstance(own, list):
        return [*shared, *own]
    return cast("Value", own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What references resolve to.

    Attributes:
        parameters: values given to parameters; the defaults fill in the rest.
        pseudo: ``AWS::Region`` and the like.
        refs: what ``Ref`` of a resource gives.
        attributes: what ``GetAtt`` gives, by ``LogicalId.Attribute``.
    """

    template: Template
    parameters: Mapping[str, str] = field(default_factory=dict)
    pseudo: Mapping[str, str] = field(default_factory=dict)
    refs: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.parameters) - set(self.template.parameters))
        if unknown:
            raise TemplateError(f"no parameter {', '.join(unknown)}")

    def resolve(self, value: Value | Mapping[str, Value]) -> Value:
        """The value with every function evaluated and every ``AWS::NoValue`` left out."""
        if isinstance(value, list):
            return [self.resolve(each) for each in value if not self._is_nothing(each)]
        if not isinstance(value, Mapping):
            return value
        if len(value) == 1:
            ((name, argument),) = value.items()
            if name == "Ref":
                return self.ref(_text(argument, "Ref"))
            if name.startswith("Fn::"):
                return self._call(name, argument)
        return {key: self.resolve(each) for key, each in value.items() if not self._is_nothing(each)}

    def text(self, value: Value) -> str:
        """The value resolved, as CloudFormation would write it."""
        return _text(self.resolve(value), "value")

    def ref(self, name: str) -> str:
        if name in self.template.parameters:
            if name in self.parameters:
                return self.parameters[name]
            if "Default" in self.template.parameters[name]:
                return str(self.template.parameters[name]["Default"])
            raise TemplateError(f"parameter {name} has no value")
        for known in (self.pseudo, self.refs):
            if name in known:
                return known[name]
        raise TemplateError(f"Ref {name}: not known here")

    def attribute(self, name: str) -> str:
        if name not in self.attributes:
            raise TemplateError(f"GetAtt {name}: not known here")
        return self.attributes[name]

    def holds(self, condition: str) -> bool:
        conditions = self.template.section("Conditions")
        if condition not in conditions:
            raise TemplateError(f"no condition {condition}")
        return self._test(conditions[condition])

    def _test(self, value: Value) -> bool:
        match value:
            case {"Condition": str(name)}:
                return self.holds(name)
            case {"Fn::Equals": [left, right]}:
                return self.text(left) == self.text(right)
            case {"Fn::Not": [each]}:
                return not self._test(each)
            case {"Fn::And": list(each)}:
                return all(self._test(one) for one in each)
            case {"Fn::Or": list(each)}:
                return any(self._test(one) for one in each)
            case _:
                raise TemplateError(f"unknown condition {value!r}")

    def _is_nothing(self, value: Value) -> bool:
        while isinstance(value, Mapping) and "Fn::If" in value:
            value = self._branch(value["Fn::If"])
        return value == _NO_VALUE

    def _branch(self, argument: Value) -> Value:
        match argument:
            case [str(condition), then, otherwise]:
                return then if self.holds(condition) else otherwise
            case _:
                raise TemplateError(f"Fn::If {argument!r}")

    def _call(self, name: str, argument: Value) -> Value:
        match name, argument:
            case "Fn::GetAtt", [str(resource), str(attribute)]:
                return self.attribute(f"{resource}.{attribute}")
            case "Fn::Sub", str(text):
                return self._substitute(text, {})
            case "Fn::Sub", [str(text), dict(values)]:
                return self._substitute(text, {key: self.text(each) for key, each in values.items()})
            case "Fn::If", _:
                return self.resolve(self._branch(argument))
            case "Fn::FindInMap", [table, first, second]:
                return self._find(self.text(table), self.text(first), self.text(second))
            case "Fn::Join", [str(separator), list(parts)]:
                return separator.join(self.text(each) for each in parts)
            case "Fn::Select", [index, list(parts)]:
                return self.resolve(parts[int(self.text(index))])
            case _:
                raise TemplateError(f"{name} {argument!r}: unknown")

    def _find(self, table: str, first: str, second: str) -> Value:
        rows = mapping(self.template.section("Mappings").get(table), f"mapping {table}")
        return mapping(rows.get(first), f"mapping {table} for {first}")[second]

    def _substitute(self, text: str, values: Mapping[str, str]) -> str:
        def one(found: re.Match[str]) -> str:
            literal, name = found.groups()
            if literal:
                return f"${{{name}}}"
            if name in values:
                return values[name]
            lookup: Callable[[str], str] = self.attribute if "." in name else self.ref
            return lookup(name)

        return _SUB.sub(one, text)


def _text(value: Value, what: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise TemplateError(f"{what}: expected text, found {value!r}")
