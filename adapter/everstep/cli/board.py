"""What goes on in a run, told by progress, and how it looks. Pure: progress and the time in, lines out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Final, TypeAlias, assert_never

from everstep.cli.render import counted, error_text
from everstep.cli.styles import Style
from everstep.cli.text import duration_text, fit, moment_text, one_line, width_of
from everstep.core.history import Micros
from everstep.core.run import RunStatus
from everstep.core.timeline import OperationView, StepState, StepView, TimerState, TimerView
from everstep.runtime.progress import (
    AttemptFailed,
    AttemptStarted,
    AttemptSucceeded,
    Progress,
    RunClosed,
    RunParked,
    TimerStarted,
)

MOST_ROWS: Final = 10
"""How many operations are shown one by one; more are counted by name."""

MOST_ENDED: Final = 5
"""How many attempts at steps of one name get a line each when they end; more are counted."""

MOST_COUNTS: Final = 4
"""How many such counts are shown while one looks."""

Key: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """An attempt that runs since then."""

    step: str
    attempt: int
    since: Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrying:
    """A step whose next attempt runs at ``at``, and why the last one failed, unless that was just said."""

    step: str
    attempt: int
    at: Micros
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An attempt that has ended, after ``took`` microseconds if that is known; with an error, when there is another."""

    op: int
    step: str
    attempt: int
    took: int | None
    error: str | None = None
    retry_in: int | None = None


@dataclass(slots=True, kw_only=True)
class More:
    """Attempts that ended in the same way and got no line of their own."""

    count: int = 0
    longest: int = 0
    error: str = ""


class Board:
    """The state of a run while one looks.

    Args:
        attempts: how many attempts a step may take at most, by name.
        completed: how many steps had completed before.
    """

    def __init__(self, attempts: Mapping[str, int], *, completed: int = 0) -> None:
        self.attempts = attempts
        self.running: dict[Key, Running] = {}
        self.retrying: dict[Key, Retrying] = {}
        self.timers: dict[Key, Micros] = {}
        self.completed = completed
        self.failed = 0
        self.said: dict[tuple[str, str], int] = {}
        self.more: dict[tuple[str, str], More] = {}

    def tell(self, progress: Progress) -> Ended | None:
        """Take note of progress; returns what ended, if it was an attempt."""
        match progress:
            case AttemptStarted(run_id=run_id, op=op, step=step, attempt=attempt, at=at):
                self.retrying.pop((run_id, op), None)
                self.running[run_id, op] = Running(step=one_line(step), attempt=attempt, since=at)
            case AttemptSucceeded(run_id=run_id, op=op, step=step, attempt=attempt, at=at):
                self.completed += 1
                return Ended(op=op, step=one_line(step), attempt=attempt, took=self._took((run_id, op), at))
            case AttemptFailed(run_id=run_id, op=op, step=step, attempt=attempt, at=at, error=error, retry_at=retry_at):
                name, text = one_line(step), error_text(error)
                took = self._took((run_id, op), at)
                if retry_at is None:
                    self.failed += 1
                    return Ended(op=op, step=name, attempt=attempt, took=took, error=text)
                self.retrying[run_id, op] = Retrying(step=name, attempt=attempt + 1, at=retry_at, error="")
                return Ended(op=op, step=name, attempt=attempt, took=took, error=text, retry_in=retry_at - at)
            case TimerStarted(run_id=run_id, op=op, due=due):
                self.timers[run_id, op] = due
            case RunClosed(run_id=run_id) | RunParked(run_id=run_id):
                for operations in (self.running, self.retrying, self.timers):
                    for key in [key for key in operations if key[0] == run_id]:
                        del operations[key]
            case _:
                assert_never(progress)
        return None

    def look(self, run_id: str, views: Iterable[OperationView]) -> None:
        """Replace what is known of timers and retries by what is recorded: progress does not tell of all of it."""
        self.timers.clear()
        self.retrying.clear()
        for view in views:
            if isinstance(view, TimerView):
                if view.state is TimerState.WAITING:
                    self.timers[run_id, view.op] = view.due
            elif view.state is StepState.RETRYING and view.retry_at is not None:
                last = view.failures[-1]
                self.retrying[run_id, view.op] = Retrying(
                    step=one_line(view.name), attempt=view.attempt, at=view.retry_at, error=error_text(last.error)
                )

    def _took(self, key: Key, at: Micros) -> int | None:
        started = self.running.pop(key, None)
        return None if started is None else max(at - started.since, 0)

    def tries(self, step: str, attempt: int) -> str:
        """``attempt 2 of 4``; nothing for a first attempt."""
        if attempt == 1:
            return ""
        most = self.attempts.get(step)
        return f"attempt {attempt}" if most is None or most < attempt else f"attempt {attempt} of {most}"


