from __future__ import annotations

import builtins
import copy
import dataclasses
import json
import pickle
import sys
import textwrap
import traceback
from datetime import timedelta
from types import ModuleType
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everstep import errors
from everstep.codec import failures
from everstep.codec.failures import decode_error, describe_error, encode_error
from everstep.errors import RemoteError, SerializationError


class CardError(Exception):
    def __init__(self, code: int, *, owner: str) -> None:
        super().__init__(f"card refused: {code}")
        self.code = code
        self.owner = owner


class Picky(Exception):
    def __new__(cls, a: int, b: int) -> Picky:
        return super().__new__(cls, a, b)

    def __init__(self, a: int, b: int) -> None:
        super().__init__("other text")


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class Nasty(Exception):
    def __str__(self) -> str:
        raise SystemExit("no")

    __repr__ = __str__


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def again(error: BaseException) -> BaseException:
    return decode_error(encode_error(error))


def test_builtin_error_with_its_traceback() -> None:
    back = again(raised(ValueError("bad", 1, (2,))))
    assert type(back) is ValueError
    assert back.args == ("bad", 1, (2,))
    assert str(back) == "('bad', 1, (2,))"
    text = back.remote_traceback  # type: ignore[attr-defined]
    assert text.startswith("Traceback")
    assert "in raised" in text
    assert text.rstrip().endswith("ValueError: ('bad', 1, (2,))")


def test_custom_class_without_its_init() -> None:
    back = again(CardError(7, owner="ann"))
    assert type(back) is CardError
    assert (str(back), back.code, back.owner) == ("card refused: 7", 7, "ann")
    picky = again(Picky(1, 2))
    assert str(picky) == "other text"
    slotted = again(Slotted(3))
    assert type(slotted) is Slotted
    assert str(slotted) == "code 3"


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: open("/nowhere/x"), ["errno", "strerror", "filename"]),  # noqa: SIM115
        (lambda: b"\xff".decode(), ["object", "start", "end", "reason"]),
        (lambda: __import__("nowhere_at_all"), ["name"]),
        (lambda: cast("dict[str, int]", {})["k"], []),
        (lambda: object().nope, ["name"]),  # type: ignore[attr-defined]
        (lambda: compile("a b", "f", "exec"), ["filename", "lineno", "text"]),
        (lambda: sys.exit(3), ["code"]),
        (lambda: next(iter(())), ["value"]),
        (lambda: [][1], []),
        (lambda: int("x"), []),
    ],
)
def test_builtins_keep_what_c_keeps(make: Any, names: list[str]) -> None:
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        make()
    back = again(caught.value)
    assert type(back) is type(caught.value)
    assert str(back) == str(caught.value)
    assert back.args == caught.value.args
    for name in names:
        assert getattr(back, name) == getattr(caught.value, name)


def test_every_builtin() -> None:
    for cls in vars(builtins).values():
        if isinstance(cls, type) and issubclass(cls, BaseException):
            if issubclass(cls, BaseExceptionGroup):
                error: BaseException = cls("g", [ValueError(1) if cls is ExceptionGroup else SystemExit(1)])
            elif cls is UnicodeDecodeError:
                error = cls("utf-8", b"x", 0, 1, "r")
            elif cls is UnicodeEncodeError:
                error = cls("utf-8", "x", 0, 1, "r")
            elif cls is UnicodeTranslateError:
                error = cls("x", 0, 1, "r")
            else:
                error = cls("m")
            back = again(error)
            assert type(back) is cls
            assert str(back) == str(error)


def everstep_errors() -> list[BaseException]:
    special: dict[type, BaseException] = {
        errors.IdempotencyConflictError: errors.IdempotencyConflictError("k", "r", "input"),
        errors.WorkflowRunFailedError: errors.WorkflowRunFailedError("r", ValueError("x"), error_code="C"),
        errors.WorkflowRunCancelledError: errors.WorkflowRunCancelledError("r", "why"),
        errors.WorkflowRunNotFoundError: errors.WorkflowRunNotFoundError("r"),
        errors.WorkflowRunParkedError: errors.WorkflowRunParkedError("r", "why"),
        errors.HookConflictError: errors.HookConflictError("t", "r"),
        errors.HookDisposedError: errors.HookDisposedError("t"),
        errors.StreamClosedError: errors.StreamClosedError("r", "main"),
        errors.HookNotFoundError: errors.HookNotFoundError("t"),
        errors.StepNotRegisteredError: errors.StepNotRegisteredError("s"),
        errors.RetryableError: errors.RetryableError("m", retry_after=timedelta(seconds=3)),
        errors.StreamClosedError: errors.StreamClosedError("r", "main"),
        errors.RemoteError: errors.RemoteError("m", name="x.Y"),
    }
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.EverstepError)]
    return [special.get(cls) or cls("m") for cls in classes]


