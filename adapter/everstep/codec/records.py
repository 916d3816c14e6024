"""The stored records: turns, inbox events, messages and runs.

A record is one line of compact JSON, a newline, and the payloads one after the other::

    [1,3,1700000000000000,"build-7","n0nce",[["sc",0,1,13]],[["rs",1,"charge","6f1e…",24]]]
    {"ok": true}…

The array begins with the version of the format. Each event, command and message is an array that begins with its code;
where a payload belongs, it has the payload's length. So payloads need no quoting, and reading is one scan and slices.
Payloads are sealed (`everstep.codec.envelope`) when written, unsealed when read.

Codes and the order of fields are for ever: a change is a new version or a new code, never another meaning.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final

from everstep.codec.jsontext import quote_ascii, write
from everstep.codec.rows import (
    COMMAND_READERS,
    COMMAND_WRITERS,
    DAMAGE,
    EVENT_READERS,
    EVENT_WRITERS,
    VERSION,
    Payloads,
    Reader,
    Rest,
    Row,
    Writer,
    add,
    add_optional,
    check,
    mapping_of,
    optional,
    plain_mapping,
    plain_optional,
    plain_text,
    reader_of,
)
from everstep.core.history import Event, Turn
from everstep.core.messages import AdvanceRun, ExecuteStep, FireTimer, Message, StartRun
from everstep.core.run import Origin, Parent, Problem, RunRecord, RunStatus

__all__ = [
    "VERSION",
    "decode_event",
    "decode_message",
    "decode_run",
    "decode_turn",
    "encode_event",
    "encode_message",
    "encode_run",
    "encode_turn",
    "input_digest",
]


def input_digest(input: bytes) -> str:
    """Identifies an input: 16 hexadecimal characters, equal for equal bytes."""
    return blake2b(input, digest_size=8).hexdigest()


# --- writing ---------------------------------------------------------------------------------------


def encode_turn(turn: Turn) -> bytes:
    payloads: Payloads = []
    events = ",".join([_WRITERS[type(event)](event, payloads) for event in turn.events])
    commands = ",".join([_WRITERS[type(command)](command, payloads) for command in turn.commands])
    build, nonce = quote_ascii(turn.build), quote_ascii(turn.nonce)
    drawn = f",{write([plain_text(each) for each in turn.drawn])}" if turn.drawn else ""
    head = f"[{VERSION},{turn.number},{turn.at},{build},{nonce},[{events}],[{commands}]{drawn}]\n"
    return b"".join([head.encode(), *payloads])


def encode_event(event: Event) -> bytes:
    """An inbox entry."""
    return _encode_one(event)


def encode_message(message: Message) -> bytes:
    """What travels on the queue."""
    return _encode_one(message)


def encode_run(run: RunRecord) -> bytes:
    return _encode_one(run)


def _encode_one(record: Event | Message | RunRecord) -> bytes:
    payloads: Payloads = []
    head = f"[{VERSION},{_WRITERS[type(record)](record, payloads)}]\n"
    return b"".join([head.encode(), *payloads])


def _write_advance(message: AdvanceRun, payloads: Payloads) -> str:
    recover = "true" if message.recover else "false"
    return f'["ar",{quote_ascii(message.run_id)},{quote_ascii(message.cause)},{recover},{message.due}]'


def _write_execute(message: ExecuteStep, payloads: Payloads) -> str:
    size = add(message.input, payloads)
    return (
        f'["xs",{quote_ascii(message.run_id)},{quote_ascii(message.workflow)},{message.op},'
        f"{quote_ascii(message.name)},{message.attempt},{size},"
        f"{'true' if message.sole else 'false'},{message.first_at}]"
    )


def _write_run(run: RunRecord, payloads: Payloads, code: str = "rr") -> str:
    problem = run.problem
    return write(
        [
            code,
            plain_text(run.run_id),
            plain_text(run.root_id),
            plain_text(run.workflow),
            add(run.input, payloads),
            run.created_at,
            run.start_at,
            plain_mapping(run.attributes),
            run.status.value,
            run.started_at,
            run.completed_at,
            add_optional(run.result, payloads),
            add_optional(run.error, payloads),
            run.continued_from,
            run.continued_to,
            None if problem is None else _problem_row(problem),
            *_newer_fields(run),
        ]
    )


def _newer_fields(run: RunRecord) -> Row:
    """Fields that the first records did not have. Left out where they say nothing, as most messages' are."""
    parent = run.parent
    row = [
        plain_optional(run.reason),
        None if parent is None else [parent.run_id, plain_text(parent.workflow), parent.op],
        run.paused_at,
        None if run.origin is None else [run.origin.run_id, run.origin.turns],
        run.attributes_turn,
        None if run.first_attributes is None else plain_mapping(run.first_attributes),
    ]
    return [] if row == _NO_NEWER_FIELDS else row


_NO_NEWER_FIELDS: Final[Row] = [None, None, None, None, -1, None]


def _problem_row(problem: Problem) -> Row:
    return [plain_text(problem.code), plain_text(problem.message), problem.turn, plain_text(problem.build), problem.at]


