"""What a replay cannot repeat is noticed, and parks the run instead of failing it."""

from __future__ import annotations

import asyncio
import importlib
import logging.handlers
import os
import random as chance
import socket
import subprocess
import sys
import threading
import time
import warnings
from datetime import timedelta
from importlib.metadata import distributions
from zoneinfo import ZoneInfo

import pytest

from everstep import (
    DeterminismWarning,
    DivergenceError,
    RunStatus,
    WorkflowNotRegisteredError,
    WorkflowRunParkedError,
    Workflows,
    now,
    sleep,
)
from everstep.assembly import connect_sqlite, use_connection
from everstep.runtime.advance import advance
from everstep.runtime.decision import Arrival
from everstep.testing import History, replay


@pytest.fixture
def step(app):
    @app.step(name="step")
    async def step(value=None):
        return value

    return step


def parked(env, workflow, *args):
    run = env.start(workflow, *args)
    with pytest.raises(WorkflowRunParkedError) as caught:
        run.wait()
    record = env.connection.get(run.run_id)
    assert record.shown_status is RunStatus.PARKED
    assert record.problem is not None
    assert record.problem.build == env.app.build
    return record.problem.code, str(caught.value)


def declare(app, function):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeterminismWarning)
        return app.workflow(name="body")(function)


def reads_a_file():
    with open("/etc/hostname") as file:
        return file.read()


def reads_a_file_and_hides_it():
    try:
        open("/etc/hostname").close()
    except Exception:
        return


@pytest.mark.parametrize(
    ("action", "named"),
    [
        (reads_a_file, "open('/etc/hostname')"),
        (reads_a_file_and_hides_it, "open('/etc/hostname')"),
        (lambda: socket.gethostbyname("localhost"), "socket.gethostbyname"),
        (lambda: os.listdir("/"), "os.listdir('/')"),  # noqa: PTH208
        (lambda: list(os.scandir("/")), "os.scandir('/')"),
        (lambda: input("name?"), "input('name?')"),
        pytest.param(
            lambda: threading.Thread(target=print).start(),
            "threading.Thread.start()",
            marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="no audit event"),
        ),
        (lambda: subprocess.Popen([sys.executable]), "subprocess.Popen"),
        (lambda: asyncio.get_running_loop().run_in_executor(None, print), "loop.run_in_executor()"),
        (lambda: asyncio.get_running_loop().add_signal_handler(1, print), "loop.add_signal_handler()"),
        (lambda: asyncio.get_running_loop().run_until_complete(asyncio.Future()), "loop.run_until_complete()"),
        (lambda: asyncio.get_running_loop().call_soon_threadsafe(print), "loop.call_soon_threadsafe()"),
        (
            lambda: asyncio.get_running_loop().set_task_factory(lambda loop, coro, **_: asyncio.Task(coro, loop=loop)),
            "loop.set_task_factory()",
        ),
    ],
)
def test_io_in_a_body_parks_the_run_and_names_the_call_and_the_place(app, env, step, action, named):
    async def body():
        await step()
        action()
        return await step()

    code, message = parked(env, declare(app, body))
    assert code == "io"
    assert f"{named}" in message
    assert "was called in a workflow body at " in message
    assert "test_determinism.py:" in message


def test_io_by_awaiting_parks_the_run(app, env):
    async def body():
        await asyncio.to_thread(print, "from a thread")

    code, message = parked(env, declare(app, body))
    assert (code, "loop.run_in_executor()" in message, "move it into a step" in message) == ("io", True, True)


def test_imports_and_tracebacks_are_no_io(app, env):
    @app.workflow
    async def body():
        import traceback
        import wave  # something nobody has imported yet

        try:
            raise ValueError("x")
        except ValueError:
            return "ValueError" in traceback.format_exc(), wave.__name__

    assert env.run(body) == (True, "wave")


def test_time_zones_are_no_io(app, env):
    ZoneInfo.clear_cache()

    @app.workflow
    async def body():
        return now().astimezone(ZoneInfo("Europe/Berlin")).utcoffset()

    assert env.run(body) == timedelta(hours=2)


def test_logging_is_no_io(app, env, tmp_path):
    """A log file is opened at the first line and when it is rotated, which may well be in a body."""
    handler = logging.handlers.RotatingFileHandler(tmp_path / "log", maxBytes=20, backupCount=1, delay=True)
    logger = logging.getLogger("everstep-test-of-logging")
    logger.addHandler(handler)

    @app.workflow
    async def body():
        for _ in range(3):
            logger.warning("a line of the log")

    try:
        env.run(body)
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert (tmp_path / "log.1").read_text() == "a line of the log\n"


def test_asking_what_is_installed_is_no_io(app, env):
    """Pydantic does when it builds its first model."""

    @app.workflow
    async def body():
        return sorted(each.metadata["Name"] for each in distributions() if each.metadata["Name"] == "everstep")

    assert env.run(body) == ["everstep"]


