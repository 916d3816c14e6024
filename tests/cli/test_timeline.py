"""What became of each operation: the fold over turns and failed attempts."""

from __future__ import annotations

from everstep.core.history import (
    CancelTimer,
    CompleteRun,
    FailRun,
    RunStarted,
    RunStep,
    StartTimer,
    StepCompleted,
    StepFailed,
    TimerFired,
    Turn,
)
from everstep.core.timeline import StepState, StepView, TimerState, TimerView, timeline
from everstep.ports import FailedAttempt

SECOND = 1_000_000


def turn(number, events, commands, *, at=None):
    when = number * SECOND if at is None else at
    return Turn(number=number, at=when, build="b", nonce="n", events=tuple(events), commands=tuple(commands))


def run_step(op, name="charge", data=b"{}"):
    return RunStep(op=op, name=name, input=data, digest="d")


def failed(op, attempt, *, retry_at):
    return FailedAttempt(
        op=op,
        attempt=attempt,
        started_at=attempt * 10,
        ended_at=attempt * 10 + 5,
        error=b"e%d" % attempt,
        retry_at=retry_at,
    )


RUN = "wrun_00000000000000000000000000"
STARTED = turn(0, [RunStarted()], [run_step(0, data=b'{"a":1}')])


def test_nothing_happened_yet():
    assert timeline([], run_id=RUN, now=0) == ()


def test_a_step_without_outcome_is_running():
    (step,) = timeline([STARTED], run_id=RUN, now=5)
    assert step == StepView(
        op=0, name="charge", turn=0, asked_at=0, input=b'{"a":1}', state=StepState.RUNNING, attempt=1
    )


def test_a_completed_step_has_its_result_and_the_time_of_the_turn_that_consumed_it():
    turns = [STARTED, turn(1, [StepCompleted(op=0, attempt=1, result=b"7")], [CompleteRun(result=b"7")])]
    (step,) = timeline(turns, run_id=RUN, now=9)
    assert (step.state, step.result, step.ended_at, step.attempt) == (StepState.COMPLETED, b"7", SECOND, 1)


def test_failed_attempts_come_before_the_one_that_ended_the_step_in_order():
    turns = [STARTED, turn(1, [StepFailed(op=0, attempt=3, error=b"last")], [FailRun(error=b"last")])]
    attempts = [failed(0, 2, retry_at=20), failed(0, 1, retry_at=10)]
    (step,) = timeline(turns, attempts, run_id=RUN, now=9)
    assert (step.state, step.error, step.attempt) == (StepState.FAILED, b"last", 3)
    assert [each.error for each in step.failures] == [b"e1", b"e2"]


def test_a_late_failure_of_an_attempt_that_was_overtaken_is_left_out():
    turns = [STARTED, turn(1, [StepCompleted(op=0, attempt=1, result=b"7")], [])]
    (step,) = timeline(turns, [failed(0, 1, retry_at=99)], run_id=RUN, now=9)
    assert step.state is StepState.COMPLETED
    assert step.failures == ()


def test_a_step_waits_for_its_next_attempt_until_that_is_due():
    (before,) = timeline([STARTED], [failed(0, 1, retry_at=100)], run_id=RUN, now=99)
    (after,) = timeline([STARTED], [failed(0, 1, retry_at=100)], run_id=RUN, now=100)
    assert (before.state, before.attempt, before.retry_at) == (StepState.RETRYING, 2, 100)
    assert (after.state, after.attempt, after.retry_at) == (StepState.RUNNING, 2, None)


def test_an_outcome_in_the_inbox_counts():
    (step,) = timeline([STARTED], (), [StepCompleted(op=0, attempt=2, result=b"7")], run_id=RUN, now=9)
    assert (step.state, step.result, step.attempt, step.ended_at) == (StepState.COMPLETED, b"7", 2, None)


def test_an_outcome_is_counted_once():
    events = [StepCompleted(op=0, attempt=1, result=b"7")]
    late = [StepFailed(op=0, attempt=2, error=b"late")]
    (step,) = timeline([STARTED, turn(1, events, [])], (), late, run_id=RUN, now=9)
    assert (step.state, step.result, step.error) == (StepState.COMPLETED, b"7", None)


def test_a_closed_run_abandons_what_has_no_outcome():
    turns = [STARTED, turn(1, [TimerFired(op=7)], [StartTimer(op=1, due=9 * SECOND), FailRun(error=b"e")])]
    step, timer = timeline(turns, [failed(0, 1, retry_at=10)], run_id=RUN, now=5 * SECOND)
    assert (step.state, step.ended_at, step.attempt) == (StepState.ABANDONED, SECOND, 1)
    assert len(step.failures) == 1
    assert (timer.state, timer.ended_at) == (TimerState.CANCELLED, SECOND)


def test_a_run_that_was_closed_from_outside_abandons_too():
    (step,) = timeline([STARTED], run_id=RUN, now=9, closed_at=8)
    assert (step.state, step.ended_at) == (StepState.ABANDONED, 8)


def test_timers_wait_fire_and_are_cancelled():
    turns = [
        turn(0, [RunStarted()], [StartTimer(op=0, due=10), StartTimer(op=1, due=20), StartTimer(op=2, due=30)]),
        turn(1, [TimerFired(op=0)], [CancelTimer(op=1)]),
    ]
    views = timeline(turns, run_id=RUN, now=9)
    assert [view.state for view in views] == [TimerState.FIRED, TimerState.CANCELLED, TimerState.WAITING]
    assert [view.ended_at for view in views] == [SECOND, SECOND, None]
    assert all(isinstance(view, TimerView) for view in views)


def test_operations_are_in_the_order_they_were_asked_for():
    turns = [turn(0, [RunStarted()], [run_step(0), StartTimer(op=1, due=9), run_step(2, "ship")])]
    assert [view.op for view in timeline(turns, run_id=RUN, now=9)] == [0, 1, 2]


def test_events_for_operations_nobody_asked_for_are_passed_over():
    strays = [StepCompleted(op=8, attempt=1, result=b"1"), StepFailed(op=9, attempt=1, error=b"e"), TimerFired(op=0)]
    (step,) = timeline([STARTED, turn(1, strays, [CancelTimer(op=3)])], [failed(5, 1, retry_at=1)], run_id=RUN, now=9)
    assert step.state is StepState.RUNNING
