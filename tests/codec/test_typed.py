from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import math
import pathlib
import re
import subprocess
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from everstep.codec.typed import SignatureCodec, ValueCodec
from everstep.codec.values import serializable
from everstep.errors import FatalError, SerializationError, TypeValidationError

if TYPE_CHECKING:
    from nowhere import Missing  # type: ignore[import-not-found]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Odd(enum.Enum):
    PAIR = (1, 2)
    RAW = b"x"
    SPAN = timedelta(1)


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    left: int
    right: Any


class Options(TypedDict, total=False):
    depth: int
    names: set[str]


class Item(BaseModel):
    name: str
    price: Decimal = Decimal(1)
    raw: bytes = b"\xff\x00"
    ratio: float = math.inf
    labels: set[str] = set()
    anything: Any = None
    either: datetime | str = ""
    kids: list[Item] = []


class Aliased(BaseModel):
    model_config = ConfigDict(extra="forbid")
    first_name: str = Field(validation_alias="firstName", serialization_alias="FIRST")

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def shout(self) -> str:
        return self.first_name.upper()


class Special(Item):
    extra: int = 0


@dataclasses.dataclass
class Order:
    id: UUID
    at: datetime
    items: list[Item]
    span: timedelta = timedelta(microseconds=1)
    more: dict[tuple[int, str], set[int]] = dataclasses.field(default_factory=dict)
    loose: Any = None
    note: str = dataclasses.field(default="", kw_only=True)


@serializable(class_id="typed-money")
class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and self.cents == other.cents

    def __hash__(self) -> int:
        return self.cents

    def _workflow_serialize(self) -> Any:
        return (self.cents,)

    @classmethod
    def _workflow_deserialize(cls, data: Any) -> Money:
        return cls(*data)


@serializable
@dataclasses.dataclass
class Node:
    value: Any
    next: Node | None = None


class Plain:
    pass


