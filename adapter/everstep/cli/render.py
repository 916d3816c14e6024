"""Runs, operations and turns as lines, for people. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import tzinfo
from typing import assert_never

from everstep.cli.shapes import error_view, type_name
from everstep.cli.styles import Style
from everstep.cli.text import (
    age_text,
    clock_text,
    duration_text,
    fit,
    moment_and_age,
    moment_text,
    one_line,
    pad,
    table,
    width_of,
)
from everstep.codec.failures import ErrorView
from everstep.core.attributes import RESERVED
from everstep.core.history import (
    AttributesRequested,
    CancelChild,
    CancelRequested,
    CancelRun,
    CancelStep,
    CancelTimer,
    ChildCancelled,
    ChildCompleted,
    ChildFailed,
    CloseHook,
    Command,
    CompleteRun,
    ConfirmHook,
    ContinueRun,
    Event,
    FailRun,
    HookConflicted,
    HookOpened,
    HookReceived,
    Micros,
    OpenHook,
    PauseRequested,
    PublishValue,
    RunStarted,
    RunStep,
    SetAttributes,
    StartChild,
    StartTimer,
    StepCompleted,
    StepFailed,
    TerminateRequested,
    TimerFired,
    Turn,
    UnpauseRequested,
    WakeUpRequested,
)
from everstep.core.run import RunRecord
from everstep.core.timeline import (
    ChildState,
    ChildView,
    HookView,
    OperationView,
    StepState,
    StepView,
    TimerState,
    TimerView,
)

# --- values ----------------------------------------------------------------------------------------


def value_text(data: bytes | None, limit: int = 60) -> str:
    """A stored value on one line, cut to `limit` columns."""
    if data is None:
        return ""
    head = data[: limit * 4 + 4].decode("utf-8", "replace")
    return fit(one_line(head), limit)


def error_text(data: bytes | None, limit: int | None = None) -> str:
    """A stored error on one line: ``ValueError: no such user``."""
    view = error_view(data)
    if view is None:
        return ""
    name = view.type.rpartition(":")[2].rpartition(".")[2]
    text = one_line(f"{name}: {view.message}" if view.message else name)
    return text if limit is None else fit(text, limit)


def error_lines(data: bytes) -> list[str]:
    """A stored error as Python prints one: causes first, each with the traceback of the process where it was raised."""
    chain: list[ErrorView] = []
    view = error_view(data)
    while view is not None:
        chain.append(view)
        view = view.cause
    lines: list[str] = []
    for each in reversed(chain):
        if lines:
            lines += ["", "which led to:", ""]
        if each.traceback.strip():
            lines += each.traceback.rstrip().splitlines()
        else:
            lines.append(f"{type_name(each)}: {each.message}" if each.message else type_name(each))
            lines += each.notes
    return [_visible(line) for line in lines]


def _visible(line: str) -> str:
    return "".join(each if each.isprintable() or each == "\t" else f"\\x{ord(each):02x}" for each in line)


# --- runs ------------------------------------------------------------------------------------------


def runs_table(
    runs: Sequence[RunRecord], *, now: Micros, style: Style, width: int | None, zone: tzinfo | None = None
) -> list[str]:
    rows = []
    noted = False
    for run in runs:
        note = run_note(run, now)
        noted = noted or bool(note)
        rows.append(
            [
                run.run_id,
                one_line(run.workflow),
                str(run.shown_status),
                moment_and_age(run.created_at, now, zone),
                took_text(run, now),
                note,
            ]
        )
    headers = ["RUN", "WORKFLOW", "STATUS", "CREATED", "TOOK", "NOTE"]
    if not noted:
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    lines = table(headers, rows, right=frozenset({4}), width=width)
    return [
        style.paint(lines[0], "bold"),
        *(_color_status(line, row[2], style) for line, row in zip(lines[1:], rows, strict=True)),
    ]


def _color_status(line: str, status: str, style: Style) -> str:
    """Colour the status in an aligned line; a line that was cut before it stays as it is."""
    if not style.color:
        return line
    before, found, after = line.partition(f"  {status}")
    return f"{before}  {style.status(status)}{after}" if found else line


def took_text(run: RunRecord, now: Micros) -> str:
    if run.started_at is None:
        return ""
    return duration_text((run.completed_at if run.completed_at is not None else now) - run.started_at)


def run_note(run: RunRecord, now: Micros) -> str:
    """What one would ask next: the error, why it is parked, where it went on, what it is about."""
    if run.error is not None:
        return error_text(run.error)
    if run.problem is not None and not run.closed:
        return one_line(run.problem.message)
    if run.continued_to is not None:
        return f"went on as {run.continued_to}"
    if run.started_at is None and run.start_at > now:
        return f"starts {age_text(run.start_at, now)}"
    return " ".join(f"{one_line(k)}={one_line(v)}" for k, v in run.attributes.items() if not k.startswith(RESERVED))


def run_lines(
    run: RunRecord,
    operations: Sequence[OperationView],
    turns: int,
    *,
    resume: str,
    now: Micros,
    style: Style,
    width: int | None,
    zone: tzinfo | None = None,
) -> list[str]:
    """Everything about a run, one thing a line. `resume` is the command to go on with."""
    steps = [each for each in operations if isinstance(each, StepView)]
    timers = [each for each in operations if isinstance(each, TimerView)]
    limit = 10_000 if width is None else max(width - 12, 40)
    pairs: list[tuple[str, str]] = [
        ("run", run.run_id),
        ("workflow", one_line(run.workflow)),
        ("status", style.status(str(run.shown_status))),
    ]
    if run.root_id not in (run.run_id, run.continued_from):
        pairs.append(("root", run.root_id))
    if run.continued_from is not None:
        pairs.append(("goes on", f"from {run.continued_from}"))
    if run.continued_to is not None:
        pairs.append(("went on", f"as {run.continued_to}"))
    pairs += [
        (f"{'':10}" if index else "attributes", f"{one_line(k)}={one_line(v)}")
        for index, (k, v) in enumerate(run.attributes.items())
    ]
    pairs.append(("created", moment_and_age(run.created_at, now, zone)))
    if run.start_at > run.created_at:
        pairs.append(("start at", moment_and_age(run.start_at, now, zone)))
    if run.started_at is not None:
        pairs.append(("started", moment_and_age(run.started_at, now, zone)))
    if run.completed_at is not None:
        pairs.append(("ended", f"{moment_and_age(run.completed_at, now, zone)}, took {took_text(run, now)}"))
    pairs.append(("history", _counts(turns, steps, timers)))
    pairs.append(("input", value_text(run.input, limit)))
    if run.result is not None:
        pairs.append(("result", value_text(run.result, limit)))
    lines = [f"{style.paint(pad(name, 10), 'bold')}  {text}" for name, text in pairs]
    if run.error is not None:
        lines += ["", style.paint("error", "bold"), *(f"  {line}" for line in error_lines(run.error))]
    if run.problem is not None and not run.closed:
        place = f" at turn {run.problem.turn}" if run.problem.turn >= 0 else ""
        lines += [
            "",
            style.paint(
                f"parked ({run.problem.code}){place} by build {run.problem.build}, "
                f"{moment_and_age(run.problem.at, now, zone)}",
                "bold",
            ),
            *(f"  {_visible(line)}" for line in run.problem.message.splitlines()),
            "",
            f"When the code is fixed: {resume}",
        ]
    return lines


def _counts(turns: int, steps: Sequence[StepView], timers: Sequence[TimerView]) -> str:
    found = [counted(turns, "turn"), _by_state(steps, "step")]
    if timers:
        found.append(_by_state(timers, "timer"))
    return ", ".join(found)


def counted(number: int, noun: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _by_state(views: Sequence[OperationView], noun: str) -> str:
    counts: dict[str, int] = {}
    for view in views:
        counts[view.state] = counts.get(view.state, 0) + 1
    total = counted(len(views), noun)
    return total + (f" ({', '.join(f'{number} {state}' for state, number in counts.items())})" if counts else "")


# --- operations ------------------------------------------------------------------------------------


def operations_table(
    views: Sequence[OperationView], *, now: Micros, style: Style, width: int | None, zone: tzinfo | None = None
) -> list[str]:
    """One line an operation, and one below it for each failed attempt that was followed by another."""
    arrow = style.symbol("arrow")
    rows = [_operation_row(view, now, zone, arrow) for view in views]
    lines = table(
        [
            "OP",
            "STEP",
            "STATE",
            "ATTEMPT",
            "ASKED FOR",
            "TOOK",
            f"INPUT {arrow} RESULT",
        ],
        rows,
        right=frozenset({0, 3, 5}),
        width=width,
    )
    out = [style.paint(lines[0], "bold")]
    indent = " " * (max([2, *(width_of(row[0]) for row in rows)]) + 2)
    for view, row, line in zip(views, rows, lines[1:], strict=True):
        out.append(_color_status(line, row[2], style))
        if isinstance(view, StepView):
            for each in view.failures:
                took = duration_text(each.ended_at - each.started_at)
                text = (
                    f"{indent}{style.symbol('retry')} attempt {each.attempt} failed at "
                    f"{clock_text(each.ended_at, zone)} after {took}: {error_text(each.error)}"
                )
                out.append(style.paint(text if width is None else fit(text, max(width, 40)), "yellow"))
    return out


def _operation_row(view: OperationView, now: Micros, zone: tzinfo | None, arrow: str) -> list[str]:
    asked = moment_text(view.asked_at, zone)
    if isinstance(view, TimerView):
        match view.state:
            case TimerState.WAITING:
                note = f"due {moment_and_age(view.due, now, zone)}"
            case TimerState.FIRED | TimerState.CANCELLED:
                note = f"was due {moment_text(view.due, zone)}"
            case _:
                assert_never(view.state)
        ended = view.ended_at if view.ended_at is not None else now
        return [str(view.op), "(timer)", str(view.state), "", asked, duration_text(ended - view.asked_at), note]
    if isinstance(view, HookView):
        ended = view.ended_at if view.ended_at is not None else now
        note = f"{view.received} received, token {view.token}" + (f" is held by {view.holder}" if view.holder else "")
        kind = "(webhook)" if view.webhook else "(hook)"
        return [str(view.op), kind, str(view.state), "", asked, duration_text(ended - view.asked_at), note]
    if isinstance(view, ChildView):
        ended = view.ended_at if view.ended_at is not None else now
        name = f"(child) {one_line(view.workflow)}"
        note = f"{view.run_id} {value_text(view.input)}"
        if view.state is ChildState.COMPLETED:
            note += f" {arrow} {value_text(view.result)}"
        elif view.state is ChildState.FAILED:
            note += f" {arrow} {error_text(view.error)}"
        took = "" if view.state is ChildState.DETACHED else duration_text(ended - view.asked_at)
        return [str(view.op), name, str(view.state), "", asked, took, note]
    if view.ended_at is not None:
        took = duration_text(view.ended_at - view.asked_at)
    elif view.state in (StepState.RUNNING, StepState.RETRYING):
        took = duration_text(now - view.asked_at)
    else:
        took = ""
    match view.state:
        case StepState.COMPLETED:
            note = f"{value_text(view.input)} {arrow} {value_text(view.result)}"
        case StepState.FAILED:
            note = f"{value_text(view.input)} {arrow} {error_text(view.error)}"
        case StepState.RETRYING:
            note = f"{value_text(view.input)}, next attempt {age_text(view.retry_at or now, now)}"
        case StepState.RUNNING | StepState.ABANDONED:
            note = value_text(view.input)
        case _:
            assert_never(view.state)
    return [str(view.op), one_line(view.name), str(view.state), str(view.attempt), asked, took, note]


# --- turns -----------------------------------------------------------------------------------------


def turn_lines(turns: Iterable[Turn], *, style: Style, width: int | None, zone: tzinfo | None = None) -> list[str]:
    """Turn by turn: what arrived, and what the body asked for in answer."""
    names: dict[int, str] = {}
    arrived, asked = style.symbol("arrow"), style.symbol("back")
    limit = 10_000 if width is None else max(width, 40)
    lines: list[str] = []
    for turn in turns:
        when = f"{moment_text(turn.at, zone)[:10]} {clock_text(turn.at, zone)}"
        lines.append(style.paint(f"turn {turn.number}", "bold") + style.paint(f"  {when}  build {turn.build}", "dim"))
        for event in turn.events:
            lines.append(style.paint(fit(f"  {arrived} {_event_text(event, names)}", limit), "cyan"))
        for command in turn.commands:
            if isinstance(command, RunStep):
                names[command.op] = one_line(command.name)
            elif isinstance(command, StartChild):
                names[command.op] = one_line(command.workflow)
            lines.append(fit(f"  {asked} {_command_text(command, turn.at, zone)}", limit))
    return lines


def _event_text(event: Event, names: dict[int, str]) -> str:
    match event:
        case RunStarted():
            return "run started"
        case StepCompleted(op=op, attempt=attempt, result=result):
            tries = f" on attempt {attempt}" if attempt > 1 else ""
            return f"step {op} {names.get(op, '?')} completed{tries}: {value_text(result, 200)}"
        case StepFailed(op=op, attempt=attempt, error=error):
            return f"step {op} {names.get(op, '?')} failed on attempt {attempt}: {error_text(error)}"
        case TimerFired(op=op):
            return f"timer {op} fired"
        case HookOpened(op=op):
            return f"the token of hook {op} is this run's"
        case HookConflicted(op=op, run_id=holder):
            return f"the token of hook {op} belongs to run {holder}"
        case HookReceived(op=op, payload=payload):
            return f"hook {op} received {value_text(payload, 200)}"
        case ChildCompleted(op=op, result=result):
            return f"child {op} {names.get(op, '?')} completed: {value_text(result, 200)}"
        case ChildFailed(op=op, error=error):
            return f"child {op} {names.get(op, '?')} failed: {error_text(error)}"
        case ChildCancelled(op=op, reason=reason):
            return f"child {op} {names.get(op, '?')} was cancelled{_because(reason)}"
        case CancelRequested(reason=reason):
            return f"cancel requested{_because(reason)}"
        case TerminateRequested(reason=reason):
            return f"terminate requested{_because(reason)}"
        case WakeUpRequested():
            return "wake-up requested"
        case PauseRequested():
            return "pause requested"
        case UnpauseRequested():
            return "unpause requested"
        case AttributesRequested(changes=changes):
            return f"attributes requested: {_changes_text(changes)}"
        case _:
            assert_never(event)


def _command_text(command: Command, at: Micros, zone: tzinfo | None) -> str:
    match command:
        case RunStep(op=op, name=name, input=data):
            return f"run step {op} {one_line(name)} {value_text(data, 200)}"
        case StartTimer(op=op, due=due):
            return f"start timer {op}, due {moment_text(due, zone)} (in {duration_text(due - at)})"
        case CancelTimer(op=op):
            return f"cancel timer {op}"
        case CancelStep(op=op):
            return f"cancel step {op}"
        case OpenHook(op=op, token=token, kind=kind, webhook=webhook):
            what = "webhook" if webhook else "hook"
            return f"open {what} {op}{f' for {kind}' if kind else ''}, token {one_line(token)}"
        case ConfirmHook(op=op):
            return f"confirm the token of hook {op}"
        case CloseHook(op=op):
            return f"close hook {op}"
        case StartChild(op=op, workflow=workflow, input=data, awaited=awaited):
            what = "child" if awaited else "detached child"
            return f"start {what} {op} {one_line(workflow)} {value_text(data, 200)}"
        case CancelChild(op=op):
            return f"cancel child {op}"
        case SetAttributes(changes=changes):
            return f"set attributes: {_changes_text(changes)}"
        case PublishValue(name=name, value=value):
            return f"publish {one_line(name)}: {value_text(value, 200)}"
        case CancelRun(reason=reason):
            return f"end the run as cancelled{_because(reason)}"
        case CompleteRun(result=result):
            return f"complete the run: {value_text(result, 200)}"
        case FailRun(error=error):
            return f"fail the run: {error_text(error)}"
        case ContinueRun(input=data):
            return f"continue as a new run: {value_text(data, 200)}"
        case _:
            assert_never(command)


def _because(reason: str | None) -> str:
    return f": {one_line(reason)}" if reason else ""


def _changes_text(changes: Mapping[str, str | None]) -> str:
    return ", ".join(
        f"{one_line(key)} removed" if value is None else f"{one_line(key)}={one_line(value)}"
        for key, value in changes.items()
    )
