"""Starting runs, finding them again, and waiting for what they return."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from everstep import (
    AttributeValidationError,
    ContextError,
    IdempotencyConflictError,
    RunStatus,
    TypeValidationError,
    WorkflowRunFailedError,
    WorkflowRunNotFoundError,
    continue_as_new,
    get_run,
    get_step_metadata,
    get_workflow_metadata,
    now,
    run,
    sleep,
    start,
    start_sync,
)
from everstep.assembly import connect_sqlite, use_connection
from everstep.testing import replay


@pytest.fixture
def double(app):
    @app.step(name="double")
    async def double_step(number: int) -> int:
        return number * 2

    @app.workflow(name="double")
    async def double(number: int) -> int:
        return await double_step(number)

    return double


def test_the_life_of_a_run_from_outside(env, double):
    async def program():
        handle = await start(double, 4)
        assert await handle.exists()
        assert await handle.status() is RunStatus.PENDING
        assert await handle.status() == "pending"
        assert await handle.started_at() is None
        assert await handle.return_value() == 8
        assert await handle.return_value() == 8
        again = get_run(handle.run_id)
        assert await again.status() == "completed"
        assert await again.return_value() == 8
        assert await again.workflow_name() == "double"
        created, started, completed = (
            await again.created_at(),
            await again.started_at(),
            await again.completed_at(),
        )
        assert created <= started <= completed
        assert created.tzinfo is UTC
        assert await again.attributes() == {}

    with env:
        asyncio.run(program())


def test_many_wait_at_once(env, double):
    async def program():
        handles = await asyncio.gather(*(start(double, number) for number in range(30)))
        return await asyncio.gather(*(handle.return_value() for handle in handles))

    with env:
        assert asyncio.run(program()) == [2 * number for number in range(30)]


def test_a_run_that_does_not_exist(env):
    async def program():
        handle = get_run("wrun_01ARZ3NDEKTSV4RRFFQ69G5FAV")
        assert not await handle.exists()
        for ask in (handle.status, handle.return_value, handle.attributes, handle.created_at):
            with pytest.raises(WorkflowRunNotFoundError, match="there is no workflow run 'wrun_01ARZ3"):
                await ask()

    with env:
        asyncio.run(program())
        with pytest.raises(WorkflowRunNotFoundError):
            get_run("nonsense")


def test_get_run_with_a_type(env, double):
    with env:
        handle = start_sync(double, 2)
        handle.wait()
        assert get_run(handle.run_id, type=int).wait() == 4
        with pytest.raises(TypeValidationError, match=f"the result of run {handle.run_id}"):
            get_run(handle.run_id, type=list[int]).wait()


def test_the_same_key_gives_the_same_run(env, double, app):
    @app.workflow(name="other")
    async def other(number: int) -> int:
        return number

    keyed = double.with_options(idempotency_key="order-1")
    with env:
        handle = start_sync(keyed, 3)
        assert start_sync(keyed, number=3).run_id == handle.run_id
        assert handle.wait() == 6
        assert start_sync(keyed, 3).run_id == handle.run_id
        with pytest.raises(IdempotencyConflictError, match="'order-1' already belongs to run .* another input"):
            start_sync(keyed, 4)
        with pytest.raises(IdempotencyConflictError, match="another workflow"):
            start_sync(other.with_options(idempotency_key="order-1"), 3)
        assert start_sync(double.with_options(idempotency_key="order-2"), 3).run_id != handle.run_id


def test_the_same_input_in_another_order_is_the_same(app, env):
    @app.workflow
    async def body(order):
        return order

    keyed = body.with_options(idempotency_key="order-1")
    with env:
        handle = start_sync(keyed, {"id": 1, "lines": [{"a": 1, "b": (2,)}]})
        assert start_sync(keyed, {"lines": [{"b": (2,), "a": 1}], "id": 1}).run_id == handle.run_id
        for other in ({"id": 1, "lines": [{"a": 1, "b": [2]}]}, {"id": True, "lines": [{"a": 1, "b": (2,)}]}):
            with pytest.raises(IdempotencyConflictError, match="another input"):
                start_sync(keyed, other)


@pytest.mark.parametrize("key", ["", "x" * 257])
def test_keys_have_a_length(double, key):
    with pytest.raises(ValueError, match="an idempotency key has 1 to 256 characters"):
        double.with_options(idempotency_key=key)


def test_a_key_is_text_that_can_be_written(double):
    with pytest.raises(ValueError, match="is not valid Unicode"):
        double.with_options(idempotency_key="order-\ud800")


def test_options_that_are_not_given_stay_as_they_are(env, double):
    keyed = double.with_options(idempotency_key="order-1", attributes={"a": "1"}, start_at="1h")
    labelled = keyed.with_options(attributes={"b": "2"})
    assert (labelled.options.idempotency_key, labelled.options.start_at) == ("order-1", "1h")
    assert labelled.options.attributes == {"b": "2"}
    assert labelled.with_options(idempotency_key="order-2").options.attributes == {"b": "2"}
    assert (keyed.options.attributes, double.options.idempotency_key) == ({"a": "1"}, None)
    with env:
        assert start_sync(labelled, 1).run_id == start_sync(keyed, 1).run_id


def test_options_do_not_collide_with_arguments(app, env):
    @app.workflow
    async def body(attributes, start_at, idempotency_key):
        return attributes, start_at, idempotency_key

    assert env.run(body.with_options(attributes={"a": "b"}), attributes=1, start_at=2, idempotency_key=3) == (1, 2, 3)


def test_attributes(env, double):
    with env:
        handle = start_sync(double.with_options(attributes={"customer": "ada", "zone": "ö"}), 1)
        assert asyncio.run(handle.attributes()) == {"customer": "ada", "zone": "ö"}


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"$ours": "x"}, r"'\$ours' begins with '\$', which is reserved"),
        ({"": "x"}, "0 characters; allowed are 1 to 256"),
        ({"k" * 257: "x"}, "257 characters"),
        ({"k": "ö" * 129}, "longer than 256 bytes"),
        ({"k": 3}, "key and value are text; got 3"),
        ({"k": "\udcff"}, "is not valid Unicode"),
        ({"\udcff": "v"}, "is not valid Unicode"),
        ({str(number): "x" for number in range(65)}, "at most 64 attributes, not 65"),
        ("text", "a mapping of text to text, not str"),
    ],
)
def test_attributes_have_limits(double, attributes, message):
    with pytest.raises(AttributeValidationError, match=message):
        double.with_options(attributes=attributes)


@pytest.mark.parametrize("when", ["2h", timedelta(hours=2), 7200])
def test_starting_later(app, env, when):
    @app.workflow
    async def body() -> datetime:
        return now()

    begin = env.clock.now()
    with env:
        handle = start_sync(body.with_options(start_at=when))
        assert asyncio.run(handle.status()) == "pending"
        started = handle.wait()
    assert round(started.timestamp() * 1e6) == begin + 7_200_000_000


def test_continue_as_new_goes_on_without_a_history(app, env):
    @app.step
    async def work(number: int) -> int:
        return number + 1

    @app.workflow(name="loop")
    async def loop(number: int = 0, *, until: int) -> str:
        for _ in range(3):
            number = await work(number)
        if number < until:
            continue_as_new(number, until=until)
        return f"reached {number}"

    with env:
        handle = start_sync(loop.with_options(attributes={"kind": "endless"}), until=8)
        assert handle.wait() == "reached 9"
        assert asyncio.run(handle.status()) == "completed"
        assert asyncio.run(handle.attributes()) == {"kind": "endless"}
        chain = [handle.run_id]
        while (record := env.connection.backend.inspector.get_run(chain[-1])).continued_to:
            assert record.status is RunStatus.CONTINUED
            chain.append(record.continued_to)
        assert len(chain) == 3
        assert {env.connection.backend.inspector.get_run(each).root_id for each in chain} == {handle.run_id}
        assert [len(env.history(each).turns) for each in chain] == [4, 4, 4]
        assert replay(app, env.history(chain[0])) is None


def test_continue_as_new_with_a_bad_call_fails_the_run(app, env):
    @app.workflow(name="loop")
    async def loop(number: int) -> int:
        continue_as_new("many")

    with pytest.raises(WorkflowRunFailedError, match="workflow 'loop'"):
        env.run(loop, 1)


def test_metadata(app, env):
    @app.step(name="look")
    async def look():
        return get_step_metadata(), get_workflow_metadata()

    seen = []

    @app.step(name="keep")
    async def keep():
        seen.append((get_step_metadata(), get_workflow_metadata()))

    @app.workflow(name="body")
    async def body():
        info = get_workflow_metadata()
        await keep()
        await keep()
        return info.run_id, info.workflow_name, info.started_at

    handle = env.start(body)
    run_id, name, started_at = handle.wait()
    assert (run_id, name) == (handle.run_id, "body")
    assert started_at == asyncio.run(handle.started_at())
    (step, workflow), (second, _) = seen
    assert (step.run_id, step.step_name, step.attempt) == (run_id, "keep", 1)
    assert step.step_id != second.step_id
    assert step.step_started_at == started_at
    assert (workflow.run_id, workflow.workflow_name, workflow.started_at) == (run_id, "body", None)


def test_metadata_in_the_wrong_place(app, env):
    with pytest.raises(ContextError, match=r"get_step_metadata\(\) belongs in a step"):
        get_step_metadata()
    with pytest.raises(ContextError, match="belongs in a workflow body or in a step"):
        get_workflow_metadata()

    @app.workflow
    async def body():
        get_step_metadata()

    with pytest.raises(WorkflowRunFailedError, match="belongs in a step; a workflow body has get_workflow_metadata"):
        env.run(body)


def test_a_body_does_not_read_runs(app, env, double):
    @app.workflow
    async def body(what: str):
        if what == "start":
            start_sync(double, 1)
        else:
            await get_run("wrun_01ARZ3NDEKTSV4RRFFQ69G5FAV").return_value()

    with env:
        for what in ("start", "read"):
            with pytest.raises(WorkflowRunFailedError, match="in a body, move it into a step"):
                start_sync(body, what).wait()


def test_a_step_may_start_and_wait_for_runs(app, env, double):
    @app.step
    async def spawn(number: int) -> str:
        return (await start(double, number)).run_id

    @app.workflow
    async def body() -> list[str]:
        return [await spawn(number) for number in range(3)]

    with env:
        ids = start_sync(body).wait()
        assert [get_run(run_id).wait() for run_id in ids] == [0, 2, 4]


def test_start_takes_workflows_only(app):
    @app.step
    async def step():
        return 1

    for wrong in (step, lambda: None, "name"):
        with pytest.raises(TypeError, match=r"start\(\) takes a workflow declared with @wf.workflow, not"):
            start_sync(wrong)


def test_what_blocks_is_refused_where_a_loop_is_running(env, double):
    async def program():
        handle = await start(double, 1)
        with pytest.raises(ContextError, match="use 'await run.return_value\\(\\)'"):
            handle.wait()
        with pytest.raises(ContextError, match="run\\(\\) blocks, and an event loop is running here"):
            run(double, 1)

    with env:
        asyncio.run(program())


def test_run_works_by_itself_on_a_file(tmp_path, app, double):
    @app.workflow(name="slow")
    async def slow():
        await sleep(0.05)
        raise KeyError("gone")

    connection = connect_sqlite(tmp_path / "runs.db")
    with use_connection(connection):
        assert run(double, 21) == 42
        with pytest.raises(WorkflowRunFailedError, match="KeyError: 'gone'") as caught:
            run(slow)
        assert isinstance(caught.value.__cause__, KeyError)
    connection.close()