UTC = UTC
ORDER = Order(
    UUID(int=1),
    datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=UTC),
    [Item(name="a", labels={"x", "y"}, anything=(1, {2}), either=datetime(2024, 1, 1), kids=[Item(name="b")])],
    more={(1, "a"): {3, 1}},
    loose={1: (2,)},
    note="n",
)
ROUND_TRIPS: list[tuple[Any, Any]] = [
    (int, 10**100),
    (float, math.inf),
    (float, -math.inf),
    (bytes, bytes(range(256))),
    (bytearray, bytearray(b"\xff")),
    (bool, False),
    (None, None),
    (complex, 1 + 2j),
    (Decimal, Decimal("1.10")),
    (UUID, UUID(int=5)),
    (datetime, datetime(2024, 1, 2, 3, 4, 5, 6)),
    (datetime, datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=-3, minutes=-30)))),
    (date, date(2024, 1, 2)),
    (time, time(1, 2, 3, 4)),
    (timedelta, timedelta.max),
    (timedelta, timedelta.min),
    (timedelta, timedelta(days=-400, microseconds=1)),
    (pathlib.Path, pathlib.Path("/a/b")),
    (pathlib.PurePath, pathlib.PurePosixPath("a")),
    (Colour, Colour.BLUE),
    (Odd, Odd.PAIR),
    (Odd, Odd.RAW),
    (Odd, Odd.SPAN),
    (Rights, Rights.READ | Rights.WRITE),
    (Literal["a", 1, None], 1),
    (Pair, Pair(1, None)),
    (Options, {"depth": 1, "names": {"a"}}),
    (Item, ORDER.items[0]),
    (Order, ORDER),
    (list[Order], [ORDER]),
    (Aliased, Aliased.model_validate({"firstName": "a"})),
    (list[int], [1]),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2)),
    (set[tuple[int, str]], {(1, "a"), (2, "b")}),
    (frozenset[frozenset[int]], frozenset({frozenset({1}), frozenset({2, 3})})),
    (dict[int, str], {1: "a"}),
    (dict[bytes, int], {b"\xff": 1}),
    (dict[float, int], {math.inf: 1}),
    (dict[bool, int], {True: 1}),
    (dict[Colour, int], {Colour.RED: 1}),
    (dict[tuple[int, int] | None, str], {(1, 2): "a", None: "b"}),
    (dict[str, Any], {"a": (1,), "$tuple": {2}}),
    (dict[str, Any], {"$tuple": 1}),
    (collections.deque[int], collections.deque([1])),
    (collections.OrderedDict[str, int], collections.OrderedDict(a=1)),
    (collections.defaultdict[str, list[int]], collections.defaultdict(list, a=[1])),
    (collections.Counter[str], collections.Counter("aab")),
    (Sequence[int], [1]),
    (Mapping[str, int], {"a": 1}),
    (Iterable[int], [1, 2]),
    (list, [(1,), b"x", {1: 2}]),
    (tuple, (1, (2,))),
    (set, {1, "a", (2,)}),
    (frozenset, frozenset({1})),
    (dict, {1: (2,)}),
    (dict, {"$x": 1}),
    (object, (1,)),
    (Any, {"a": (1,)}),
    (list[Any], [(1,), {"$tuple": [1]}]),
    (int | None, None),
    (int | str, "1"),
    (int | str, 1),
    (bool | int, 1),
    (bool | int, True),
    (int | float, 1.0),
    (int | float, 1),
    (datetime | str, "2024-01-01"),
    (datetime | str, datetime(2024, 1, 1)),
    (date | datetime, date(2024, 1, 1)),
    (date | datetime, datetime(2024, 1, 1)),
    (bytes | str, "YQ=="),
    (bytes | str, b"a"),
    (UUID | str | None, str(UUID(int=1))),
    (UUID | str | None, None),
    (Decimal | float, 1.5),
    (Decimal | float, Decimal("1.5")),
    (Colour | str, Colour.RED),
    (Colour | str, "red"),
    (list[int] | set[int] | tuple[int, ...], {1}),
    (list[int] | set[int] | tuple[int, ...], (1,)),
    (Item | Special, Item(name="x")),
    (Item | Special, Special(name="x", extra=1)),
    (list[Order | Item | None], [ORDER, None, Item(name="y")]),
    (pathlib.Path | str, "a"),
    (pathlib.Path | str, pathlib.Path("a")),
    (Money, Money(5)),
    (list[Money | None], [Money(5), None]),
    (dict[Money, Node], {Money(1): Node((1,), Node(2))}),
    (Node, Node({1}, Node(Money(1)))),
    (Annotated[int, Field(gt=0)], 1),
    (str, "\ufffd"),
    (dict[str, int], {"\ufffd": 1}),
    (str, "9" * 5000),
]


def exactly(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(exactly, a, b))
    return bool(a == b)


@pytest.mark.parametrize(("annotation", "value"), ROUND_TRIPS, ids=str)
def test_round_trip(annotation: Any, value: Any) -> None:
    codec = ValueCodec(annotation, "result of step 's'")
    data = codec.encode(value)
    assert exactly(codec.decode(data), value)
    assert codec.encode(codec.decode(data)) == data

    def func(a, b=1, *, value: Any): ...

    func.__annotations__ = {"value": annotation}
    call = SignatureCodec(func, "step 's'")
    (args, kwargs) = call.decode_call(call.encode_call((1,), {"value": value}))
    assert exactly(([], value, 1), (args, kwargs["value"], kwargs["a"]))


@pytest.mark.skipif(
    pydantic.VERSION < "2.14", reason="pydantic has no schema for the fields of a NamedTuple before 2.14"
)
def test_named_tuple_with_a_field_of_any_type() -> None:
    codec = ValueCodec(Pair, "v")
    assert exactly(codec.decode(codec.encode(Pair(1, (2,)))), Pair(1, (2,)))


