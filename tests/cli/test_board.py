"""The display as lines of text."""

from __future__ import annotations

import pytest

from everstep.cli.board import MOST_ENDED, Board, ended_lines, frame, more_lines, plain_line
from everstep.cli.styles import Style
from everstep.cli.text import width_of
from everstep.codec.failures import encode_error
from everstep.core.run import RunStatus
from everstep.core.timeline import StepState, StepView, TimerState, TimerView
from everstep.ports import FailedAttempt
from everstep.runtime.progress import (
    AttemptFailed,
    AttemptStarted,
    AttemptSucceeded,
    RunClosed,
    RunParked,
    TimerStarted,
)

SECOND = 1_000_000
PLAIN = Style(color=False, symbols=True)
ERROR = encode_error(ConnectionError("refused\n\x1b[31mby the peer"))


@pytest.fixture
def board():
    return Board({"charge": 4})


def began(op, step="charge", attempt=1, at=0):
    return AttemptStarted(run_id="r", op=op, step=step, attempt=attempt, at=at)


def succeeded(op, step="charge", attempt=1, at=SECOND):
    return AttemptSucceeded(run_id="r", op=op, step=step, attempt=attempt, at=at)


def failed(op, step="charge", attempt=1, at=SECOND, retry_at=None):
    return AttemptFailed(run_id="r", op=op, step=step, attempt=attempt, at=at, error=ERROR, retry_at=retry_at)


def shown(board, now, *, width=80, height=24, style=PLAIN, tick=0):
    return frame(board, "order", since=0, now=now, tick=tick, width=width, height=height, style=style)


def lines_of(board, *progress, width=80):
    found = [board.tell(each) for each in progress]
    return ended_lines([each for each in found if each is not None], board, style=PLAIN, width=width)


# --- the lines that change -------------------------------------------------------------------------


def test_running_steps_have_a_spinner_and_their_time(board):
    board.tell(began(0))
    board.tell(began(1, "ship", attempt=2, at=SECOND))
    assert shown(board, 3 * SECOND) == [
        "⠋ charge  3.0 s",
        "⠋ ship  attempt 2  2.0 s",
        "order: 0 steps done, 2 running, 3.0 s",
    ]
    assert shown(board, 3 * SECOND, tick=1)[0] == "⠙ charge  3.0 s"


def test_a_step_that_waits_for_its_next_attempt_counts_down(board):
    board.tell(began(0))
    board.tell(failed(0, retry_at=3 * SECOND))
    assert shown(board, SECOND) == ["↻ charge  attempt 2 of 4 in 2.0 s", "order: 0 steps done, 1 to retry, 1.0 s"]
    assert shown(board, 4 * SECOND)[0] == "↻ charge  attempt 2 of 4 now"
    board.tell(began(0, attempt=2, at=3 * SECOND))
    assert shown(board, 3 * SECOND)[0] == "⠋ charge  attempt 2 of 4  0 µs"


def test_timers_are_shown_when_nothing_else_goes_on(board):
    board.tell(TimerStarted(run_id="r", op=1, due=3600 * SECOND))
    assert shown(board, 0)[0].startswith("◷ timer  1 h left, until ")
    board.tell(began(0))
    assert not any("timer" in line for line in shown(board, 0))


def test_many_running_steps_are_counted_by_name(board):
    for op in range(188):
        board.tell(began(op, "page", at=op))
    for op in range(200, 212):
        board.tell(began(op, "fetch"))
    for op in range(300, 303):
        board.tell(began(op))
        board.tell(failed(op, retry_at=5 * SECOND))
    assert shown(board, 2 * SECOND) == [
        "⠋ page × 188  longest 2.0 s",
        "⠋ fetch × 12  longest 2.0 s",
        "↻ charge × 3 to retry, next in 3.0 s",
        "order: 0 steps done, 200 running, 3 to retry, 2.0 s",
    ]


def test_even_the_counts_are_bounded_by_the_height(board):
    for op in range(40):
        board.tell(began(op, f"step{op}"))
    lines = shown(board, 0, height=8)
    assert len(lines) <= 7
    assert lines[-2] == "· and 35 more, of 35 other kinds"


@pytest.mark.parametrize("width", [20, 37, 80])
@pytest.mark.parametrize("height", [2, 5, 24])
def test_no_line_is_wider_than_the_terminal_and_no_frame_higher(board, width, height):
    for op in range(9):
        board.tell(began(op, "名前がとても長いステップ" * 3))
    for op in range(10, 30):
        lines_of(board, began(op, "x" * 90), failed(op, "x" * 90, retry_at=9 * SECOND))
    lines = shown(board, SECOND, width=width, height=height)
    assert all(width_of(line) <= width for line in lines)
    assert len(lines) <= max(height, 2)


