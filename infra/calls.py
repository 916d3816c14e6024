"""Which AWS operations the code calls: read off the source of the ``aws`` backend, nothing is run.

The backend has one way to call AWS, ``clients.call("dynamodb", "PutItem", …)``. A method is followed to there through
the backend's own functions: what it refers to is found by the annotations of parameters and by what ``__init__``
assigns. A name that cannot be resolved so is taken to be no function of ours.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

BACKEND: Final = Path("adapter/everstep/backends/aws")

Function: TypeAlias = "tuple[str, str]"
"""Class and method, or module and function."""


@dataclass(slots=True)
class _Class:
    methods: dict[str, ast.FunctionDef] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    module: str = ""


@dataclass(slots=True)
class _Module:
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    imported: dict[str, str] = field(default_factory=dict)
    """Names that stand for a module of the backend, and names that come from one, as ``module.name``."""


class BackendSource:
    """The backend's source, parsed."""

    def __init__(self, root: Path) -> None:
        self._modules: dict[str, _Module] = {}
        self._classes: dict[str, _Class] = {}
        trees = {path.stem: ast.parse(path.read_text()) for path in sorted((root / BACKEND).glob("*.py"))}
        for name, tree in trees.items():
            self._read(name, tree)
        for owner in self._classes.values():
            if "__init__" in owner.methods:
                owner.attributes.update(self._assigned(owner.methods["__init__"]))
        self._ports = self._find_ports(trees.get("__init__", ast.Module(body=[], type_ignores=[])))

    @property
    def ports(self) -> Mapping[str, str]:
        """Fields of ``Backend`` and the classes that implement them: ``{"runs": "DynamoRunStore", …}``."""
        return self._ports

    def methods(self, port: str) -> frozenset[str]:
        """Public methods of what implements a port."""
        return frozenset(name for name in self._classes[self._ports[port]].methods if not name.startswith("_"))

    def operations(self, use: str) -> frozenset[str]:
        """What ``runs.append`` may call, such as ``dynamodb:PutItem``, directly or by way of others."""
        port, _, method = use.partition(".")
        if method not in self.methods(port):
            raise ValueError(f"{self._ports[port]} has no method {method}")
        seen: set[Function] = set()
        left: list[Function] = [(self._ports[port], method)]
        found: set[str] = set()
        while left:
            each = left.pop()
            if each in seen:
                continue
            seen.add(each)
            found |= set(_called(self._definition(each)))
            left += self._references(each)
        return frozenset(found)

    def all_operations(self) -> frozenset[str]:
        """Whatever is called anywhere in the backend."""
        methods = [each for owner in self._classes.values() for each in owner.methods.values()]
        functions = [each for module in self._modules.values() for each in module.functions.values()]
        return frozenset(operation for each in (*methods, *functions) for operation in _called(each))

    # --- reading ---------------------------------------------------------------------------------

    def _read(self, name: str, tree: ast.Module) -> None:
        module = self._modules[name] = _Module()
        package = str(BACKEND.relative_to("adapter")).replace("/", ".")
        for node in tree.body:
            match node:
                case ast.FunctionDef():
                    module.functions[node.name] = node
                case ast.ClassDef():
                    methods = {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}
                    fields = {
                        each.target.id: _class_of(each.annotation)
                        for each in node.body
                        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
                    }
                    self._classes[node.name] = _Class(methods=methods, attributes=fields, module=name)
                case ast.ImportFrom(module=str(source), names=names) if source.startswith(package):
                    origin = source.removeprefix(package).lstrip(".")
                    for alias in names:
                        module.imported[alias.asname or alias.name] = f"{origin}.{alias.name}".lstrip(".")
                case _:
                    pass

    def _assigned(self, function: ast.FunctionDef) -> Iterator[tuple[str, str]]:
        parameters = _parameters(function)
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
                match node.value:
                    case ast.Name(id=name) if name in parameters:
                        yield node.targets[0].attr, parameters[name]
                    case ast.Call(func=ast.Name(id=name)):
                        yield node.targets[0].attr, name
                    case _:
                        pass

    def _find_ports(self, tree: ast.Module) -> dict[str, str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Backend":
                return {
                    keyword.arg: keyword.value.func.id
                    for keyword in node.keywords
                    if keyword.arg
                    and isinstance(keyword.value, ast.Call)
                    and isinstance(keyword.value.func, ast.Name)
                    and keyword.value.func.id in self._classes
                }
        return {}

    # --- resolving -------------------------------------------------------------------------------

    def _definition(self, function: Function) -> ast.FunctionDef:
        owner, name = function
        if owner in self._classes:
            return self._classes[owner].methods[name]
        return self._modules[owner].functions[name]

    def _references(self, function: Function) -> list[Function]:
        owner, _ = function
        definition = self._definition(function)
        module = self._classes[owner].module if owner in self._classes else owner
        types = _parameters(definition)
        if owner in self._classes:
            types["self"] = owner
        found: list[Function] = []
        for node in ast.walk(definition):
            match node:
                case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                    found += self._method(types.get(name, ""), attribute)
                    imported = self._modules[module].imported.get(name, "")
                    found += self._function(imported, attribute)
                case ast.Attribute(value=ast.Attribute(value=ast.Name(id=name), attr=inner), attr=attribute):
                    holder = self._classes.get(types.get(name, ""), _Class())
                    found += self._method(holder.attributes.get(inner, ""), attribute)
                case ast.Name(id=name):
                    found += self._function(module, name)
                    source, _, original = self._modules[module].imported.get(name, "").rpartition(".")
                    found += self._function(source, original)
                case _:
                    pass
        return found

    def _method(self, owner: str, name: str) -> list[Function]:
        return [(owner, name)] if name in self._classes.get(owner, _Class()).methods else []

    def _function(self, module: str, name: str) -> list[Function]:
        return [(module, name)] if name in self._modules.get(module, _Module()).functions else []


def _parameters(function: ast.FunctionDef) -> dict[str, str]:
    arguments = function.args
    every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    return {each.arg: _class_of(each.annotation) for each in every}


def _class_of(annotation: ast.expr | None) -> str:
    """The class that an annotation names, optional or not."""
    match annotation:
        case ast.Name(id=name):
            return name
        case ast.BinOp(left=left):
            return _class_of(left)
        case ast.Subscript(value=ast.Name(id="Final" | "Optional"), slice=inner):
            return _class_of(inner)
        case _:
            return ""


def _called(function: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(function):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="call"),
                args=[ast.Constant(value=str(service)), ast.Constant(value=str(operation)), *_],
            ):
                yield f"{service}:{operation}"
            case _:
                pass


def backend_uses(root: Path, *packages: str) -> frozenset[str]:
    """Which methods of the backend's ports code above it uses, as in ``backend.runs.append``.

    Args:
        packages: folders or modules under ``adapter/everstep``.
    """
    source = BackendSource(root)
    found: set[str] = set()
    for package in packages:
        place = root / "adapter" / "everstep" / package
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.Attribute(value=ast.Attribute(attr=port), attr=method) if port in source.ports:
                        if method in source.methods(port):
                            found.add(f"{port}.{method}")
                    case _:
                        pass
    return frozenset(found)