def test_nan() -> None:
    for annotation in (float, float | str, Any):
        codec = ValueCodec(annotation, "v")
        assert math.isnan(codec.decode(codec.encode(math.nan)))


@settings(max_examples=100, deadline=None)
@given(
    st.builds(
        Order,
        id=st.uuids(),
        at=st.datetimes(timezones=st.none() | st.just(UTC)),
        items=st.lists(
            st.builds(
                Item,
                name=st.text(),
                price=st.decimals(allow_nan=False, allow_infinity=False),
                raw=st.binary(),
                ratio=st.floats(allow_nan=False),
                labels=st.sets(st.text(max_size=3), max_size=4),
                anything=st.none() | st.tuples(st.integers()) | st.dictionaries(st.integers(), st.binary(), max_size=2),
                either=st.datetimes() | st.text() | st.datetimes().map(str),
                kids=st.just([]),
            ),
            max_size=2,
        ),
        span=st.timedeltas(),
        more=st.dictionaries(st.tuples(st.integers(), st.text()), st.sets(st.integers(), max_size=3), max_size=2),
        loose=st.none() | st.sets(st.integers(), max_size=3),
    )
)
def test_round_trip_of_nested_values(order: Order) -> None:
    codec = ValueCodec(list[Order], "v")
    assert codec.decode(codec.encode([order])) == [order]


# --- calls -----------------------------------------------------------------------------------------


def test_one_form_for_one_call() -> None:
    def charge(order: str, amount: int, *, note: str = "", force=False): ...

    def loose(order, amount, *, note="", force=False): ...

    for func in (charge, loose):
        codec = SignatureCodec(func, "step 'charge'")
        data = codec.encode_call(("o", 1), {"force": True, "note": "n"})
        assert data == b'{"order":"o","amount":1,"note":"n","force":true}'
        assert codec.encode_call((), {"force": True, "amount": 1, "note": "n", "order": "o"}) == data
        assert codec.encode_call(("o",), {"note": "n", "amount": 1, "force": True}) == data
        assert codec.encode_json({"note": "n", "force": True, "amount": 1, "order": "o"}) == data
        assert codec.encode_call(("o", 1), {}) == b'{"order":"o","amount":1}' == codec.encode_json(["o", 1])
        assert codec.decode_call(data) == ([], {"order": "o", "amount": 1, "note": "n", "force": True})


def test_values_without_a_name() -> None:
    def func(a: bytes, b: int = 0, /, c: int = 0, *rest: set[int], d: int = 0, **more: tuple[int, ...]): ...

    codec = SignatureCodec(func, "step 'f'")
    for args, kwargs, wire in (
        ((b"a",), {}, b'{"*":["YQ=="]}'),
        ((b"a", 1), {"c": 2}, b'{"*":["YQ==",1],"c":2}'),
        ((b"a", 1, 2), {}, b'{"*":["YQ==",1],"c":2}'),
        ((b"a", 1, 2, {4, 3}), {"d": 5}, b'{"*":["YQ==",1,2,[3,4]],"d":5}'),
        ((b"a",), {"z": (1,), "a": (2,)}, b'{"*":["YQ=="],"z":[1],"a":[2]}'),
    ):
        assert codec.encode_call(args, kwargs) == wire
        again_args, again_kwargs = codec.decode_call(wire)
        assert codec.encode_call(again_args, again_kwargs) == wire
        bound = SignatureCodec(func, "")._signature
        assert bound.bind(*again_args, **again_kwargs).arguments == bound.bind(*args, **kwargs).arguments
    assert codec.encode_json(["YQ==", "1"]) == b'{"*":["YQ==",1]}'
    with pytest.raises(SerializationError, match=r"the keyword '\$x' cannot be stored; use another name"):
        codec.encode_call((b"",), {"$x": (1,)})


parts = st.lists(st.integers(0, 9), max_size=5)


