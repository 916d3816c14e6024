"""The small pure pieces: durations, ids, attributes, the run's life cycle, retry decisions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstep.core.durations import LATEST, duration_micros, moment_after, to_datetime, to_micros
from everstep.core.ids import derived_run_id, is_run_id, new_run_id
from everstep.core.messages import AdvanceRun, ExecuteStep, FireTimer, StartRun, message_id, run_of, timer_id
from everstep.core.retry import GiveUp, RetryAt, RetryPolicy, after_failure
from everstep.core.run import CLOSED, TRANSITIONS, Problem, RunRecord, RunStatus
from everstep.errors import FatalError, RetryableError

moments = st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(9000, 1, 1), timezones=st.just(UTC))


@given(moments)
def test_moments_survive_exactly(moment):
    assert to_datetime(to_micros(moment)) == moment


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=10_000)))
def test_durations_are_exact(duration):
    assert duration_micros(duration) == duration // timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("5s", 5_000_000),
        ("1h 30m", 5_400_000_000),
        ("1h30m", 5_400_000_000),
        (" 2 Days ", 172_800_000_000),
        ("0.5 hours", 1_800_000_000),
        ("1w, 1d, 1h, 1m, 1s, 1ms", 694_861_001_000),
        ("10 secs", 10_000_000),
    ],
)
def test_durations_as_text(text, micros):
    assert duration_micros(text) == micros


@pytest.mark.parametrize("text", ["", " ", "5", "s", "5 s x", "-5s", "5..5s", "1h-30m", "5 lightyears", "٥x"])
def test_text_that_is_no_duration(text):
    with pytest.raises(ValueError, match="cannot read"):
        duration_micros(text)


def test_nothing_is_waited_for_beyond_the_year_9999():
    assert moment_after("900000 weeks", 0) == LATEST
    assert moment_after(1e14, 0) == LATEST


@given(st.integers(0, 2**60), st.binary(min_size=10, max_size=10))
def test_run_ids_have_their_form_and_sort_by_time(now, entropy):
    run_id = new_run_id(now, entropy)
    assert is_run_id(run_id)
    assert new_run_id(now + 5000, b"\0" * 10) > run_id or (now + 5000) // 1000 >= 1 << 48


def test_derived_run_ids():
    assert derived_run_id("key", "a") == derived_run_id("key", "a")
    assert len({derived_run_id("key", "a"), derived_run_id("continue", "a"), derived_run_id("key", "a", "")}) == 3
    assert is_run_id(derived_run_id("key", "ü" * 256))


@pytest.mark.parametrize(
    "text", ["", "wrun_", "wrun_" + "I" * 26, "wrun_" + "Z" * 26, "step_" + "0" * 26, "wrun_0" * 9]
)
def test_what_is_no_run_id(text):
    assert not is_run_id(text)


def record(**options):
    given = {"run_id": "wrun_1", "root_id": "wrun_1", "workflow": "w", "input": b"{}", "created_at": 1, "start_at": 1}
    return RunRecord(**{**given, **options})


def test_message_ids_follow_from_what_is_asked_for():
    step = ExecuteStep(run_id="r", workflow="w", op=3, name="s", attempt=2, input=b"{}", sole=True, first_at=0)
    messages = [
        StartRun(run=record()),
        AdvanceRun(run_id="r", cause="c"),
        step,
        FireTimer(run_id="r", op=3, due=9),
    ]
    assert [message_id(message) for message in messages] == ["start/wrun_1", "advance/r/c", "step/r/3/2", "timer/r/3"]
    assert [run_of(message) for message in messages] == ["wrun_1", "r", "r", "r"]
    assert timer_id("r", 3) == "timer/r/3"


def test_the_life_cycle_is_closed_under_its_transitions():
    stored = set(RunStatus) - {RunStatus.PARKED, RunStatus.PAUSED}
    assert set(TRANSITIONS) == stored
    assert set().union(*TRANSITIONS.values()) | {RunStatus.PENDING} == stored
    assert {status for status in stored if not TRANSITIONS[status]} == CLOSED


def test_a_run_with_a_problem_is_shown_as_parked_until_it_is_closed():
    problem = Problem(code="io", message="m", turn=0, build="b", at=1)
    assert record(problem=problem, status=RunStatus.RUNNING).shown_status is RunStatus.PARKED
    assert record(status=RunStatus.RUNNING).shown_status is RunStatus.RUNNING
    assert record(problem=problem, status=RunStatus.FAILED).shown_status is RunStatus.FAILED


def test_a_paused_run_is_shown_as_paused_unless_it_is_parked_or_closed():
    problem = Problem(code="io", message="m", turn=0, build="b", at=1)
    assert record(paused_at=1, status=RunStatus.RUNNING).shown_status is RunStatus.PAUSED
    assert record(paused_at=1, problem=problem, status=RunStatus.RUNNING).shown_status is RunStatus.PARKED
    assert record(paused_at=1, status=RunStatus.CANCELLED).shown_status is RunStatus.CANCELLED


def decide(error, *, attempt=1, max_retries=3, chance=1.0, **policy):
    return after_failure(
        error, policy=RetryPolicy(**policy), max_retries=max_retries, attempt=attempt, now=100, chance=chance
    )


def test_what_follows_a_failed_attempt():
    assert decide(ValueError(), first_delay=2) == RetryAt(at=2_000_100)
    assert decide(ValueError(), attempt=3, first_delay=2) == RetryAt(at=8_000_100)
    assert decide(ValueError(), attempt=3, first_delay=2, cap=3) == RetryAt(at=3_000_100)
    assert decide(ValueError(), attempt=4) == GiveUp(exhausted=True)
    assert decide(FatalError()) == GiveUp(exhausted=False)
    assert decide(ValueError(), retry_on=(KeyError,)) == GiveUp(exhausted=False)
    assert decide(KeyError(), retry_on=(LookupError,), chance=0.0) == RetryAt(at=100)
    assert decide(RetryableError(retry_after="1s"), retry_on=(KeyError,)) == RetryAt(at=1_000_100)
    assert decide(RetryableError(retry_after=datetime(1970, 1, 1, tzinfo=UTC))) == RetryAt(at=100)
    assert decide(RetryableError(), attempt=4) == GiveUp(exhausted=True)
    assert decide(BaseException()) == GiveUp(exhausted=False)


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_no_delay_is_longer_than_the_cap(attempt, chance):
    assert 0 <= RetryPolicy(cap=7, factor=3).delay(attempt, chance) <= 7_000_000
