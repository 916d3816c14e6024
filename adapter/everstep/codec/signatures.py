"""What a function's signature says: how a call binds to it, and what its annotations are."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature
from types import SimpleNamespace
from typing import Any, Final, NoReturn, Optional, get_type_hints

__all__ = ["STAR", "Binder", "Hints", "signature_of"]

STAR: Final = "*"
"""The name under which values without a name travel: positional-only ones and ``*args``."""

_ANY_CALL: Final = Signature([Parameter("args", Parameter.VAR_POSITIONAL), Parameter("kwargs", Parameter.VAR_KEYWORD)])


def signature_of(func: Callable[..., Any]) -> Signature:
    """The signature, with annotations left as they are written. A callable without one takes anything."""
    try:
        if sys.version_info >= (3, 14):
            from annotationlib import Format

            return inspect.signature(func, annotation_format=Format.FORWARDREF)
        return inspect.signature(func)
    except (ValueError, TypeError):
        return _ANY_CALL


_OR_NONE: Final[Any] = Optional


class Binder:
    """Binds a call to names, faster than `Signature.bind`, and in the order of the signature.

    Attributes:
        simple: every value has a name of its own: no positional-only parameters, ``*args`` or ``**kwargs``.
        positional: names of the parameters that a position can give.
        named: names of the parameters that a keyword can give.
    """

    def __init__(self, signature: Signature, name: str) -> None:
        self._signature = signature
        self._name = name
        parameters = signature.parameters.values()
        only = [p.name for p in parameters if p.kind is Parameter.POSITIONAL_ONLY]
        self.only_positional = len(only)
        self.positional = (*only, *(p.name for p in parameters if p.kind is Parameter.POSITIONAL_OR_KEYWORD))
        self.named = tuple(
            p.name for p in parameters if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        )
        self.star = next((p.name for p in parameters if p.kind is Parameter.VAR_POSITIONAL), None)
        self.extras = next((p.name for p in parameters if p.kind is Parameter.VAR_KEYWORD), None)
        self.simple = not (only or self.star or self.extras)
        self._names = frozenset(self.named)
        self._by_position = frozenset(self.positional[len(only) :])
        required = [p for p in parameters if p.default is Parameter.empty]
        self._required = frozenset(p.name for p in required if p.name in self._names)
        self._required_only = sum(p.kind is Parameter.POSITIONAL_ONLY for p in required)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a call by name, for a simple signature."""
        if len(args) > len(self.positional):
            self._fail(args, kwargs)
        bound = dict(zip(self.positional, args, strict=False))
        if kwargs:
            if not self._names.issuperset(kwargs) or not bound.keys().isdisjoint(kwargs):
                self._fail(args, kwargs)
            bound.update(kwargs)
            if len(kwargs) > 1 or len(bound) > len(args) + 1:
                bound = {name: bound[name] for name in self.named if name in bound}
        if len(bound) < len(self.named) and not self._required.issubset(bound):
            self._fail(args, kwargs)
        return bound

    def takes(self, members: Mapping[str, Any]) -> bool:
        """Whether a simple function can be called with these members."""
        return self._names.issuperset(members) and self._required.issubset(members)

    def missing(self, members: Mapping[str, Any]) -> str | None:
        """The first parameter without a default that has no value."""
        return next((name for name in self.named if name in self._required and name not in members), None)

    def bind_star(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
        """The values of any call: those without a name, those of parameters, those of ``**kwargs``."""
        given = len(args)
        if given > len(self.positional):
            if self.star is None or not self._by_position.isdisjoint(kwargs):
                self._fail(args, kwargs)
            nameless, bound = list(args), {}
        else:
            nameless = list(args[: self.only_positional])
            names = self.positional[self.only_positional :]
            bound = dict(zip(names, args[self.only_positional :], strict=False))
        if not bound.keys().isdisjoint(kwargs):
            self._fail(args, kwargs)
        extras = {name: kwargs[name] for name in kwargs if name not in self._names}
        if extras and self.extras is None:
            self._fail(args, kwargs)
        bound.update({name: kwargs[name] for name in kwargs if name in self._names})
        missing = self._required.difference(bound)
        if given > len(self.positional):
            missing = missing.difference(self.positional)
        if missing or given < self._required_only:
            self._fail(args, kwargs)
        return nameless, {name: bound[name] for name in self.named if name in bound}, extras

    def _fail(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> NoReturn:
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._name}() {error}") from None
        raise TypeError(f"{self._name}() cannot be called with these arguments")


class Hints:
    """The annotations of a function, resolved one by one: one that cannot be resolved does not spoil the others.

    Attributes:
        of: by parameter name; ``return`` for the result. Parameters without an annotation are missing.
        unresolved: why an annotation is missing, by name.
    """

    def __init__(self, func: Callable[..., Any], signature: Signature) -> None:
        self.of: dict[str, Any] = {}
        self.unresolved: dict[str, str] = {}
        plain = inspect.unwrap(func)
        plain = getattr(plain, "__func__", plain)
        space = getattr(plain, "__globals__", None)
        if space is None:
            space = vars(sys.modules.get(getattr(plain, "__module__", None) or "", SimpleNamespace()))
        local = _closure(plain)
        for parameter in signature.parameters.values():
            self._resolve(parameter.name, parameter.annotation, space, local)
            if parameter.default is None and parameter.name in self.of:
                self.of[parameter.name] = _OR_NONE[self.of[parameter.name]]  # x: int = None, as people write it
        self._resolve("return", signature.return_annotation, space, local)

    def _resolve(self, name: str, annotation: Any, space: dict[str, Any], local: dict[str, Any]) -> None:
        if annotation is Parameter.empty:
            return
        holder = SimpleNamespace(__annotations__={"it": annotation})
        try:
            hint = get_type_hints(holder, globalns=space, localns=local, include_extras=True)["it"]
        except Exception as error:  # NameError, and whatever an expression in a string may raise
            text = annotation if isinstance(annotation, str) else repr(annotation)
            self.unresolved[name] = f"its annotation {text!r} cannot be resolved ({type(error).__name__}: {error})"
        else:
            self.of[name] = hint


def _closure(func: Any) -> dict[str, Any]:
    found: dict[str, Any] = {parameter.__name__: parameter for parameter in getattr(func, "__type_params__", ())}
    code = getattr(func, "__code__", None)
    for name, cell in zip(getattr(code, "co_freevars", ()), getattr(func, "__closure__", None) or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not yet assigned
            continue
    return found