@settings(max_examples=200, deadline=None)
@given(parts, st.dictionaries(st.sampled_from("abcdez"), st.integers(0, 9), max_size=5), st.integers(0, 5))
def test_binds_as_python_does(args: list[int], kwargs: dict[str, int], which: int) -> None:
    def both(a, b=1, *, c, d=2): ...
    def only(a, b=1, /, c=3, *, d=2): ...
    def star(a, b=1, *c, d=2): ...
    def more(a, /, b, **c): ...
    def every(a, b, /, c=1, *rest, d=2, **more): ...
    def none(): ...

    func: Callable[..., Any] = (both, only, star, more, every, none)[which]
    codec = SignatureCodec(func, "step")
    signature = codec._signature
    try:
        expected = signature.bind(*args, **kwargs)
    except TypeError as error:
        with pytest.raises(TypeError) as caught:
            codec.encode_call(args, kwargs)
        assert str(caught.value) == f"{func.__name__}() {error}"  # noqa: PT017
    else:
        got_args, got_kwargs = codec.decode_call(codec.encode_call(args, kwargs))
        assert signature.bind(*got_args, **got_kwargs).arguments == expected.arguments


def test_other_callables() -> None:
    class Thing:
        def method(self, a: int) -> int:
            return a

        def __call__(self, a: int) -> int:
            return a

    @functools.wraps(order_func)
    def wrapped(*args: Any) -> Any: ...

    for func in (Thing().method, Thing(), functools.partial(Thing().method), lambda a: a, wrapped):
        codec = SignatureCodec(func, "step")
        assert codec.encode_call((1,), {}) == b'{"a":1}'
    assert SignatureCodec(max, "step").encode_call((1, 2), {}) == b'{"*":[1,2]}'


def order_func(a: int) -> int:
    return a


def test_none_zero_and_empty_stay_apart() -> None:
    def func(x): ...

    codec = SignatureCodec(func, "step")
    different: list[Any] = [None, 0, 0.0, False, "", [], {}, ()]
    forms = [codec.encode_call((value,), {}) for value in different]
    assert len(set(forms)) == len(forms)
    for a in forms:
        for b in forms:
            assert codec.same_call(a, b) is (a == b)
    assert codec.encode_call((None,), {}) != b"{}"


def test_same_call() -> None:
    def func(x: dict[str, Any], y: set[Any] | None = None, z: Item | None = None, w: float = 0): ...

    codec = SignatureCodec(func, "step")
    assert codec.same_call(b'{"x":{"a":1,"b":2}}', b'{"x":{"b":2,"a":1}}')
    assert codec.same_call(b'{"x":{},"y":[1,2]}', b'{ "y":[2,1], "x":{} }')
    assert codec.same_call(b'{"x":{},"w":"NaN"}', b'{"x":{}, "w":"NaN"}')
    assert codec.same_call(b'{"x":{},"z":{"name":"a","price":"1"}}', b'{"x":{},"z":{"price":"1","name":"a"}}')
    assert not codec.same_call(b'{"x":{"a":1}}', b'{"x":{"a":1.0}}')
    assert not codec.same_call(b'{"x":{"a":1}}', b'{"x":{"a":true}}')
    assert not codec.same_call(b'{"x":{}}', b"damaged")


def test_implicit_optional() -> None:
    def func(x: int = None): ...  # type: ignore[assignment]  # noqa: RUF013

    assert SignatureCodec(func, "step").encode_call((None,), {}) == b'{"x":null}'


# --- what the callee gets --------------------------------------------------------------------------


def test_lax_conversion_happens_before_storing() -> None:
    def func(a: int, b: list[int], c: Item) -> str: ...  # type: ignore[empty-body]

    codec = SignatureCodec(func, "step")
    assert codec.encode_call(("5", (1, "2"), {"name": "x"}), {})[:16] == b'{"a":5,"b":[1,2]'


