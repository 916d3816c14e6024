"""Steps are retried; errors keep their class, message and cause, on the first run and on replay."""

from __future__ import annotations

import asyncio
import functools
import itertools
import traceback
from datetime import UTC, datetime

import pytest

from everstep import (
    FatalError,
    RetryableError,
    RetryPolicy,
    StepTimeoutError,
    WorkflowRunFailedError,
    get_step_metadata,
    now,
)
from everstep.testing import replay

EXACT = RetryPolicy(first_delay=1, factor=2, cap=5, jitter="none")


class PanicError(BaseException):
    """No Exception, as a panic in an extension module written in Rust."""


class PaymentError(Exception):
    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"payment failed with {code}")
        self.code = code
        self.reason = reason


def test_a_step_is_retried_with_exponential_backoff(app, env):
    times = []

    @app.step(max_retries=4, retry=EXACT)
    async def flaky():
        times.append(env.clock.now())
        if len(times) < 5:
            raise ConnectionError(f"no answer {len(times)}")
        return get_step_metadata().attempt

    @app.workflow
    async def body():
        return await flaky()

    assert env.run(body) == 5
    assert [(later - first) / 1e6 for first, later in itertools.pairwise(times)] == [1, 2, 4, 5]


def test_full_jitter_draws_from_zero_to_the_ceiling():
    policy = RetryPolicy(first_delay=1, factor=2, cap=60)
    assert [policy.delay(attempt, 0.5) for attempt in (1, 2, 3, 10)] == [500_000, 1_000_000, 2_000_000, 30_000_000]
    assert policy.delay(5, 0.0) == 0
    assert policy.delay(100_000, 0.999) <= 60_000_000


@pytest.mark.parametrize(("max_retries", "attempts"), [(0, 1), (1, 2), (3, 4)])
def test_retries_are_used_up(app, env, max_retries, attempts):
    tried = []

    @app.step(name="stubborn", max_retries=max_retries)
    async def stubborn():
        tried.append(get_step_metadata())
        raise ValueError(f"attempt {len(tried)}")

    @app.workflow
    async def body():
        try:
            await stubborn()
        except ValueError as error:
            return str(error), getattr(error, "__notes__", [])

    message, notes = env.run(body)
    assert message == f"attempt {attempts}"
    assert notes == ([f"step 'stubborn' was tried {attempts} times"] if attempts > 1 else [])
    assert [info.attempt for info in tried] == list(range(1, attempts + 1))
    assert len({info.step_id for info in tried}) == 1


def test_fatal_errors_and_errors_outside_the_policy_are_not_retried(app, env):
    tried = []

    class OurFatalError(Exception):
        fatal = True

    @app.step(retry=RetryPolicy(retry_on=(ConnectionError,)))
    async def fails(how):
        tried.append(how)
        raise {"fatal": FatalError("stop"), "marked": OurFatalError("stop"), "other": KeyError("k")}[how]

    @app.workflow
    async def body():
        caught = []
        for how in ("fatal", "marked", "other"):
            try:
                await fails(how)
            except Exception as error:
                caught.append(type(error).__name__)
        return caught

    assert env.run(body)[0] == "FatalError"
    assert tried == ["fatal", "marked", "other"]


@pytest.mark.parametrize(
    ("retry_after", "seconds"), [(7, 7), ("1m 30s", 90), (datetime(2030, 1, 1, tzinfo=UTC), None), ("nonsense", 1)]
)
def test_a_retryable_error_says_when(app, env, retry_after, seconds):
    times = []

    @app.step(retry=EXACT)
    async def limited():
        times.append(env.clock.now())
        if len(times) == 1:
            raise RetryableError("rate limited", retry_after=retry_after)

    @app.workflow
    async def body():
        await limited()
        return now()

    ended = env.run(body)
    if seconds is None:
        assert ended == retry_after
    else:
        assert times[1] - times[0] == seconds * 1_000_000


def test_a_retryable_error_does_not_add_attempts(app, env):
    tried = []

    @app.step(max_retries=2)
    async def limited():
        tried.append(1)
        raise RetryableError("again", retry_after=1)

    @app.workflow
    async def body():
        await limited()

    with pytest.raises(WorkflowRunFailedError, match="RetryableError: again"):
        env.run(body)
    assert len(tried) == 3


def test_errors_keep_class_arguments_attributes_cause_and_traceback(app, env):
    @app.step(max_retries=0)
    async def pay():
        try:
            raise KeyError("card")
        except KeyError as error:
            raise PaymentError(402, reason="declined") from error

    @app.workflow
    async def body():
        try:
            await pay()
        except PaymentError as error:
            cause = error.__cause__
            return error.code, error.reason, str(error), type(cause).__name__, error.remote_traceback

    run = env.start(body)
    code, reason, text, cause, trace = run.wait()
    assert (code, reason, text, cause) == (402, "declined", "payment failed with 402", "KeyError")
    assert "in pay" in trace
    assert "everstep" not in trace.partition("in pay")[0]  # our own frames are no help
    assert replay(app, env.history(run)) == (code, reason, text, cause, trace)


