"""All of asyncio that does no I/O works in a body, and replays. Every turn here is verified from scratch."""

from __future__ import annotations

import asyncio
import gc
from contextvars import ContextVar

import pytest

from everstep import WorkflowRunFailedError, as_completed, sleep
from everstep.core.history import RunStep
from everstep.testing import replay


@pytest.fixture
def echo(app):
    @app.step(name="echo", max_retries=0)
    async def echo(value):
        if isinstance(value, str) and value.startswith("fail"):
            raise ValueError(value)
        return value

    return echo


def check(app, env, body, *args):
    """Run, replay the whole history, and return the result."""
    run = env.start(body, *args)
    result = run.wait()
    assert replay(app, env.history(run)) == result
    assert env.connection.backend.source.next_due() is None  # no message is left behind
    return result


def test_gather(app, env, echo):
    @app.workflow
    async def body():
        first = await asyncio.gather(*(echo(number) for number in range(5)))
        second = await asyncio.gather(echo("a"), echo("fail b"), return_exceptions=True)
        return first, [str(item) for item in second]

    assert check(app, env, body) == ([0, 1, 2, 3, 4], ["a", "fail b"])


def test_task_group(app, env, echo):
    @app.workflow
    async def body():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(echo(number)) for number in range(3)]
        log = [task.result() for task in tasks]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(sleep(1000))
                group.create_task(echo("fail"))
        except* ValueError as errors:
            log.append(str(errors.exceptions[0]))
        return log

    assert check(app, env, body) == [0, 1, 2, "fail"]


def test_wait(app, env, echo):
    @app.workflow
    async def body():
        tasks = {asyncio.create_task(echo(1)), asyncio.create_task(sleep(100)), asyncio.create_task(sleep(200))}
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        counts = [len(done), len(pending)]
        done, pending = await asyncio.wait(pending, timeout=150)
        counts += [len(done), len(pending)]
        done, pending = await asyncio.wait(pending)
        return [*counts, len(done), len(pending)]

    assert check(app, env, body) == [1, 2, 1, 1, 1, 0]


def test_as_completed(app, env, echo):
    @app.workflow
    async def body():
        async def later(seconds):
            await sleep(seconds)
            return await echo(seconds)

        return [await next_one for next_one in as_completed([later(30), later(10), later(20)])]

    assert check(app, env, body) == [10, 20, 30]


def test_wait_for_and_timeout(app, env, echo):
    @app.workflow
    async def body():
        log = [await asyncio.wait_for(echo("in time"), 10)]
        try:
            await asyncio.wait_for(sleep(100), 10)
        except TimeoutError:
            log.append("late")
        async with asyncio.timeout(None) as deadline:
            deadline.reschedule(asyncio.get_running_loop().time() + 5)
            log.append(await echo("rescheduled"))
        return log

    assert check(app, env, body) == ["in time", "late", "rescheduled"]


def test_semaphore_lock_event_condition_queue(app, env, echo):
    @app.workflow
    async def body():
        gate, lock, go, queue = asyncio.Semaphore(2), asyncio.Lock(), asyncio.Event(), asyncio.Queue(1)
        condition = asyncio.Condition()
        running = most = 0
        log = []

        async def worker(number):
            nonlocal running, most
            async with gate:
                running += 1
                most = max(most, running)
                await echo(number)
                running -= 1
            async with lock:
                log.append(await echo(f"locked {number}"))

        async def producer():
            await go.wait()
            for number in range(3):
                await queue.put(await echo(number))
            await queue.put(None)

        async def consumer():
            got = []
            while (item := await queue.get()) is not None:
                got.append(item)
            async with condition:
                condition.notify_all()
            return got

        async def waiter():
            async with condition:
                await condition.wait()
            return "notified"

        async with asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(worker(number))
        tasks = [asyncio.create_task(each) for each in (waiter(), consumer(), producer())]
        await sleep(1)
        go.set()
        results = await asyncio.gather(*tasks)
        return most, sorted(log), results[:2]

    assert check(app, env, body) == (2, [f"locked {n}" for n in range(5)], ["notified", [0, 1, 2]])


def test_cancelling_a_task(app, env, echo):
    @app.workflow
    async def body():
        log = []

        async def patient():
            try:
                await sleep(1000)
            except asyncio.CancelledError:
                log.append(await echo("clean-up"))
                raise

        task = asyncio.create_task(patient())
        await echo("meanwhile")
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            log.append("cancelled")
        return log

    assert check(app, env, body) == ["clean-up", "cancelled"]


def test_shield_lets_the_step_go_on(app, env, echo):
    @app.workflow
    async def body():
        inner = asyncio.ensure_future(echo("kept"))
        try:
            async with asyncio.timeout(0):
                await asyncio.shield(inner)
        except TimeoutError:
            return await inner

    assert check(app, env, body) == "kept"


def test_a_call_that_is_cancelled_before_the_turn_ends_is_never_sent(app, env, echo):
    @app.workflow
    async def body():
        task = asyncio.create_task(echo("never"))
        await asyncio.sleep(0)
        task.cancel()
        return await echo("sent")

    run = env.start(body)
    assert run.wait() == "sent"
    asked = [each.input for turn in env.history(run).turns for each in turn.commands if isinstance(each, RunStep)]
    assert asked == [b'{"value":"sent"}']