def test_subclasses_come_back_as_annotated() -> None:
    codec = ValueCodec(Item, "v")
    back = codec.decode(codec.encode(Special(name="s", extra=3)))
    assert type(back) is Item
    assert back.name == "s"


def test_json_from_outside() -> None:
    def func(when: datetime, raw: bytes, data: Any, loose, either: datetime | str, item: Aliased | None = None): ...

    codec = SignatureCodec(func, "workflow 'w'")
    tricky = {"$tuple": [1]}
    given = {
        "when": "2024-01-01",
        "raw": "YQ==",
        "data": tricky,
        "loose": tricky,
        "either": "x",
        "item": {"firstName": "A"},
    }
    call = (datetime(2024, 1, 1), b"a", tricky, tricky, "x", Aliased.model_validate({"firstName": "A"}))
    assert codec.encode_json(given) == codec.encode_call(call, {})
    assert codec.encode_json(list(given.values())) == codec.encode_call(call, {})
    for wrong in (1, "x", None):
        with pytest.raises(
            TypeValidationError, match=r"workflow 'w': the input must be a JSON object \(arguments by name\)"
        ):
            codec.encode_json(wrong)
    with pytest.raises(TypeError, match=r"func\(\) missing a required argument: 'when'"):
        codec.encode_json({})
    with pytest.raises(TypeError, match=r"func\(\) got an unexpected keyword argument 'x'"):
        codec.encode_json({**given, "x": 1})
    with pytest.raises(TypeValidationError, match="workflow 'w', parameter 'when': Input should be a valid datetime"):
        codec.encode_json({**given, "when": "soon"})
    with pytest.raises(SerializationError):
        codec.encode_json({**given, "data": math.nan})


# --- messages --------------------------------------------------------------------------------------


def message(func: Callable[[], object], kind: type[Exception] = TypeValidationError) -> str:
    with pytest.raises(kind) as caught:
        func()
    assert type(caught.value) is kind
    assert "pydantic.dev" not in str(caught.value)
    return str(caught.value)


def test_messages_of_values_that_do_not_fit() -> None:
    def charge(amount: Annotated[int, Field(gt=0)], items: list[Item], extra=None) -> int: ...  # type: ignore[empty-body]

    codec = SignatureCodec(charge, "step 'charge'")
    assert message(lambda: codec.encode_call((-1, [{"name": "a"}, {"name": 5}]), {})) == (
        "step 'charge', parameter 'amount': Input should be greater than 0 (got int -1)\n"
        "step 'charge', parameter 'items' at $[1].name: Input should be a valid string (got int 5)"
    )
    assert message(lambda: codec.encode_result("many")) == (
        "result of step 'charge': Input should be a valid integer, unable to parse string as an integer "
        "(got str 'many')"
    )
    text = message(lambda: codec.encode_call((1, [Plain()]), {}))
    assert text.startswith(
        "step 'charge', parameter 'items' at $[0]: Input should be a valid dictionary or instance of Item"
    )
    assert message(lambda: codec.encode_call((1, [], [Plain()]), {}), SerializationError).startswith(
        f"step 'charge', parameter 'extra' cannot be stored: $[0] is of type {__name__}.Plain; annotate the parameter"
    )
    with pytest.raises(FatalError):
        codec.encode_result("many")
    assert message(lambda: codec.encode_call((1, ["x"] * 50), {})).splitlines()[-1] == "and 40 more"
    with pytest.raises(TypeError, match=r"^charge\(\) missing a required argument: 'items'$"):
        codec.encode_call((1,), {})
    with pytest.raises(TypeError, match=r"^charge\(\) got an unexpected keyword argument 'x'$"):
        codec.encode_call((1, 2), {"x": 1})
    with pytest.raises(TypeError, match=r"^charge\(\) too many positional arguments$"):
        codec.encode_call((1, 2, 3, 4), {})
    with pytest.raises(TypeError, match=r"^charge\(\) multiple values for argument 'amount'$"):
        codec.encode_call((1, 2), {"amount": 1})