def test_the_debugger_may_read_its_settings(app, env, monkeypatch, tmp_path):
    (tmp_path / ".pdbrc").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path))

    @app.workflow
    async def body():
        importlib.import_module("pdb").Pdb()

    env.run(body)


def test_io_is_found_in_a_program_that_runs_while_it_is_imported(tmp_path, monkeypatch):
    (tmp_path / "runs_at_import.py").write_text(
        "from everstep import Workflows, run\n"
        "app = Workflows()\n"
        "@app.workflow\n"
        "async def body():\n"
        "    return open('/etc/hostname').read()\n"
        "run(body)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    connection = connect_sqlite(tmp_path / "runs.db")
    try:
        with use_connection(connection), pytest.warns(DeterminismWarning), pytest.raises(WorkflowRunParkedError):
            importlib.import_module("runs_at_import")
    finally:
        connection.close()


def test_a_body_that_spins_is_parked(app, env, monkeypatch):
    monkeypatch.setattr("everstep.core.loop.SPIN_LIMIT", 1000)

    async def body():
        while True:
            await asyncio.sleep(0)

    code, message = parked(env, declare(app, body))
    assert code == "determinism"
    assert "callbacks in one turn without waiting" in message


def test_verify_finds_a_body_that_differs_before_anything_is_recorded(app, env, step):
    flips = iter([True, False])

    @app.workflow
    async def body():
        return await step("one" if next(flips) else "other")

    code, message = parked(env, body)
    assert code == "divergence"
    assert 'asked for step \'step\' (operation 0, input {"value":"other"})' in message
    assert 'where the history has step \'step\' (operation 0, input {"value":"one"})' in message


def first(version):
    """One workflow in the versions of several deploys."""
    app = Workflows()

    @app.step(name="step")
    async def step(value=None):
        return value

    @app.step(name="other")
    async def other(value=None):
        return value

    async def asks_for_two():
        await step(1)
        await sleep("1 day")
        return await step(2)

    async def asks_for_another():
        await step(1)
        await sleep("1 day")
        await other(2)
        return "another"

    async def renamed():
        await other(1)
        await sleep("1 day")
        return await step(2)

    async def other_input():
        await step(11)
        await sleep("1 day")

    async def stops_short():
        await step(1)
        return "short"

    async def asks_for_more():
        await asyncio.gather(step(1), step(5))
        await sleep("1 day")

    async def other_duration():
        await step(1)
        await sleep("2 days")

    async def same_meaning():
        await step(value=1)
        await sleep("24h")
        return await step(2)

    app.workflow(name="body")(locals()[version])
    app._build = version
    return app


@pytest.mark.parametrize(
    ("version", "difference"),
    [
        ("renamed", "asked for step 'other' (operation 0, input {\"value\":1}), where the history has step 'step'"),
        ("other_input", 'input {"value":11}), where the history has step \'step\' (operation 0, input {"value":1})'),
        ("stops_short", 'asked for the workflow\'s return of "short", where the history has a timer until'),
        ("asks_for_more", "asked for step 'step' (operation 1, input {\"value\":5}), which is not in the history"),
        ("other_duration", "asked for a timer until"),
    ],
)
def test_a_deploy_that_does_not_fit_parks_the_run_and_the_next_one_frees_it(environment, version, difference):
    old = environment(first("asks_for_two"))
    run = old.start(old.app.workflows["body"])
    while not any(type(each).__name__ == "StartTimer" for turn in old.history(run).turns for each in turn.commands):
        old.step()

    wrong = environment(first(version), backend=old.connection.backend, clock=old.clock)
    wrong.run_until_idle()
    record = old.connection.get(run.run_id)
    assert record.shown_status is RunStatus.PARKED
    assert record.problem.code == "divergence"
    assert difference in record.problem.message
    assert "recorded by build asks_for_two" in record.problem.message

    fixed = environment(first("asks_for_two"), backend=old.connection.backend, clock=old.clock)
    fixed.connection.resume(run.run_id)
    assert asyncio.run(run.return_value()) == 2
    assert old.connection.get(run.run_id).problem is None


@pytest.mark.parametrize("version", ["asks_for_another", "same_meaning"])
def test_a_deploy_that_fits_what_is_recorded_goes_on(environment, version):
    old = environment(first("asks_for_two"))
    run = old.start(old.app.workflows["body"])
    for _ in range(2):
        old.step()
    new = environment(first(version), backend=old.connection.backend, clock=old.clock)
    new.run_until_idle()
    assert old.connection.get(run.run_id).status is RunStatus.COMPLETED


def test_a_missing_workflow_or_step_parks_the_run(environment):
    old = environment(first("asks_for_two"))
    run = old.start(old.app.workflows["body"])
    empty = environment(Workflows(), backend=old.connection.backend, clock=old.clock)
    empty.run_until_idle()
    record = old.connection.get(run.run_id)
    assert record.problem.code == "workflow-missing"
    assert "workflow 'body' is not registered with this app: import the module" in record.problem.message

    old.connection.resume(run.run_id)
    old.step()
    stepless = first("asks_for_two")
    del stepless.steps["step"]
    stepless._build = "stepless"
    environment(stepless, backend=old.connection.backend, clock=old.clock).run_until_idle()
    record = old.connection.get(run.run_id)
    assert record.problem.code == "step-missing"
    assert "step 'step' is not registered" in record.problem.message

    old.connection.resume(run.run_id)
    assert run.wait() == 2


def test_what_arrives_for_a_parked_run_is_kept(environment):
    old = environment(first("asks_for_more"))
    run = old.start(old.app.workflows["body"])
    old.step()  # both steps are asked for
    wrong = environment(first("asks_for_two"), backend=old.connection.backend, clock=old.clock)
    wrong.run_until_idle()
    snapshot = old.connection.backend.runs.load(run.run_id)
    assert snapshot.run.shown_status is RunStatus.PARKED
    assert [entry.key for entry in snapshot.inbox] == ["step/0", "step/1"]
    wrong.connection.resume(run.run_id)
    wrong.run_until_idle()
    assert old.connection.get(run.run_id).shown_status is RunStatus.PARKED

    fixed = environment(first("asks_for_more"), backend=old.connection.backend, clock=old.clock)
    fixed.connection.resume(run.run_id)
    fixed.run_until_idle()
    assert old.connection.get(run.run_id).status is RunStatus.COMPLETED
    assert not old.connection.backend.runs.load(run.run_id).inbox


def test_an_input_that_no_longer_fits_parks_the_run(environment):
    def version(annotation, build):
        app = Workflows()

        async def body(value):
            await sleep(5)
            return value

        body.__annotations__["value"] = annotation
        app.workflow(name="body")(body)
        app._build = build
        return app

    old = environment(version(str, "text"))
    run = old.start(old.app.workflows["body"], "not a number")
    new = environment(version(int, "number"), backend=old.connection.backend, clock=old.clock)
    new.run_until_idle()
    record = old.connection.get(run.run_id)
    assert record.problem.code == "unreadable"
    assert "workflow 'body'" in record.problem.message


def test_replay_of_a_history_says_where_it_differs(environment, tmp_path):
    old = environment(first("asks_for_two"))
    run = old.start(old.app.workflows["body"])
    run.wait()
    old.history(run).save(tmp_path / "history.json")
    history = History.load(tmp_path / "history.json")
    assert history == old.history(run)
    assert replay(first("asks_for_two"), history) == 2
    assert replay(first("same_meaning"), history) == 2
    with pytest.raises(DivergenceError, match=r"replaying turn 0 \(recorded by build asks_for_two\), the workflow"):
        replay(first("renamed"), history)
    with pytest.raises(WorkflowNotRegisteredError):
        replay(Workflows(), history)


def test_the_lint_warns_at_declaration(app):
    async def body():
        time.time()
        chance.random()
        asyncio.as_completed([])

        async def nested():
            return [chance.choice("ab") for _ in range(3)]

        await nested()

    with pytest.warns(DeterminismWarning) as caught:
        app.workflow(name="body")(body)
    texts = [str(warning.message) for warning in caught]
    assert [text.partition(" uses ")[2].partition(",")[0] for text in texts] == [
        "time.time",
        "random.random",
        "asyncio.as_completed",
        "random.choice",
    ]
    assert "use everstep.now().timestamp()" in texts[0]
    assert caught[0].filename == __file__
    assert caught[0].lineno == body.__code__.co_firstlineno + 1


def test_the_lint_is_silent_where_there_is_nothing_to_say(app):
    @app.workflow
    async def body(items: list):
        loop = asyncio.get_running_loop()
        items.sort()
        async with asyncio.timeout(5):
            await asyncio.gather(asyncio.sleep(1), loop.create_future())
        return time.strftime, chance.Random(3).random()


def test_a_cold_instance_goes_on_like_a_warm_one(app, environment, step):
    @app.workflow
    async def body():
        values = [await step(1)]
        values += await asyncio.gather(step(2), step(3))
        await sleep(5)
        return [*values, await step(4)]

    env = environment(app)
    run = env.start(body)
    while env.step():
        env.engine.live.clear()
    assert asyncio.run(run.return_value()) == [1, 2, 3, 4]


def test_a_discarded_body_is_closed_quietly(app, env, step):
    closed = []

    @app.workflow
    async def body():
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(step(1))
                group.create_task(sleep(100))
        finally:
            closed.append(1)
            try:
                await step("clean-up")
            finally:
                await sleep(1)

    env.start(body)
    env.step()
    env.engine.live.clear()
    assert closed
    advance(env.engine, Arrival(run_id="wrun_00000000000000000000000000"))