def test_tasks_that_are_left_over_are_cancelled_and_waited_for(app, env, echo):
    """As asyncio.run does when its coroutine has ended."""
    log = []

    @app.workflow
    async def body():
        async def background():
            try:
                await sleep(10_000)
            finally:
                await echo("put away")
                log.append("put away")

        asyncio.create_task(background())
        await echo("main")
        return "done"

    run = env.start(body)
    assert run.wait() == "done"
    assert "put away" in log
    assert env.clock.now() - 1_750_000_000_000_000 < 10_000_000_000


def test_async_generators_and_context_variables(app, env, echo):
    variable: ContextVar[str] = ContextVar("variable", default="unset")

    @app.workflow
    async def body():
        async def numbers():
            try:
                for number in range(10):
                    yield await echo(number)
            finally:
                await echo("closed")

        seen = []
        async for number in numbers():
            seen.append(number)
            if number == 2:
                break
        variable.set("in the body")

        async def child():
            return variable.get()

        return seen, await asyncio.create_task(child())

    assert check(app, env, body) == ([0, 1, 2], "in the body")
    assert variable.get() == "unset"


def test_a_step_call_is_awaited_once(app, env, echo):
    @app.workflow
    async def body():
        call = echo(1)
        await call
        await call

    with pytest.raises(WorkflowRunFailedError, match="cannot reuse"):
        env.run(body)


def test_a_step_call_that_is_never_awaited_warns(app, environment, echo):
    @app.workflow
    async def body():
        echo(1)

    env = environment(app, verify=False)
    with pytest.warns(RuntimeWarning, match="step 'echo' was called but never awaited, so it did not run"):
        env.run(body)


def test_sets_of_calls_tasks_and_futures_have_an_order_of_their_own(app, env, echo):
    @app.workflow
    async def body():
        calls = {echo(number) for number in range(50)}
        tasks = {asyncio.ensure_future(call) for call in calls}
        futures = {asyncio.get_running_loop().create_future() for _ in range(50)}
        for future in futures:
            future.set_result(None)
        return [await task for task in tasks], len(futures)

    check(app, env, body)


def test_a_set_of_gathers_has_an_order_of_its_own(app, env, echo):
    """`asyncio.gather` makes its future without asking the loop, and `asyncio.wait` puts it into a set."""

    @app.workflow
    async def body():
        done, _ = await asyncio.wait([asyncio.gather(echo(number), echo(0)) for number in range(20)])
        return [await echo(gathered.result()[0]) for gathered in done]

    check(app, env, body)


def test_a_set_of_gathers_outside_of_a_body_is_as_ever():
    async def main():
        gathered = [asyncio.gather(asyncio.sleep(0, number)) for number in range(20)]
        done, _ = await asyncio.wait(gathered)
        return done == set(gathered), len({hash(each) for each in gathered})

    assert asyncio.run(main()) == (True, 20)


def test_the_garbage_collector_does_not_close_generators_at_moments_of_its_own(app, environment, echo):
    @app.workflow
    async def body():
        async def numbers():
            try:
                yield 1
            finally:
                await echo("closed")

        for number in range(5):
            generator = numbers()
            await anext(generator)
            cycle = [generator]
            cycle.append(cycle)
            del generator, cycle
            await echo([[] for _ in range(number)])

    before = gc.get_threshold()
    env = environment(app, verify=False)
    try:
        gc.set_threshold(1, 1, 1)
        run = env.start(body)
        run.wait()
    finally:
        gc.set_threshold(*before)
    assert gc.isenabled()
    gc.disable()
    try:
        replay(app, env.history(run))
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_generator_that_is_dropped_is_closed_in_the_same_turn(app, env, echo):
    @app.workflow
    async def body():
        log = []

        async def numbers():
            try:
                yield 1
                yield 2
            finally:
                log.append(await echo("closed"))

        async for _ in numbers():
            break
        asyncio.get_running_loop().call_later(5, numbers_of(numbers).clear)
        await sleep(10)
        return log

    def numbers_of(numbers):
        generator = numbers()
        with pytest.raises(StopIteration):
            generator.__anext__().send(None)
        return [generator]

    assert check(app, env, body) == ["closed", "closed"]


def test_nested_functions_and_recursion(app, env, echo):
    @app.workflow
    async def body(depth: int):
        async def fib(number: int) -> int:
            if number < 2:
                return await echo(number)
            left, right = await asyncio.gather(fib(number - 1), fib(number - 2))
            return left + right

        return await fib(depth)

    assert check(app, env, body, 7) == 13


def test_hundreds_in_parallel_and_thousands_in_sequence(app, environment, echo):
    @app.workflow
    async def wide(count: int):
        return sum(await asyncio.gather(*(echo(number) for number in range(count))))

    @app.workflow
    async def long(count: int):
        total = 0
        for number in range(count):
            total += await echo(number)
        return total

    env = environment(app, verify=False)
    assert env.run(wide, 500) == sum(range(500))
    run = env.start(long, 3000)
    assert run.wait() == sum(range(3000))
    assert len(env.history(run).turns) == 3001