def test_messages_of_a_base_instance_and_of_a_broken_model() -> None:
    codec = ValueCodec(Special, "result of step 's'")
    text = message(lambda: codec.encode(Item(name="x")))
    assert text.startswith(
        "result of step 's': Input should be a valid dictionary or instance of Special (got Item Item("
    )
    broken = Item.model_construct(name=7)
    text = message(lambda: ValueCodec(Item, "result of step 's'").encode(broken))
    assert text == "result of step 's' at $.name: Input should be a valid string (got int 7)"


@dataclasses.dataclass
class Parcel:
    weight: Annotated[int, Field(gt=0)]
    label: str = None  # type: ignore[assignment]
    address: str = "here"


class Shelf(BaseModel):
    parcels: list[Parcel]
    note: str = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (Parcel(-1), "$.weight: Input should be greater than 0 (got int -1)"),
        (Parcel(1, address=None), "$.address: Input should be a valid string (got NoneType None)"),  # type: ignore[arg-type]
        (Parcel("1"), "$.weight: Input should be a valid integer (got str '1')"),  # type: ignore[arg-type]
        (Shelf(parcels=[Parcel(1)]).model_copy(update={"parcels": [Parcel(1), Parcel("x")]}), "$.parcels[1].weight:"),  # type: ignore[arg-type]
        (Shelf.model_construct(parcels=None), "$.parcels: Input should be a valid array (got NoneType None)"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(value: Any, where: str) -> None:
    """Instances are not checked when they are made or changed; a stored one that does not fit would park its run."""
    text = message(lambda: ValueCodec(type(value), "result of step 's'").encode(value))
    assert text.startswith(f"result of step 's' at {where}")


def test_a_default_of_none_is_a_value_of_its_field() -> None:
    for value in (Parcel(1), Shelf(parcels=[Parcel(2, None), Parcel(3, "l")]), Shelf(parcels=[], note="n")):  # type: ignore[arg-type]
        codec = ValueCodec(type(value), "result of step 's'")
        assert codec.decode(codec.encode(value)) == value


def test_messages_of_stored_values_that_do_not_fit() -> None:
    def charge(amount: int) -> int: ...  # type: ignore[empty-body]

    def loose(amount): ...

    codec = SignatureCodec(charge, "step 'charge'")
    text = message(lambda: codec.decode_call(b'{"amount":"x","old":1}'))
    assert text.startswith("stored payload does not fit the code: step 'charge', parameter 'amount': Input should be")
    assert "\nstep 'charge', parameter 'old': the function no longer takes it\nRestore the annotation" in text
    assert message(lambda: SignatureCodec(loose, "step 'charge'").decode_call(b'{"old":1}')) == (
        "stored input of step 'charge' has parameter 'old', which the function no longer takes: restore the "
        "parameter, or let the runs that have it finish first"
    )
    for data in (b"", b"{", b'{"amount":1', b"\xff", b"[1]", b"7"):
        with pytest.raises(SerializationError, match="step 'charge'"):
            codec.decode_call(data)
        with pytest.raises(SerializationError, match=r"damaged|stored"):
            SignatureCodec(loose, "step 'charge'").decode_call(data)
        with pytest.raises(SerializationError):
            SignatureCodec(lambda *a: 0, "step 'charge'").decode_call(data)
    assert message(lambda: codec.decode_result(b"{"), SerializationError).startswith(
        "stored payload of result of step 'charge' is damaged"
    )


def test_messages_of_annotations_that_cannot_be_used() -> None:
    def func(a: Missing, b: "no such(", c: int, d: 5 = 0) -> Missing: ...  # type: ignore[valid-type]  # noqa: F722

    codec = SignatureCodec(func, "step 'f'")
    assert codec.encode_call(((1,), {2}, "3"), {}) == b'{"a":{"$tuple":[1]},"b":{"$set":[2]},"c":3}'
    assert codec.decode_result(codec.encode_result((1,))) == (1,)
    text = message(lambda: codec.encode_call((Plain(), 1, 1), {}), SerializationError)
    assert "its annotation 'Missing' cannot be resolved (NameError: name 'Missing' is not defined)" in text
    text = message(lambda: codec.encode_result(Plain()), SerializationError)
    assert text.startswith("result of step 'f' cannot be stored")
    assert "its annotation 'Missing' cannot be resolved" in text


def test_messages_of_types_that_have_no_form() -> None:
    text = message(lambda: ValueCodec(Plain, "result of step 's'").encode(Plain()), SerializationError)
    assert text.startswith("result of step 's' cannot be stored: $ is of type")
    assert "@serializable" in text
    text = message(lambda: ValueCodec(Callable[[], int], "result of step 's'").encode(print), SerializationError)
    assert text.startswith("result of step 's' cannot be stored: ")
    text = message(lambda: ValueCodec(str, "result of step 's'").encode("\ud800"), SerializationError)
    assert "it holds text that is not valid Unicode (a lone surrogate)" in text
    text = message(lambda: ValueCodec(dict[str, int], "v").encode({"\ud800": 1}), SerializationError)
    assert "lone surrogate" in text
    with pytest.raises(SerializationError):
        ValueCodec(int, "v").encode(10**5000)
    text = message(lambda: ValueCodec(Item, "v").encode(Item(name="a", anything=Plain())), SerializationError)
    assert "Plain" in text
    assert "@serializable" in text


def test_validators_that_raise() -> None:
    def explode(value: object) -> object:
        raise RuntimeError("boom")

    codec = ValueCodec(Annotated[int, pydantic.AfterValidator(explode)], "result of step 's'")
    assert "a validator or serializer raised RuntimeError: boom" in message(lambda: codec.encode(1))
    with pytest.raises(SerializationError, match="cannot be read: RuntimeError: boom"):
        codec.decode(b"1")


def test_union_grows_without_breaking_older_records() -> None:
    older = ValueCodec(str, "v").encode("2024-01-01")
    assert ValueCodec(str | UUID, "v").decode(older) == "2024-01-01"
    assert ValueCodec(Item | Order | None, "v").decode(ValueCodec(Item, "v").encode(Item(name="a"))) == Item(name="a")


def test_stdlib_typed_dict_and_generics() -> None:
    stdlib = typing.TypedDict("stdlib", {"a": int})  # noqa: UP013
    codec = ValueCodec(stdlib, "v")
    assert codec.decode(codec.encode({"a": 1})) == {"a": 1}
    variable = typing.TypeVar("variable")
    assert ValueCodec(variable, "v").decode(ValueCodec(variable, "v").encode((1,))) == (1,)


def test_local_classes_in_closures_resolve() -> None:
    class Local(BaseModel):
        x: int

    def func(a: Local):
        return Local

    codec = SignatureCodec(func, "step")
    assert codec.decode_call(codec.encode_call(({"x": 1},), {})) == ([], {"a": Local(x=1)})


def test_damaged_bytes_never_raise_another_error() -> None:
    codec = ValueCodec(list[Order], "v")
    data = codec.encode([ORDER])
    for at in range(0, len(data), 3):
        for junk in (b"", b"}", b'"', b"\xff", b"9", b"null"):
            try:
                codec.decode(data[:at] + junk + data[at + 1 :])
            except SerializationError:
                pass


def test_pydantic_is_imported_at_first_use_only() -> None:
    program = """
import sys
import everstep.codec.typed, everstep.codec.failures, everstep.codec.records, everstep.codec.values
def step(a: int, *b: str) -> list[int]: ...
codec = everstep.codec.typed.SignatureCodec(step, "step")
other = everstep.codec.typed.SignatureCodec(lambda a: a, "step")
assert other.decode_call(other.encode_call((1,), {})) and other.encode_result((1,))
assert "pydantic" not in sys.modules and "pydantic_core" not in sys.modules
codec.encode_result([1])
assert "pydantic" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_no_annotation_leaks_between_codecs() -> None:
    assert re.match(r"^\{", ValueCodec(Item, "v").encode(Item(name="a")).decode())
    assert Item(name="a", raw=b"a").model_dump_json()  # the class's own serializer is untouched
    with pytest.raises(ValueError, match="utf"):
        Item(name="a", raw=b"\xff").model_dump_json()


# --- what pydantic does not round-trip by itself ---------------------------------------------------


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    raw: bytes = b"\xff"


@pydantic_dataclass
class Checked:
    raw: bytes
    ratio: float = math.inf


@dataclasses.dataclass
class Late:
    given: int
    made: int = dataclasses.field(init=False, default=7)


class Bytes(pydantic.RootModel[list[bytes]]):
    pass


class OwnInit(BaseModel):
    raw: bytes

    def __init__(self, **data: Any) -> None:
        super().__init__(**data)


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (list[Pet], [Dog(), Cat()]),
        (Cat | Dog, Dog()),
        (Checked, Checked(b"\xff")),
        (Bytes, Bytes([b"\xff"])),
        (OwnInit, OwnInit(raw=b"x")),
        (pydantic.SecretStr, pydantic.SecretStr("s")),
        (pydantic.SecretBytes, pydantic.SecretBytes(b"\xff")),
        (dict[str, pydantic.SecretStr | None], {"a": pydantic.SecretStr("s"), "b": None}),
        (pydantic.JsonValue, {"$tuple": [1]}),
    ],
    ids=str,
)
def test_pydantic_kinds_round_trip(annotation: Any, value: Any) -> None:
    codec = ValueCodec(annotation, "v")
    assert exactly(codec.decode(codec.encode(value)), value)


def test_fields_that_init_does_not_take() -> None:
    late = Late(1)
    late.made = 9
    codec = ValueCodec(Late, "v")
    assert codec.decode(codec.encode(late)) == late


class Link(BaseModel):
    next: Link | None = None


def test_nesting_that_could_not_be_read_back_is_refused() -> None:
    codec = ValueCodec(Link, "result of step 's'")
    link = Link()
    for _ in range(150):
        link = Link.model_construct(next=link)
    assert codec.decode(codec.encode(link)).next is not None
    for _ in range(80):
        link = Link.model_construct(next=link)
    with pytest.raises(SerializationError, match="result of step 's' cannot be stored: it cannot be read back"):
        codec.encode(link)
    loop = Link()
    loop.next = loop
    with pytest.raises(SerializationError, match="Circular reference"):
        codec.encode(loop)
    deep: Any = ()
    for _ in range(100):
        deep = (deep,)
    with pytest.raises(SerializationError, match=r"read back|deeper"):
        ValueCodec(list[Any], "v").encode([deep, 1])


def test_a_parameter_that_was_added_without_a_default() -> None:
    def typed(a: int, b: int): ...
    def loose(a, b): ...

    for func in (typed, loose):
        codec = SignatureCodec(func, "step 's'")
        for data in (b'{"a":1}', b'{"b":1}', b"{}"):
            with pytest.raises(TypeValidationError, match=r"has no parameter '[ab]', and the function has no default"):
                codec.decode_call(data)


def test_a_parameter_may_have_any_name() -> None:
    def func(value: int, members: int, self: int): ...

    codec = SignatureCodec(func, "step 's'")
    assert message(lambda: codec.encode_call(("x", 1, 2), {})).startswith(
        "step 's', parameter 'value': Input should be"
    )
    assert codec.decode_call(codec.encode_call((1, 2, 3), {})) == ([], {"value": 1, "members": 2, "self": 3})