@pytest.mark.parametrize("error", everstep_errors(), ids=lambda error: type(error).__name__)
def test_everstep_errors_keep_their_attributes(error: BaseException) -> None:
    back = again(error)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.args == error.args
    for name, value in error.__dict__.items():
        if isinstance(value, BaseException):
            assert repr(back.__dict__[name]) == repr(value)
        else:
            assert back.__dict__[name] == value


def test_the_failed_runs_error_is_its_cause() -> None:
    back = again(errors.WorkflowRunFailedError("r", KeyError("k")))
    assert isinstance(back, errors.WorkflowRunFailedError)
    assert type(back.error) is KeyError
    assert back.error is back.__cause__


def test_causes_contexts_and_notes() -> None:
    def work(suppress: bool, explicit: bool) -> BaseException:
        try:
            try:
                raise KeyError("first")
            except KeyError as first:
                if explicit:
                    raise ValueError("second") from first
                if suppress:
                    raise ValueError("second") from None
                raise ValueError("second")  # noqa: B904
        except ValueError as error:
            error.add_note("look here")
            return error

    explicit = again(work(suppress=False, explicit=True))
    assert type(explicit.__cause__) is KeyError
    assert explicit.__notes__ == ["look here"]
    assert "first" in explicit.__cause__.remote_traceback  # type: ignore[attr-defined]
    implicit = again(work(suppress=False, explicit=False))
    assert implicit.__cause__ is None
    assert type(implicit.__context__) is KeyError
    assert not implicit.__suppress_context__
    suppressed = again(work(suppress=True, explicit=False))
    assert suppressed.__context__ is None
    assert suppressed.__suppress_context__


def test_groups() -> None:
    group = ExceptionGroup("several", [ValueError("a"), ExceptionGroup("inner", [CardError(1, owner="o")])])
    back = again(raised(group))
    assert isinstance(back, ExceptionGroup)
    assert back.message == "several"
    assert type(back.exceptions[0]) is ValueError
    inner = back.exceptions[1]
    assert isinstance(inner, ExceptionGroup)
    assert type(inner.exceptions[0]) is CardError
    assert type(again(BaseExceptionGroup("b", [KeyboardInterrupt()]))) is BaseExceptionGroup


def test_traceback_of_the_first_place_stays_first_and_is_not_doubled() -> None:
    first = encode_error(raised(ValueError("x")))
    once = describe_error(first).traceback
    assert describe_error(encode_error(decode_error(first))).traceback == once

    def body() -> bytes:
        return encode_error(raised(decode_error(first)))

    second = describe_error(body()).traceback
    assert second.startswith(once.rstrip())
    assert second.count("Raised again here") == 1
    assert describe_error(body()).traceback == second
    error = raised(decode_error(first))
    assert encode_error(error) == encode_error(error)
    assert describe_error(encode_error(decode_error(encode_error(error)))).traceback == second
    assert second.count("raise error") == 2


def test_loops_and_long_chains() -> None:
    a, b = ValueError("a"), ValueError("b")
    a.__cause__, b.__cause__ = b, a
    assert str(again(a).__cause__) == "b"
    chain: BaseException = ValueError("0")
    for number in range(500):
        outer = ValueError(str(number))
        outer.__cause__ = chain
        chain = outer
    depth = 0
    walk: BaseException | None = again(chain)
    while walk is not None:
        depth += 1
        walk = walk.__cause__
    assert depth == failures.MAX_ERRORS
    wide = ExceptionGroup("g", [ValueError(n) for n in range(1000)])
    assert len(again(wide).exceptions) == failures.MAX_ERRORS - 1  # type: ignore[attr-defined]


