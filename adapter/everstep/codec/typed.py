"""Payloads typed by annotations: the arguments and the result of a function, or a single value.

A call is one JSON object: parameters by name, in the order of the signature, so that the same call has the same bytes
however it is spelled. Values without a name (positional-only, ``*args``) are an array under ``*``. Omitted defaults are
not stored, so a parameter with a default may be added while runs are under way.

Annotated values are checked and converted by pydantic before they are stored, so the callee gets what was checked.
Values without annotation use the tagged form of `everstep.codec.values`. Pydantic is imported at the first use.

What comes back differs from what went in where pydantic says so: a subclass instance comes back as the annotated class,
a ``Sequence[int]`` as a list, a `datetime` with its UTC offset instead of its zone, a compiled pattern without flags;
excluded and computed fields and private attributes of models are not stored. Validators run on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

from everstep.codec import values
from everstep.codec.jsontext import make_scanner, quote, write
from everstep.codec.problems import ONLY, inbound_error, outbound_error, same
from everstep.codec.signatures import STAR, Binder, Hints, signature_of
from everstep.errors import SerializationError, TypeValidationError

if TYPE_CHECKING:
    from everstep.codec.schemas import Schema

__all__ = ["SignatureCodec", "ValueCodec"]

_HUGE_NUMBER: Final = re.compile(rb"[0-9]{4300}")
_scan: Final = make_scanner()


class _Members:
    """Named values of which at least one is typed. The schema is built at the first use."""

    def __init__(self, annotations: Mapping[str, Any], what: str, notes: Mapping[str, str]) -> None:
        self._annotations = dict(annotations)
        self._what = what
        self._notes = dict(notes)
        self._schema: Schema | None = None

    def schema(self) -> Schema:
        from everstep.codec.schemas import members_schema

        self._schema, failing = members_schema(self._annotations)
        for name in failing:
            self._notes[name] = f"its annotation {self._annotations[name]!r} has no schema in pydantic"
        return self._schema

    def encode(self, members: dict[str, Any]) -> bytes:
        schema = self._schema or self.schema()
        try:
            checked = schema.check(members)
            data = schema.dump(checked)
            if len(data) > 190 or b"\xef\xbf\xbd" in data:
                self._check_readable(schema, checked, data)
            if not schema.built_in_only:  # nobody looked at all that is in a model: its limits, None where none may be
                schema.load(data)
            return data
        except Exception as error:
            raise outbound_error(error, self._what, self._notes, schema, members) from error

    def encode_foreign(self, members: dict[str, Any]) -> bytes:
        schema = self._schema or self.schema()
        try:
            members = schema.from_foreign_json(write(members))
        except Exception as error:
            raise outbound_error(error, self._what, self._notes, schema, None) from error
        return self.encode(members)

    def decode(self, data: bytes) -> dict[str, Any]:
        schema = self._schema or self.schema()
        try:
            members: dict[str, Any] = schema.load(data)
            return members
        except Exception as error:
            raise inbound_error(error, self._what, data) from error

    def _check_readable(self, schema: Schema, checked: Any, data: bytes) -> None:
        """Refuse what pydantic writes but cannot read: deep nesting, huge ints, lone surrogates in keys (as U+FFFD)."""
        if (len(data) > 4300 and _HUGE_NUMBER.search(data)) or data.count(b"[") + data.count(b"{") > 190:
            from pydantic_core import from_json

            try:
                from_json(data)
            except ValueError as error:
                raise SerializationError(f"it cannot be read back ({error}); flatten it, or store it as text") from None
        if b"\xef\xbf\xbd" in data and schema.load(data) != checked:
            raise SerializationError("a dict key holds text that is not valid Unicode (a lone surrogate)")


class ValueCodec:
    """One value of an annotation.

    Args:
        annotation: a resolved annotation; `typing.Any` for the tagged form.
        what: names the value in messages: "result of step 'charge'".
        note: why the annotation is not the one in the source, for messages.
    """

    __slots__ = ("_members", "_none", "_note", "what")

    def __init__(self, annotation: Any, what: str, *, note: str | None = None) -> None:
        self.what = what
        self._note = note
        self._none = annotation is None or annotation is NoneType
        typed = annotation is not Any and annotation is not object
        self._members = _Members({ONLY: annotation}, what, {ONLY: note} if note else {}) if typed else None

    def encode(self, value: Any) -> bytes:
        """The bytes of a value.

        Raises:
            TypeValidationError: the value does not fit the annotation.
            SerializationError: the value cannot be stored.
        """
        if self._members is None:
            try:
                return values.encode(value, where=self.what)
            except SerializationError as error:
                raise _with_note(error, self._note) from error.__cause__
        if self._none and value is None:
            return b"null"
        return self._members.encode({ONLY: value})[5:-1]  # {"=":…}

    def decode(self, data: bytes) -> Any:
        """The value of bytes made by `encode`.

        Raises:
            TypeValidationError: the stored value does not fit the annotation.
            SerializationError: the bytes are damaged.
        """
        if self._members is None:
            return values.decode(data)
        if self._none and data == b"null":
            return None
        return self._members.decode(b'{"=":%b}' % data)[ONLY]

    def encode_json(self, value: Any) -> bytes:
        """The bytes of a value that came from a person or another program as parsed JSON."""
        if self._members is None:
            return values.encode(value, where=self.what)
        return self._members.encode_foreign({ONLY: value})[5:-1]

    def same_value(self, a: bytes, b: bytes) -> bool:
        """Whether two encoded values mean the same."""
        return a == b or same(self.decode(a), self.decode(b))


class SignatureCodec:
    """The calls and results of one function.

    Args:
        func: the function; its annotations are resolved at the first use.
        what: names the function in messages: "step 'charge'".
    """

    def __init__(self, func: Callable[..., Any], what: str) -> None:
        self._func = func
        self.what = what
        self._signature = signature_of(func)
        self._binder = Binder(self._signature, getattr(func, "__name__", type(func).__name__))
        self._bind = self._binder.bind if self._binder.simple else None
        self._hints: Hints | None = None
        self._members: _Members | None = None
        self._codecs: dict[str, ValueCodec] = {}
        self._result: ValueCodec | None = None
        self._ready = False

    def encode_call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
        """The bytes of a call.

        Raises:
            TypeError: the function cannot be called like this.
            TypeValidationError: a value does not fit its annotation.
            SerializationError: a value cannot be stored.
        """
        if self._bind is None:
            return self._encode_star(*self._binder.bind_star(args, kwargs), foreign=False)
        bound = self._bind(args, kwargs)
        if not bound:
            return b"{}"
        if not self._ready:
            self._prepare()
        if self._members is not None:
            return self._members.encode(bound)
        try:
            return values.encode_members(bound, self.what)
        except SerializationError as error:
            raise self._noted(error) from error.__cause__

    def encode_json(self, value: Any) -> bytes:
        """The call that parsed JSON from the command line or HTTP asks for: an object by name, an array by position.

        Raises:
            TypeError, TypeValidationError, SerializationError: as `encode_call`.
        """
        if type(value) is dict:
            args, kwargs = [], value
        elif type(value) is list:
            args, kwargs = value, {}
        else:
            raise TypeValidationError(
                f"{self.what}: the input must be a JSON object (arguments by name) or a JSON array (arguments by "
                f"position), not {type(value).__name__}"
            )
        if self._bind is None:
            return self._encode_star(*self._binder.bind_star(args, kwargs), foreign=True)
        bound = self._bind(args, kwargs)
        if not bound:
            return b"{}"
        if not self._ready:
            self._prepare()
        return values.encode_members(bound, self.what) if self._members is None else self._members.encode_foreign(bound)

    def decode_call(self, data: bytes) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments to call the function with.

        Raises:
            TypeValidationError: the stored arguments do not fit the function any more.
            SerializationError: the bytes are damaged.
        """
        if self._bind is None:
            return self._decode_star(data)
        if data == b"{}":
            self._require({})
            return [], {}
        if not self._ready:
            self._prepare()
        members = values.decode_members(data) if self._members is None else self._members.decode(data)
        if not self._binder.takes(members):
            for name in members:
                if name not in self._binder.named:
                    raise self._no_longer_taken(name)
            self._require(members)
        return [], members

    def encode_result(self, value: Any) -> bytes:
        """The bytes of what the function returned.

        Raises:
            TypeValidationError: the value does not fit the return annotation.
            SerializationError: the value cannot be stored.
        """
        return (self._result or self._result_codec()).encode(value)

    def decode_result(self, data: bytes) -> Any:
        """What the function returned.

        Raises:
            TypeValidationError: the stored result does not fit the return annotation any more.
            SerializationError: the bytes are damaged.
        """
        return (self._result or self._result_codec()).decode(data)

    def same_call(self, a: bytes, b: bytes) -> bool:
        """Whether two encoded calls mean the same values. Slow: for bytes that differ."""
        if a == b:
            return True
        try:
            return same(self.decode_call(a), self.decode_call(b))
        except SerializationError:
            return False

    # --- how it is done ---

    def _resolved(self) -> Hints:
        if self._hints is None:
            self._hints = Hints(self._func, self._signature)
        return self._hints

    def _prepare(self) -> None:
        hints = self._resolved()
        annotations = {name: hints.of.get(name, Any) for name in self._binder.named}
        if any(annotation is not Any and annotation is not object for annotation in annotations.values()):
            self._members = _Members(annotations, self.what, hints.unresolved)
        self._ready = True

    def _result_codec(self) -> ValueCodec:
        hints = self._resolved()
        note = hints.unresolved.get("return")
        self._result = ValueCodec(hints.of.get("return", Any), f"result of {self.what}", note=note)
        return self._result

    def _no_longer_taken(self, name: str) -> TypeValidationError:
        return TypeValidationError(
            f"stored input of {self.what} has parameter {name!r}, which the function no longer takes: restore the "
            f"parameter, or let the runs that have it finish first"
        )

    def _require(self, members: Mapping[str, Any]) -> None:
        missing = self._binder.missing(members)
        if missing is not None:
            raise TypeValidationError(
                f"stored input of {self.what} has no parameter {missing!r}, and the function has no default for it: "
                f"give it a default, or let the runs that lack it finish first"
            )

    def _noted(self, error: SerializationError) -> SerializationError:
        note = next((n for name, n in self._resolved().unresolved.items() if f"parameter {name!r}" in str(error)), None)
        return _with_note(error, note)

    def _codec(self, name: str) -> ValueCodec:
        codec = self._codecs.get(name)
        if codec is None:
            hints = self._resolved()
            note = hints.unresolved.get(name)
            codec = ValueCodec(hints.of.get(name, Any), f"{self.what}, parameter {name!r}", note=note)
            self._codecs[name] = codec
        return codec

    def _nameless_codec(self, index: int) -> ValueCodec:
        names = self._binder.positional
        if index >= len(names) and self._binder.star is None:
            raise TypeValidationError(
                f"stored input of {self.what} has {index + 1} positional values, and the function takes {len(names)}"
            )
        return self._codec(names[index] if index < len(names) else self._binder.star or STAR)

    def _encode_star(
        self, nameless: list[Any], named: dict[str, Any], extras: dict[str, Any], *, foreign: bool
    ) -> bytes:
        encode = ValueCodec.encode_json if foreign else ValueCodec.encode
        parts = []
        if nameless:
            items = [encode(self._nameless_codec(index), value) for index, value in enumerate(nameless)]
            parts.append(b'"*":[' + b",".join(items) + b"]")
        for name, value in named.items():
            parts.append(quote(name).encode() + b":" + encode(self._codec(name), value))
        for name, value in extras.items():
            if name == STAR or name[:1] == "$" or not name.isprintable():
                raise SerializationError(f"{self.what}: the keyword {name!r} cannot be stored; use another name")
            parts.append(quote(name).encode() + b":" + encode(self._codec(self._binder.extras or name), value))
        return b"{" + b",".join(parts) + b"}"

    def _decode_star(self, data: bytes) -> tuple[list[Any], dict[str, Any]]:
        try:
            members = _scan(data.decode())
            if type(members) is not dict:
                raise ValueError("the arguments are not a JSON object")
        except (ValueError, RecursionError) as error:
            raise values.damaged(data, error) from error
        nameless = members.pop(STAR, [])
        if type(nameless) is not list:
            raise values.damaged(data, ValueError("'*' is not an array"))
        args = [self._nameless_codec(index).decode(write(item).encode()) for index, item in enumerate(nameless)]
        kwargs = {}
        for name, item in members.items():
            known = name in self._binder.named
            if not known and self._binder.extras is None:
                raise self._no_longer_taken(name)
            kwargs[name] = self._codec(name if known else self._binder.extras or name).decode(write(item).encode())
        return args, kwargs


def _with_note(error: SerializationError, note: str | None) -> SerializationError:
    return error if note is None else type(error)(f"{error} ({note})")