_WRITERS: Final[dict[type, Writer]] = {
    **EVENT_WRITERS,
    **COMMAND_WRITERS,
    StartRun: lambda message, payloads: _write_run(message.run, payloads, "sr"),
    AdvanceRun: _write_advance,
    ExecuteStep: _write_execute,
    FireTimer: lambda message, payloads: f'["ft",{quote_ascii(message.run_id)},{message.op},{message.due}]',
    RunRecord: _write_run,
}


# --- reading ---------------------------------------------------------------------------------------


def decode_turn(data: bytes) -> Turn:
    """The turn of bytes made by `encode_turn`.

    Raises:
        SerializationError: the bytes are damaged, or a newer version of Everstep wrote them.
    """
    rest = Rest(data, "turn")
    try:
        _, number, at, build, nonce, event_rows, command_rows, *more = rest.head
        check(number, int), check(at, int), check(build, str), check(nonce, str)
        events = tuple([reader_of(EVENT_READERS, row, rest)(row, rest) for row in event_rows])
        commands = tuple([reader_of(COMMAND_READERS, row, rest)(row, rest) for row in command_rows])
        rest.end()
        drawn = tuple(check(each, str) for each in more[0]) if more else ()
        return Turn(number=number, at=at, build=build, nonce=nonce, events=events, commands=commands, drawn=drawn)
    except DAMAGE as error:
        raise rest.damaged(error) from error


def decode_event(data: bytes) -> Event:
    """The inbox entry of bytes made by `encode_event`.

    Raises:
        SerializationError: the bytes are damaged, or a newer version of Everstep wrote them.
    """
    event: Event = _decode_one(data, "event", EVENT_READERS)
    return event


def decode_message(data: bytes) -> Message:
    """The message of bytes made by `encode_message`.

    Raises:
        SerializationError: the bytes are damaged, or a newer version of Everstep wrote them.
    """
    message: Message = _decode_one(data, "message", _MESSAGES)
    return message


def decode_run(data: bytes) -> RunRecord:
    """The run of bytes made by `encode_run`.

    Raises:
        SerializationError: the bytes are damaged, or a newer version of Everstep wrote them.
    """
    run: RunRecord = _decode_one(data, "run record", _RUNS)
    return run


def _decode_one(data: bytes, kind: str, readers: dict[str, Reader]) -> Any:
    rest = Rest(data, kind)
    try:
        _, row = rest.head
        record = reader_of(readers, row, rest)(row, rest)
        rest.end()
        return record
    except DAMAGE as error:
        raise rest.damaged(error) from error


def _read_advance(row: Row, rest: Rest) -> AdvanceRun:
    _, run_id, cause, recover, due = row
    return AdvanceRun(
        run_id=check(run_id, str), cause=check(cause, str), recover=check(recover, bool), due=check(due, int)
    )


def _read_execute(row: Row, rest: Rest) -> ExecuteStep:
    _, run_id, workflow, op, name, attempt, size, sole, first_at = row
    return ExecuteStep(
        run_id=check(run_id, str),
        workflow=check(workflow, str),
        op=check(op, int),
        name=check(name, str),
        attempt=check(attempt, int),
        input=rest.take(size),
        sole=check(sole, bool),
        first_at=check(first_at, int),
    )


def _read_fire_timer(row: Row, rest: Rest) -> FireTimer:
    _, run_id, op, due = row
    return FireTimer(run_id=check(run_id, str), op=check(op, int), due=check(due, int))


def _read_run(row: Row, rest: Rest) -> RunRecord:
    _, run_id, root_id, workflow, input, created, start, attributes, status, started, completed, *more = row
    result, error, continued_from, continued_to, problem, *newer = more
    reason, parent, paused_at, origin, attributes_turn, first_attributes = newer or _NO_NEWER_FIELDS
    return RunRecord(
        run_id=check(run_id, str),
        root_id=check(root_id, str),
        workflow=check(workflow, str),
        input=rest.take(input),
        created_at=check(created, int),
        start_at=check(start, int),
        attributes=mapping_of(attributes),
        status=RunStatus(status),
        started_at=optional(started, int),
        completed_at=optional(completed, int),
        result=rest.take_optional(result),
        error=rest.take_optional(error),
        continued_from=optional(continued_from, str),
        continued_to=optional(continued_to, str),
        problem=None if problem is None else _read_problem(problem),
        reason=optional(reason, str),
        parent=None if parent is None else _read_parent(parent),
        paused_at=optional(paused_at, int),
        origin=None if origin is None else _read_origin(origin),
        attributes_turn=check(attributes_turn, int),
        first_attributes=None if first_attributes is None else mapping_of(first_attributes),
    )


def _read_parent(row: Row) -> Parent:
    run_id, workflow, op = row
    return Parent(run_id=check(run_id, str), workflow=check(workflow, str), op=check(op, int))


def _read_origin(row: Row) -> Origin:
    run_id, turns = row
    return Origin(run_id=check(run_id, str), turns=check(turns, int))


def _read_problem(row: Row) -> Problem:
    code, message, turn, build, at = row
    return Problem(
        code=check(code, str),
        message=check(message, str),
        turn=check(turn, int),
        build=check(build, str),
        at=check(at, int),
    )


_MESSAGES: Final[dict[str, Reader]] = {
    "sr": lambda row, rest: StartRun(run=_read_run(row, rest)),
    "ar": _read_advance,
    "xs": _read_execute,
    "ft": _read_fire_timer,
}
_RUNS: Final[dict[str, Reader]] = {"rr": _read_run}