def test_sizes_are_bounded() -> None:
    error = ValueError("m" * 100_000, "n" * 100_000)
    error.big = "x" * 100_000  # type: ignore[attr-defined]
    error.small = 1  # type: ignore[attr-defined]
    error.add_note("note" * 100_000)

    def deep(n: int) -> None:
        if n:
            exec(f"deep_{n} = lambda: f(n - 1)\ndeep_{n}()", {"f": deep, "n": n})
        else:
            raise error

    with pytest.raises(ValueError) as caught:  # noqa: PT011
        deep(150)
    data = encode_error(caught.value)
    assert len(data) < 80_000
    view = describe_error(data)
    assert len(view.message) <= failures.MAX_MESSAGE
    assert "characters left out" in view.message
    assert len(view.traceback) <= failures.MAX_TRACEBACK
    assert view.traceback.startswith("Traceback")
    back = decode_error(data)
    assert type(back) is ValueError
    assert not hasattr(back, "big")
    assert back.small == 1  # type: ignore[attr-defined]


def test_classes_that_are_not_here() -> None:
    module = ModuleType("gone_module")
    exec("class GoneError(Exception): pass", module.__dict__)
    sys.modules["gone_module"] = module
    try:
        data = encode_error(module.GoneError("m"))
        assert type(decode_error(data)) is module.GoneError
    finally:
        del sys.modules["gone_module"]
    back = decode_error(data)
    assert isinstance(back, RemoteError)
    assert (back.name, back.message) == ("GoneError", "m")
    assert back.remote_traceback  # type: ignore[attr-defined]
    for name in (
        "this:x",
        "builtins:print",
        "builtins:int",
        "os:system",
        "everstep:nope",
        "x",
        "",
        "builtins:ValueError.args",
    ):
        back = decode_error(json.dumps({"type": name, "message": "m", "args": []}).encode())
        assert isinstance(back, RemoteError)
    assert "this" not in sys.modules


def test_a_stand_in_passes_for_its_class() -> None:
    """A body saw the class itself before a restart: what it does with the error must be the same with the stand-in."""
    module = ModuleType("gone_module")
    source = """
        class GoneError(OSError):
            def __init__(self, number, why, hint):
                super().__init__(number, why)
                self.hint = hint
            def __str__(self):
                return f"gone: {self.strerror}"
        class TiredError(FatalError, TimeoutError): pass
        class OtherError(Exception): pass
    """
    exec(textwrap.dedent(source), {**module.__dict__, "FatalError": errors.FatalError}, module.__dict__)
    sys.modules["gone_module"] = module
    try:
        data = encode_error(raised(module.GoneError(2, "no such file", "look elsewhere")))
        first = decode_error(data)
        tired = encode_error(module.TiredError("m"))
        other = encode_error(module.OtherError("m", 1))
    finally:
        del sys.modules["gone_module"]
    again = decode_error(data)
    for error in (again, decode_error(encode_error(again)), copy.copy(again), pickle.loads(pickle.dumps(again))):
        assert isinstance(error, RemoteError)
        assert isinstance(error, OSError)
        assert type(error).__name__ == type(first).__name__ == "GoneError"
        assert str(error) == str(first) == "gone: no such file"
        assert error.args == first.args
        assert error.errno == 2
        assert error.hint == "look elsewhere"  # type: ignore[attr-defined]
        assert describe_error(encode_error(error)).type == "gone_module.GoneError"
        assert traceback.format_exception_only(error) == ["gone_module.GoneError: gone: no such file\n"]
    assert isinstance(decode_error(tired), errors.FatalError)
    assert isinstance(decode_error(tired), TimeoutError)
    assert decode_error(other).args == ("m", 1)


def test_an_error_of_a_script_is_known_where_the_script_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ModuleType("__main__")
    script.__file__ = "/somewhere/shop.py"
    exec("class CardError(Exception): pass", script.__dict__)
    imported = ModuleType("shop")
    exec("class CardError(Exception): pass", imported.__dict__)
    with monkeypatch.context() as run_as_a_script:
        run_as_a_script.setitem(sys.modules, "__main__", script)
        data = encode_error(script.CardError("m"))
        assert describe_error(data).type == "shop.CardError"
        assert type(decode_error(data)) is script.CardError
    monkeypatch.setitem(sys.modules, "shop", imported)
    assert type(decode_error(data)) is imported.CardError


