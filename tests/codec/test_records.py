from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everstep.codec import records
from everstep.codec.records import (
    decode_event,
    decode_message,
    decode_run,
    decode_turn,
    encode_event,
    encode_message,
    encode_run,
    encode_turn,
    input_digest,
)
from everstep.core import history as h
from everstep.core import messages as m
from everstep.core.run import Origin, Parent, Problem, RunRecord, RunStatus
from everstep.errors import SerializationError

number = st.integers(0, 2**53)
name = st.text(max_size=12)
payload = st.binary(max_size=40) | st.sampled_from([b"null", b'{"a":1}', b'"' + b"x" * 3000 + b'"'])
FIELDS: dict[str, Any] = {
    "int": number,
    "Micros": number,
    "str": name,
    "bytes": payload,
    "bool": st.booleans(),
    "str | None": st.none() | name,
    "bytes | None": st.none() | payload,
    "Micros | None": st.none() | number,
    "Mapping[str, str]": st.dictionaries(name, name, max_size=3),
    "Mapping[str, str] | None": st.none() | st.dictionaries(name, name, max_size=3),
    "Mapping[str, str | None]": st.dictionaries(name, st.none() | name, max_size=3),
    "RunStatus": st.sampled_from(RunStatus),
}


def instances(cls: type) -> st.SearchStrategy[Any]:
    fields = {n: FIELDS[t] for n, t in cls.__annotations__.items() if t in FIELDS}
    if cls is RunRecord:
        fields["problem"] = st.none() | instances(Problem)
        fields["parent"] = st.none() | instances(Parent)
        fields["origin"] = st.none() | instances(Origin)
        fields["attributes_turn"] = st.integers(-1, 2**53)
    if cls is m.StartRun:
        fields["run"] = instances(RunRecord)
    assert fields.keys() == cls.__annotations__.keys(), cls
    return st.builds(cls, **fields)


events = st.one_of([instances(cls) for cls in get_args(h.Event)])
commands = st.one_of([instances(cls) for cls in get_args(h.Command)])
messages = st.one_of([instances(cls) for cls in get_args(m.Message)])
turns = st.builds(
    h.Turn,
    number=number,
    at=number,
    build=name,
    nonce=name,
    events=st.lists(events, max_size=4).map(tuple),
    commands=st.lists(commands, max_size=4).map(tuple),
    drawn=st.lists(name, max_size=2).map(tuple),
)
KINDS: list[tuple[Any, Any, Any]] = [
    (turns, encode_turn, decode_turn),
    (events, encode_event, decode_event),
    (messages, encode_message, decode_message),
    (instances(RunRecord), encode_run, decode_run),
]
kinds = pytest.mark.parametrize(("made", "encode", "decode"), KINDS, ids=["turn", "event", "message", "run"])


@kinds
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_round_trip(made: Any, encode: Any, decode: Any, data: st.DataObject) -> None:
    record = data.draw(made)
    raw = encode(record)
    assert decode(raw) == record
    assert encode(decode(raw)) == raw


@kinds
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_never_another_error(made: Any, encode: Any, decode: Any, data: st.DataObject) -> None:
    raw = bytearray(encode(data.draw(made)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        if not raw:
            break
    try:
        decode(bytes(raw))
    except SerializationError:
        pass


TURN = h.Turn(
    number=3,
    at=1_700_000_000_000_000,
    build="b7",
    nonce="n",
    events=(h.StepCompleted(op=0, attempt=1, result=b'{"ok":true}'),),
    commands=(
        h.RunStep(op=1, name="charge", input=b'{"amount":12}', digest=input_digest(b'{"amount":12}')),
        h.StartTimer(op=2, due=5),
    ),
)
STORED = (
    b'[1,3,1700000000000000,"b7","n",[["sc",0,1,11]],[["rs",1,"charge","2c8c47aeb3e3ccfa",13],["tm",2,5]]]\n'
    b'{"ok":true}{"amount":12}'
)


def test_stored_form_is_for_ever() -> None:
    assert encode_turn(TURN) == STORED
    assert decode_turn(STORED) == TURN


def test_every_prefix_is_refused() -> None:
    for size in range(len(STORED)):
        with pytest.raises(SerializationError):
            decode_turn(STORED[:size])
    with pytest.raises(
        SerializationError, match=r"stored turn is damaged .*3 bytes too many. Restore it from a backup"
    ):
        decode_turn(STORED + b"abc")
    with pytest.raises(SerializationError, match="cut short"):
        decode_turn(STORED[:-1])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            STORED.replace(b"[1,3", b"[2,3", 1),
            "stored turn has format 2, .* written by a newer version. Upgrade everstep",
        ),
        (STORED.replace(b'"tm"', b'"zz"'), "an entry with the code 'zz'.*newer version"),
        (STORED.replace(b"[1,3", b"[true,3", 1), "damaged"),
        (STORED.replace(b",1,11]", b",1,-1]"), "damaged"),
        (STORED.replace(b",1,11]", b",1,true]"), "damaged"),
        (b"[1]\n", "damaged"),
        (b"{}\n", "damaged"),
        (b"[]\n", "damaged"),
        (b"", "damaged"),
        (b"[" * 100_000 + b"\n", "damaged"),
        (b'[1,3,4,"b","n",[[[]]],[]]\n', "damaged"),
        (b'[1,3,4,"b","n",7,[]]\n', "damaged"),
    ],
)
def test_refusals(data: bytes, words: str) -> None:
    with pytest.raises(SerializationError, match=words):
        decode_turn(data)


def test_kinds_are_not_mixed_up() -> None:
    event = encode_event(h.TimerFired(op=1))
    for decode in (decode_turn, decode_message, decode_run):
        with pytest.raises(SerializationError):
            decode(event)


def test_text_that_is_not_unicode_does_not_stop_a_record() -> None:
    record = RunRecord(
        run_id="r", root_id="r", workflow="w", input=b"{}", created_at=1, start_at=1, attributes={"path": "\udc80"}
    )
    assert decode_run(encode_run(record)).attributes == {"path": "\\udc80"}
    advance = m.AdvanceRun(run_id="r", cause="\udc80")
    assert decode_message(encode_message(advance)) == advance


def test_large_payloads_are_compressed_inside() -> None:
    done = h.StepCompleted(op=0, attempt=1, result=b'"' + b"x" * 50_000 + b'"')
    assert len(encode_event(done)) < 300
    assert decode_event(encode_event(done)) == done


def test_digest() -> None:
    assert input_digest(b"{}") == input_digest(b"{}") != input_digest(b"[]")
    assert len(input_digest(b"")) == 16
    assert int(input_digest(b""), 16)
    assert records.VERSION == 1