# --- the live display ------------------------------------------------------------------------------


def frame(
    board: Board, title: str, *, since: Micros, now: Micros, tick: int, width: int, height: int, style: Style
) -> list[str]:
    """The lines at the bottom, which change while one looks: at most `height`, none wider than `width`."""
    width = max(width, 20)
    lines = more_lines(board, style=style, width=width, most=max(min(MOST_COUNTS, height - 3), 0))
    items = _items(board, now, tick, style)
    room = max(min(MOST_ROWS, height - 2 - len(lines)), 1)
    if len(items) > room:
        items = _grouped(board, now, tick, room, style)
    lines += [_painted(symbol, text, color, width, style) for symbol, text, color in items]
    lines.append(style.paint(fit(f"{title}: {_summary(board)}, {duration_text(now - since)}", width), "dim"))
    return lines


def _painted(symbol: str, text: str, color: str, width: int, style: Style) -> str:
    return f"{style.paint(symbol, color)} {fit(text, width - width_of(symbol) - 1, ellipsis=style.symbol('ellipsis'))}"


def _items(board: Board, now: Micros, tick: int, style: Style) -> list[tuple[str, str, str]]:
    """Symbol, text and colour of each operation. Timers only when nothing else goes on: most are timeouts."""
    items = []
    for _, running in sorted(board.running.items()):
        parts = (running.step, board.tries(running.step, running.attempt), duration_text(now - running.since))
        items.append((style.spinner(tick), "  ".join(filter(None, parts)), "cyan"))
    for _, waiting in sorted(board.retrying.items()):
        when = _in_text(waiting.at - now)
        tries = board.tries(waiting.step, waiting.attempt)
        why = f": {waiting.error}" if waiting.error else ""
        items.append((style.symbol("retry"), f"{waiting.step}  {tries} {when}{why}", "yellow"))
    if not board.running:
        for _, due in sorted(board.timers.items(), key=lambda each: each[1]):
            left = f"{duration_text(due - now)} left" if due > now else "due"
            items.append((style.symbol("timer"), f"timer  {left}, until {moment_text(due)}", "blue"))
    return items


def _grouped(board: Board, now: Micros, tick: int, room: int, style: Style) -> list[tuple[str, str, str]]:
    """Too many to show one by one: how many of each name, the most first, what runs before what waits."""
    times = style.symbol("times")
    groups: list[tuple[int, tuple[str, str, str]]] = []
    for step, since in _by_step((each.step, each.since) for each in board.running.values()):
        longest = duration_text(now - min(since))
        text = f"{step}  {longest}" if len(since) == 1 else f"{step} {times} {len(since)}  longest {longest}"
        groups.append((len(since), (style.spinner(tick), text, "cyan")))
    for step, at in _by_step((each.step, each.at) for each in board.retrying.values()):
        number = "" if len(at) == 1 else f" {times} {len(at)}"
        text = f"{step}{number} to retry, next {_in_text(min(at) - now)}"
        groups.append((len(at), (style.symbol("retry"), text, "yellow")))
    if board.timers and not board.running:
        text = f"timer {times} {len(board.timers)}, next {_in_text(min(board.timers.values()) - now)}"
        groups.append((len(board.timers), (style.symbol("timer"), text, "blue")))
    if len(groups) <= room:
        return [item for _, item in groups]
    rest = groups[room - 1 :]
    text = f"and {sum(count for count, _ in rest)} more, of {counted(len(rest), 'other kind')}"
    return [*(item for _, item in groups[: room - 1]), (style.symbol("dot"), text, "dim")]


def _by_step(pairs: Iterable[tuple[str, Micros]]) -> list[tuple[str, list[Micros]]]:
    found: dict[str, list[Micros]] = {}
    for step, moment in pairs:
        found.setdefault(step, []).append(moment)
    return sorted(found.items(), key=lambda each: -len(each[1]))


def _in_text(micros: int) -> str:
    return f"in {duration_text(micros)}" if micros > 0 else "now"