def test_group_of_a_class_that_is_not_here() -> None:
    data = encode_error(ExceptionGroup("g", [ValueError(1)])).replace(b"builtins:ExceptionGroup", b"gone:Group")
    back = decode_error(data)
    assert isinstance(back, ExceptionGroup)
    assert type(back.exceptions[0]) is ValueError


class Angry:
    def __repr__(self) -> str:
        raise KeyError("angry")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class Property(Exception):
    @property
    def args(self) -> Any:  # type: ignore[override]
        raise ValueError("no args")

    @property
    def __notes__(self) -> Any:  # type: ignore[override]
        raise ValueError("no notes")


@pytest.mark.parametrize(
    "error",
    [
        Nasty("x"),
        ValueError(Angry()),
        ValueError(object(), lambda: 0, {1: Angry()}),
        Property("x"),
        ValueError("\ud800"),
        type("\u00fcml\u00e4ut", (Exception,), {})("x"),
        type("Local", (Exception,), {"__module__": None})("x"),
        KeyError(float("nan")),
        raised(RecursionError("deep")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_encoding_never_raises(error: BaseException) -> None:
    with_state = error
    try:
        with_state.angry = Angry()  # type: ignore[attr-defined]
    except Exception:
        pass
    data = encode_error(error)
    assert isinstance(decode_error(data), BaseException)
    assert describe_error(data).type


def test_argument_that_cannot_be_stored_keeps_the_message() -> None:
    class Thing:
        def __str__(self) -> str:
            return "a thing"

        __repr__ = object.__repr__

    back = again(ValueError(Thing()))
    assert type(back) is ValueError
    assert str(back) == "a thing"


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([ValueError, KeyError, OSError, CardError, errors.FatalError, errors.RetryableError]),
    st.lists(st.integers() | st.text() | st.tuples(st.binary()) | st.none(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers() | st.text() | st.sets(st.integers()), max_size=3),
    st.lists(st.text(), max_size=2),
)
def test_round_trip(cls: type[Exception], args: list[Any], state: dict[str, Any], notes: list[str]) -> None:
    error = cls.__new__(cls, *args)
    error.args = tuple(args)
    state.pop("__notes__", None)
    error.__dict__.update(state)
    for note in notes:
        error.add_note(note)
    back = again(error)
    assert type(back) is type(error)
    assert back.args == error.args
    assert str(back) == str(error)
    expected = dict(error.__dict__.items())
    got = {k: v for k, v in back.__dict__.items() if k != "remote_traceback"}
    assert got == expected


def test_damage_is_never_another_error() -> None:
    data = encode_error(raised(errors.WorkflowRunFailedError("r", ExceptionGroup("g", [ValueError((1,))]))))
    for at in range(0, len(data), 5):
        for junk in (b"", b"}", b'"', b"\xff", b"9", b"null"):
            try:
                decode_error(data[:at] + junk + data[at + 1 :])
                describe_error(data[:at] + junk + data[at + 1 :])
            except SerializationError as error:
                message = str(error)
                assert "stored error is damaged" in message


def test_view() -> None:
    data = b""
    try:
        try:
            cast("dict[str, int]", {})["k"]
        except KeyError as first:
            raise CardError(1, owner="o") from first
    except CardError as error:
        error.add_note("n")
        data = encode_error(error)
    view = describe_error(data)
    assert view.type == f"{__name__}.CardError"
    assert view.message == "card refused: 1"
    assert view.notes == ("n",)
    assert view.cause is not None
    assert view.cause.type == "KeyError"
    assert view.cause.message == "'k'"
    assert view.cause.cause is None


def test_remote_errors_print_with_their_cause() -> None:
    back = again(raised(ValueError("x")))
    assert "ValueError: x" in "".join(traceback.format_exception(back))


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    code: int


def test_errors_that_are_dataclasses() -> None:
    error = FrozenError(3)
    back = again(error)
    assert type(back) is FrozenError
    assert back.code == 3
    assert back.args == error.args