def test_an_uncaught_error_fails_the_run_with_its_cause(app, env):
    @app.step(max_retries=0)
    async def pay():
        raise PaymentError(500, reason="down")

    @app.workflow
    async def body():
        await pay()

    run = env.start(body)
    with pytest.raises(WorkflowRunFailedError, match="failed: PaymentError: payment failed with 500") as caught:
        run.wait()
    error = caught.value
    assert isinstance(error.__cause__, PaymentError)
    assert error.error is error.__cause__
    assert error.run_id == run.run_id
    assert "in pay" in error.__cause__.remote_traceback
    assert "in body" in error.__cause__.remote_traceback
    assert "PaymentError" in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (SystemExit(3), "SystemExit"),
        (StopIteration("x"), "RuntimeError"),
        (asyncio.CancelledError("own"), "CancelledError"),
        (ExceptionGroup("two", [ValueError(1), KeyError(2)]), "ExceptionGroup"),
        (TimeoutError("own"), "TimeoutError"),
        (OSError(2, "No such file", "a"), "FileNotFoundError"),
        (PanicError("at the disco"), "PanicError"),
    ],
)
@pytest.mark.parametrize("kind", ["async", "thread"])
def test_unusual_errors_of_steps(app, env, raised, seen, kind):
    async def in_loop():
        raise raised

    def in_thread():
        raise raised

    step = app.step(max_retries=0)(in_loop if kind == "async" else in_thread)

    @app.workflow
    async def body():
        try:
            await step()
        except BaseException as error:
            return type(error).__name__, str(error)

    name, text = env.run(body)
    if kind == "async" and isinstance(raised, StopIteration):
        assert (name, text) == ("RuntimeError", "coroutine raised StopIteration")
    else:
        assert name == seen
        if seen not in ("RuntimeError", "CancelledError"):
            assert text == str(raised)


def test_a_step_that_runs_too_long_fails_as_a_timeout(app, env):
    @app.step(name="slow", timeout=0.01, max_retries=1, retry=RetryPolicy(first_delay=0))
    async def slow():
        await asyncio.sleep(30)

    @app.workflow
    async def body():
        try:
            await slow()
        except TimeoutError as error:
            return type(error) is StepTimeoutError, str(error)

    assert env.run(body) == (True, "step 'slow' ran longer than 0.01 s")


def test_a_step_may_use_timeouts_of_its_own(app, env):
    @app.step(timeout=30, max_retries=0)
    async def impatient():
        async with asyncio.timeout(0.01):
            await asyncio.sleep(30)

    @app.workflow
    async def body():
        try:
            await impatient()
        except TimeoutError as error:
            return type(error).__name__

    assert env.run(body) == "TimeoutError"


def test_a_def_step_runs_in_a_thread_with_its_context(app, env):
    import threading

    @app.step
    def where() -> tuple[bool, str]:
        return threading.current_thread() is threading.main_thread(), get_step_metadata().step_name

    @app.workflow
    async def body() -> tuple[bool, str]:
        return await where()

    in_main, name = env.run(body)
    assert (in_main, name.rpartition(".")[2]) == (False, "where")


def test_a_decorator_that_makes_a_def_of_an_async_def(app, env):
    def decorated(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    @app.step
    @decorated
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    @app.workflow
    async def body() -> int:
        return await double(21)

    assert env.run(body) == 42


def test_at_most_once_is_tried_once(app, env):
    tried = []

    @app.step(at_most_once=True)
    async def send():
        tried.append(1)
        raise ConnectionError("maybe sent")

    @app.workflow
    async def body():
        await send()

    with pytest.raises(WorkflowRunFailedError, match="ConnectionError: maybe sent"):
        env.run(body)
    assert len(tried) == 1


def test_failed_attempts_are_recorded_for_people(app, env):
    @app.step(max_retries=2, retry=EXACT)
    async def flaky():
        if get_step_metadata().attempt < 3:
            raise ConnectionError("no answer")

    @app.workflow
    async def body():
        await flaky()

    run = env.start(body)
    run.wait()
    attempts = env.connection.backend.steps.failed_attempts(run.run_id)
    assert [(each.op, each.attempt) for each in attempts] == [(0, 1), (0, 2)]
    assert [each.retry_at - each.ended_at for each in attempts] == [1_000_000, 2_000_000]
    assert b"no answer" in attempts[0].error