def _summary(board: Board) -> str:
    parts = [f"{counted(board.completed, 'step')} done"]
    for number, name in ((board.failed, "failed"), (len(board.running), "running"), (len(board.retrying), "to retry")):
        if number:
            parts.append(f"{number} {name}")
    return ", ".join(parts)


def ended_lines(ended: Iterable[Ended], board: Board, *, style: Style, width: int) -> list[str]:
    """Lines, which stay, for attempts that have ended. After the first few of a name they are only counted."""
    lines = []
    for each in ended:
        kind = "done" if each.error is None else "failed" if each.retry_in is None else "retry"
        key = (kind, each.step)
        said = board.said[key] = board.said.get(key, 0) + 1
        if said <= MOST_ENDED:
            lines.append(_ended_line(each, board, style, width))
            continue
        more = board.more.setdefault(key, More())
        more.count += 1
        more.longest = max(more.longest, each.took or 0)
        more.error = each.error or ""
    return lines


def more_lines(board: Board, *, style: Style, width: int, most: int | None = None) -> list[str]:
    """Lines for what was only counted, in the order in which it began to be; at most so many."""
    return [_more_line(kind, step, more, style, width) for (kind, step), more in list(board.more.items())[:most]]


def _more_line(kind: str, step: str, more: More, style: Style, width: int) -> str:
    text = f"{step} {style.symbol('times')} {more.count} more"
    match kind:
        case "done":
            return _painted(style.symbol("done"), f"{text}, up to {duration_text(more.longest)}", "green", width, style)
        case "retry":
            return _painted(
                style.symbol("retry"), f"{text} failed attempts, last: {more.error}", "yellow", width, style
            )
        case _:
            return _painted(style.symbol("failed"), f"{text} failed, last: {more.error}", "red", width, style)


def _ended_line(ended: Ended, board: Board, style: Style, width: int) -> str:
    took = "" if ended.took is None else duration_text(ended.took)
    if ended.error is None:
        text = "  ".join(filter(None, (ended.step, board.tries(ended.step, ended.attempt), took)))
        return _painted(style.symbol("done"), text, "green", width, style)
    if ended.retry_in is not None:
        text = f"{ended.step}  attempt {ended.attempt} failed, next in {duration_text(ended.retry_in)}: {ended.error}"
        return _painted(style.symbol("retry"), text, "yellow", width, style)
    attempts = f" after {counted(ended.attempt, 'attempt')}" if ended.attempt > 1 else ""
    return _painted(style.symbol("failed"), f"{ended.step}  failed{attempts}: {ended.error}", "red", width, style)


# --- plain lines -----------------------------------------------------------------------------------


def plain_line(
    progress: Progress, ended: Ended | None, board: Board, *, now: Micros, zone: tzinfo | None = None
) -> str:
    """One line for one piece of progress. `ended` is what the board made of it."""
    match progress:
        case AttemptStarted(op=op, step=step, attempt=attempt):
            tries = board.tries(step, attempt)
            return f"step {op} {one_line(step)} started" + (f" ({tries})" if tries else "")
        case AttemptSucceeded(op=op, step=step):
            return f"step {op} {one_line(step)} completed{_in(ended)}"
        case AttemptFailed(op=op, step=step, attempt=attempt, at=at, error=error, retry_at=retry_at):
            name, text = one_line(step), error_text(error)
            if retry_at is not None:
                wait = duration_text(retry_at - at)
                return f"step {op} {name} attempt {attempt} failed{_in(ended)}, next attempt in {wait}: {text}"
            attempts = f" after {counted(attempt, 'attempt')}" if attempt > 1 else _in(ended)
            return f"step {op} {name} failed{attempts}: {text}"
        case TimerStarted(op=op, due=due):
            return f"timer {op} set, due {moment_text(due, zone)} (in {duration_text(max(due - now, 0))})"
        case RunClosed(status=status, continued_to=continued_to):
            if status is RunStatus.CONTINUED:
                return f"run goes on as {continued_to}"
            return f"run {status}"
        case RunParked():
            return "run parked"
        case _:
            assert_never(progress)


def _in(ended: Ended | None) -> str:
    return "" if ended is None or ended.took is None else f" in {duration_text(ended.took)}"


Look: TypeAlias = Callable[[], tuple[str, Sequence[OperationView]]]
"""Reads which run it is by now, and what is recorded of it."""


def count_before(views: Iterable[OperationView]) -> int:
    """How many steps had completed before one looked."""
    return sum(isinstance(view, StepView) and view.state is StepState.COMPLETED for view in views)