def test_colours_and_symbols_are_left_out_where_there_are_none(board):
    board.tell(began(0))
    assert shown(board, 0, style=Style(color=False, symbols=False))[0] == "| charge  0 \u00b5s"
    assert shown(board, 0, style=Style(color=True))[0] == "\x1b[36m⠋\x1b[0m charge  0 µs"


def test_a_closed_run_leaves_nothing_on_the_board(board):
    board.tell(began(0))
    board.tell(failed(1, retry_at=9))
    board.tell(TimerStarted(run_id="r", op=2, due=9))
    board.tell(RunClosed(run_id="r", status=RunStatus.COMPLETED, continued_to=None))
    assert shown(board, 0) == ["order: 0 steps done, 0 µs"]


def test_what_is_recorded_replaces_what_was_told(board):
    board.tell(TimerStarted(run_id="r", op=1, due=60 * SECOND))
    attempt = FailedAttempt(op=3, attempt=1, started_at=0, ended_at=1, error=ERROR, retry_at=4 * SECOND)
    retrying = StepView(
        op=3, name="charge", turn=0, asked_at=0, input=b"", state=StepState.RETRYING, attempt=2,
        failures=(attempt,), retry_at=4 * SECOND,
    )  # fmt: skip
    timers = [
        TimerView(op=1, turn=0, asked_at=0, due=60 * SECOND, state=TimerState.CANCELLED),
        TimerView(op=2, turn=0, asked_at=0, due=7200 * SECOND, state=TimerState.WAITING),
    ]
    board.look("r", [retrying, *timers])
    lines = shown(board, 0)
    assert lines[0] == "↻ charge  attempt 2 of 4 in 4.0 s: ConnectionError: refused by the peer"
    assert lines[1].startswith("◷ timer  2 h left")
    assert len(lines) == 3


# --- the lines that stay ---------------------------------------------------------------------------


def test_what_has_ended_gets_a_line(board):
    assert lines_of(board, began(0), succeeded(0)) == ["✓ charge  1.0 s"]
    assert lines_of(board, began(1, attempt=3), succeeded(1, attempt=3)) == ["✓ charge  attempt 3 of 4  1.0 s"]
    assert lines_of(board, began(2), failed(2, retry_at=3 * SECOND)) == [
        "↻ charge  attempt 1 failed, next in 2.0 s: ConnectionError: refused by the peer"
    ]
    assert lines_of(board, began(2, attempt=4), failed(2, attempt=4)) == [
        "✗ charge  failed after 4 attempts: ConnectionError: refused by the peer"
    ]


def test_after_the_first_few_of_a_name_they_are_only_counted(board):
    lines = [line for op in range(200) for line in lines_of(board, began(op), succeeded(op, at=op * 1000))]
    assert len(lines) == MOST_ENDED
    assert more_lines(board, style=PLAIN, width=80) == ["✓ charge × 195 more, up to 199 ms"]
    assert lines_of(board, began(0, "ship"), succeeded(0, "ship")) == ["✓ ship  1.0 s"]
    for op in range(10):
        lines_of(board, began(op), failed(op, retry_at=9 * SECOND))
        lines_of(board, began(op), failed(op))
    assert more_lines(board, style=PLAIN, width=80)[1:] == [
        "↻ charge × 5 more failed attempts, last: ConnectionError: refused by the peer",
        "✗ charge × 5 more failed, last: ConnectionError: refused by the peer",
    ]
    assert board.completed == 201
    assert board.failed == 10


# --- plain lines -----------------------------------------------------------------------------------


def said(board, progress):
    return plain_line(progress, board.tell(progress), board, now=0)


def test_plain_lines_tell_the_same_story(board):
    assert said(board, began(0)) == "step 0 charge started"
    assert said(board, failed(0, retry_at=3 * SECOND)) == (
        "step 0 charge attempt 1 failed in 1.0 s, next attempt in 2.0 s: ConnectionError: refused by the peer"
    )
    assert said(board, began(0, attempt=2)) == "step 0 charge started (attempt 2 of 4)"
    assert said(board, succeeded(0, attempt=2)) == "step 0 charge completed in 1.0 s"
    assert said(board, succeeded(5)) == "step 5 charge completed"
    assert (
        said(board, failed(1, attempt=4))
        == "step 1 charge failed after 4 attempts: ConnectionError: refused by the peer"
    )
    assert said(board, TimerStarted(run_id="r", op=2, due=90 * SECOND)).endswith("(in 90.0 s)")
    assert said(board, RunParked(run_id="r", reason="…")) == "run parked"
    assert said(board, RunClosed(run_id="r", status=RunStatus.FAILED, continued_to=None)) == "run failed"
    assert said(board, RunClosed(run_id="r", status=RunStatus.CONTINUED, continued_to="s")) == "run goes on as s"


def test_control_characters_of_a_name_do_not_reach_the_terminal(board):
    assert said(board, began(0, "a\x1b[2Jb\nc\x07")) == "step 0 ab c started"
