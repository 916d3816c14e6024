from __future__ import annotations

import dataclasses
import enum
import math
import pathlib
from collections import OrderedDict
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everstep.codec import values
from everstep.codec.classes import register_serializable, serializable
from everstep.errors import RegistrationError, SerializationError

zones = st.none() | st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.text(st.characters(codec=None, categories=["Cs", "L"])),
    st.binary(),
    st.complex_numbers(allow_nan=False),
    st.datetimes(timezones=zones),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.sampled_from([pathlib.Path("/a/b"), pathlib.PurePosixPath("x"), pathlib.PureWindowsPath("C:\\x")]),
)
keys = st.one_of(st.none(), st.integers(), st.text(), st.binary(), st.tuples(st.integers(), st.text()), st.uuids())
nested = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=4), inner, max_size=3),
        st.dictionaries(st.sampled_from(["$", "$tuple", "$dict", "$x"]), inner, max_size=2),
        st.dictionaries(keys, inner, max_size=3),
        st.frozensets(keys, max_size=3),
        st.sets(keys, max_size=3),
    ),
    max_leaves=12,
)


def identical(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(map(repr, a)) == list(map(repr, b)) and all(map(identical, a.values(), b.values()))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    return bool(a == b)


@settings(max_examples=300, deadline=None)
@given(nested)
def test_what_comes_back_is_what_went_in(value: Any) -> None:
    data = values.encode(value)
    data.decode()  # always UTF-8
    assert identical(values.decode(data), value)
    assert values.encode(values.decode(data)) == data
    assert identical(values.untagged(values.tagged(value)), value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (1, "1"),
        (1.0, "1.0"),
        ("ä", '"ä"'),
        ([], "[]"),
        ({}, "{}"),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        ((1, 2), '{"$tuple":[1,2]}'),
        ({3, 1, 2}, '{"$set":[1,2,3]}'),
        (b"\xff", '{"$bytes":"/w=="}'),
        (timedelta(microseconds=1), '{"$timedelta":1}'),
        ({1: 2}, '{"$dict":[[1,2]]}'),
        ({"$tuple": []}, '{"$dict":[["$tuple",[]]]}'),
        ({"$a": 1, "b": 2}, '{"$a":1,"b":2}'),
    ],
)
def test_written_form(value: Any, text: str) -> None:
    assert values.encode(value).decode() == text
    assert identical(values.decode(text.encode()), value)


def test_special_floats_and_huge_ints() -> None:
    assert math.isnan(values.decode(values.encode(float("nan"))))
    assert values.decode(values.encode([float("-inf"), -0.0])) == [float("-inf"), -0.0]
    for huge in (10**5000, -(10**5000), 10**4299, 2**14_000):
        assert values.decode(values.encode({"n": huge}))["n"] == huge


def test_lone_surrogates_round_trip() -> None:
    for text in ("\ud800", "a\udc80b", "\ud83d\ude00"):
        for value in (text, {text: text}, pathlib.Path(text)):
            assert values.decode(values.encode(value)) == value


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Single(NamedTuple):
    x: int


class Name(str):
    __slots__ = ()


@dataclasses.dataclass
class Box:
    item: Any


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"items": [0, 1, {"owner": Box(1)}]}, ["$.items[2].owner", "test_values.Box", "@serializable", "annotate"]),
        ({"a b": {1: Colour.RED}}, ["$['a b'][1]", "Enum", "Colour", "@serializable"]),
        (Level.LOW, ["$ is a member", "Level"]),
        ([Name("x")], ["$[0]", "Name", "subclass of str, which would be lost"]),
        (OrderedDict(a=1), ["OrderedDict", "subclass of dict"]),
        ({Single(1)}, ["${}", "subclass of tuple"]),
        (object, ["is of type type"]),
    ],
)
def test_what_cannot_be_stored(value: Any, words: list[str]) -> None:
    with pytest.raises(SerializationError) as caught:
        values.encode(value, where="result of step 'charge'")
    assert str(caught.value).startswith("result of step 'charge' cannot be stored: $")
    for word in words:
        assert word in str(caught.value)


def test_the_whole_message() -> None:
    with pytest.raises(SerializationError) as caught:
        values.encode({"owner": Box(1)}, where="result of step 'charge'")
    module = Box.__module__
    assert str(caught.value) == (
        f"result of step 'charge' cannot be stored: $.owner is of type {module}.Box; annotate the parameter or the "
        f"return type with its type, put @serializable on the class, or convert it to built-in types first"
    )


