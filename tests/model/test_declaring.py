"""Workflows and steps are declared with decorators, bare or with options."""

from __future__ import annotations

import asyncio

import pytest

from everstep import ContextError, RegistrationError, RetryPolicy, Workflows


def test_bare_and_with_options(app):
    @app.workflow
    async def one():
        return 1

    @app.workflow(name="the second")
    async def two():
        return 2

    @app.step
    async def bare():
        return 3

    @app.step(max_retries=0, retry=RetryPolicy(first_delay="2s"), timeout="1m", name="optioned")
    def with_options():
        return 4

    assert set(app.workflows) == {"test_bare_and_with_options.one", "the second"}
    assert set(app.steps) == {"test_bare_and_with_options.bare", "optioned"}
    assert (bare.max_retries, bare.timeout, bare.at_most_once, bare.asynchronous) == (3, None, False, True)
    assert (with_options.max_retries, with_options.timeout, with_options.asynchronous) == (0, 60.0, False)
    assert one.__name__ == "one"


def test_outside_a_workflow_a_step_is_the_plain_function(app):
    @app.step
    async def double(number):
        return number * 2

    @app.step
    def triple(number: int) -> int:
        return number * 3

    assert asyncio.run(double(2)) == 4
    assert triple(2) == 6


def test_a_workflow_is_not_called(app):
    @app.workflow
    async def greet(name):
        return f"hello {name}"

    with pytest.raises(ContextError, match=r"is not called but started: 'await start\("):
        greet("ada")
    assert asyncio.run(greet.func("ada")) == "hello ada"


def _plain():
    return 1


def _generator():
    yield 1


async def _async_generator():
    yield 1


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda app: app.workflow(_plain), r"a workflow is an 'async def' function, and .*_plain .*is not"),
        (lambda app: app.workflow(_async_generator), "is a generator; a workflow returns one value"),
        (lambda app: app.step(_generator), "is a generator; a step returns one value"),
        (lambda app: app.step(_async_generator), "is a generator; a step returns one value"),
        (lambda app: app.step(3), "a step is a function defined with 'def' or 'async def', not int 3"),
        (lambda app: app.step(print), "a step is a function defined with"),
        (lambda app: app.step(app.step(_plain)), "is declared already"),
        (lambda app: app.step(max_retries=-1)(_plain), "max_retries must be 0 or more, not -1"),
        (lambda app: app.step(max_retries=True)(_plain), "max_retries is a whole number, not True"),
        (lambda app: app.step(max_retries=1.5)(_plain), "max_retries is a whole number, not 1.5"),
        (lambda app: app.step(timeout="soon")(_plain), "timeout='soon': cannot read 'soon' as a duration"),
        (lambda app: app.step(timeout=0)(_plain), "timeout=0: it must be longer than nothing"),
        (lambda app: app.step(retry=3)(_plain), "retry is a RetryPolicy, not 3"),
        (lambda app: app.step(at_most_once=True, max_retries=2)(_plain), "an at_most_once step is never retried"),
        (lambda app: app.step(name="")(_plain), "the name of a step has 1 to 200 printable characters"),
        (lambda app: app.step(name="a\nb")(_plain), "the name of a step has 1 to 200 printable characters"),
        (lambda app: app.step(name="x" * 201)(_plain), "the name of a step has 1 to 200 printable characters"),
    ],
)
def test_wrong_declarations(app, declare, message):
    with pytest.raises(RegistrationError, match=message):
        declare(app)
    assert not app.workflows


def test_two_of_one_name(app):
    app.step(name="pay")(_plain)
    with pytest.raises(
        RegistrationError, match=r"two steps are called 'pay': .*_plain .* Give one of them another name"
    ):
        app.step(name="pay")(_plain)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"factor": 0.5}, "factor must be 1 or more"),
        ({"jitter": "some"}, "jitter must be 'full' or 'none'"),
        ({"first_delay": -1}, "a duration cannot be negative"),
        ({"cap": "eternity"}, "cannot read 'eternity' as a duration"),
    ],
)
def test_wrong_retry_policies(options, error):
    with pytest.raises(ValueError, match=error):
        RetryPolicy(**options)


def test_retry_on_takes_exception_classes():
    with pytest.raises(TypeError, match="retry_on must be a tuple of exception classes"):
        RetryPolicy(retry_on=[ValueError])


def test_the_build_is_stable_and_tells_modules_apart(app):
    app.step(_plain)
    other = Workflows()
    other.step(_plain)
    assert app.build == other.build
    assert len(app.build) == 12
    exec_scope = {"__name__": "nowhere"}
    exec("def made(): return 1", exec_scope)
    other.step(exec_scope["made"])
    assert app.build != other.build