def test_cycles_and_depth() -> None:
    loop: list[Any] = [1]
    loop.append({"again": loop})
    with pytest.raises(SerializationError, match=r"\$\[1\]\.again contains itself; store a copy without the cycle"):
        values.encode(loop)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError, match="nested deeper than 100 levels; flatten it"):
        values.encode(deep)
    while deep:  # freeing it in one go would overflow the C stack on some builds
        deep = deep.pop()
    ninety: Any = ()
    for _ in range(90):
        ninety = (ninety,)
    assert values.decode(values.encode(ninety)) == ninety


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b"NaN",
        b"[1] ",
        b'{"$bytes":"?"}',
        b'{"$dict":[1]}',
        b'{"$datetime":7}',
        b"[" * 100000,
        b'{"$set":[[]]}',
        b'{"$tuple":1}',
        b'{"$class":1}',
        b'{"$timedelta":"x"}',
        b"9" * 5000,
    ],
)
def test_damaged_bytes(data: bytes) -> None:
    with pytest.raises(SerializationError, match="damaged"):
        values.decode(data)


@settings(max_examples=300, deadline=None)
@given(nested, st.data())
def test_damage_is_never_another_error(value: Any, data: st.DataObject) -> None:
    raw = bytearray(values.encode(value))
    for _ in range(3):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        values.decode(bytes(raw))
    except SerializationError:
        pass


def test_tag_of_a_newer_version() -> None:
    with pytest.raises(SerializationError, match=r"tag '\$quaternion'.*newer version wrote it. Upgrade everstep"):
        values.decode(b'{"$quaternion":[1]}')


# --- registered classes ----------------------------------------------------------------------------


@serializable
class Point:
    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)

    def __hash__(self) -> int:
        return hash((self.x, self.y))

    def _workflow_serialize(self) -> Any:
        return (self.x, self.y)

    @classmethod
    def _workflow_deserialize(cls, data: Any) -> Point:
        return cls(*data)


@serializable(class_id="size")
class Size(enum.Enum):
    SMALL = "s"
    ODD = (1, 2)


@serializable(class_id="order")
@dataclasses.dataclass
class Order:
    id: UUID
    lines: list[tuple[str, Decimal]]
    extra: Any = None
    next: Order | None = None


@pytest.mark.parametrize(
    "value",
    [
        Point(1, 2),
        [Size.SMALL, Size.ODD],
        {"k": {Point(1, 2)}},
        Order(UUID(int=7), [("a", Decimal("1.10"))], extra=(1, {2}), next=Order(UUID(int=8), [])),
    ],
)
def test_registered_classes(value: Any) -> None:
    assert values.decode(values.encode(value)) == value


def test_a_registered_class_that_does_not_fit_itself_is_not_written() -> None:
    with pytest.raises(SerializationError, match=r"\$\[0\] is of the registered class Order: Order, field 'id'"):
        values.encode([Order(id=None, lines=[])])  # type: ignore[arg-type]


def test_registering_again_and_conflicts() -> None:
    serializable(Point)
    again = type("Point", (Point,), {"__module__": Point.__module__, "__qualname__": "Point"})
    register_serializable(again)
    register_serializable(Point)
    with pytest.raises(RegistrationError, match=r"class id 'size' of .*:Point already belongs to .*:Size: give one"):
        register_serializable(Point, class_id="size")
    with pytest.raises(RegistrationError, match="define _workflow_serialize"):
        serializable(Name)
    with pytest.raises(RegistrationError, match="both"):
        register_serializable(Name, serialize=str)
    with pytest.raises(RegistrationError, match="needs a class"):
        register_serializable(3)  # type: ignore[arg-type]


def test_old_ids_are_read_and_the_first_is_written() -> None:
    register_serializable(Size, class_id="old-size")
    assert values.decode(b'{"$class":["old-size","s"]}') is Size.SMALL
    assert values.encode(Size.SMALL) == b'{"$class":["size","s"]}'


def test_unknown_class_is_not_imported() -> None:
    with pytest.raises(SerializationError, match="import the module 'this', which registers it with @serializable"):
        values.decode(b'{"$class":["this:Thing",1]}')


def test_hooks_that_raise() -> None:
    class Bad:
        pass

    def fail(_: object) -> Any:
        raise KeyError("no")

    register_serializable(Bad, class_id="bad", serialize=fail, deserialize=fail)
    with pytest.raises(
        SerializationError, match=r"\$\[0\] is of the registered class .*Bad, whose serialize raised Key"
    ):
        values.encode([Bad()])
    with pytest.raises(SerializationError, match="class 'bad' cannot be read back: its deserialize raised KeyError"):
        values.decode(b'{"$class":["bad",1]}')


def test_extremes() -> None:
    for value in (
        datetime.max.replace(tzinfo=timezone(timedelta(hours=5, minutes=30, seconds=1))),
        date.min,
        time(1, 2, 3, 4, tzinfo=UTC),
        timedelta.max,
        timedelta.min,
        Decimal("-0E+5"),
        complex(float("inf"), -0.0),
    ):
        again = values.decode(values.encode(value))
        assert repr(again) == repr(value)
    assert values.decode(values.encode(Decimal("sNaN123"))).is_snan()
