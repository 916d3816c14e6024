"""Hooks: a body waits for what others send, as long as it takes; each payload that was taken counts once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from pydantic import BaseModel

from everstep import (
    BaseHook,
    ConfigurationError,
    ContextError,
    HookConflictError,
    HookDisposedError,
    HookNotFoundError,
    RunStatus,
    SerializationError,
    TypeValidationError,
    WorkflowRunFailedError,
    WorkflowRunParkedError,
    as_completed,
    create_hook,
    get_hook_by_token,
    resume_hook,
    resume_hook_sync,
    sleep,
)
from everstep.backends.memory import open_memory
from everstep.core.history import (
    CloseHook,
    ConfirmHook,
    HookConflicted,
    HookOpened,
    HookReceived,
    OpenHook,
)
from everstep.runtime.handle import handle
from everstep.testing import WorkflowEnvironment, replay
from everstep.testing.watching import watched
from tests.model.conftest import do

DAY = 86_400


@dataclass
class Approval(BaseHook):
    approved: bool
    by: str = "nobody"


class Payment(BaseModel, BaseHook):
    amount: int


@pytest.fixture
def env(app, environment):
    with environment(app) as env:
        yield env


def commands(env, run, kind):
    return [command for turn in env.history(run).turns for command in turn.commands if isinstance(command, kind)]


def events(env, run, kind):
    return [event for turn in env.history(run).turns for event in turn.events if isinstance(event, kind)]


def holder(env, token):
    claim = env.connection.backend.hooks.find(token)
    return None if claim is None else claim.run_id


# --- waiting and sending -----------------------------------------------------------------------------


def test_a_payload_wakes_the_run(app, env):
    @app.workflow
    async def order(number: int) -> str:
        approval = await Approval.wait(token=f"order-{number}", metadata={"number": number})
        return f"{approval.approved} by {approval.by}"

    run = env.start(order, 17)
    info = env.wait_for_hook(run)
    assert (info.token, info.run_id, info.workflow_name) == ("order-17", run.run_id, order.name)
    assert (info.kind, info.webhook, info.metadata) == ("Approval", False, {"number": 17})
    assert do(get_hook_by_token("order-17")) == info
    assert do(run.status()) == "running"
    assert do(Approval(approved=True, by="ada").resume("order-17")) == info
    assert run.wait() == "True by ada"
    assert replay(app, env.history(run)) == "True by ada"


@pytest.mark.parametrize("form", ["object", "data", "info"])
def test_forms_of_sending(app, env, form):
    @app.workflow
    async def body() -> Approval:
        return await Approval.wait(token="t")

    run = env.start(body)
    info = env.wait_for_hook(run)
    match form:
        case "object":
            resume_hook_sync("t", Approval(approved=False))
        case "data":
            resume_hook_sync("t", {"approved": False})
        case "info":
            resume_hook_sync(info, {"approved": False})
    assert run.wait() == Approval(approved=False, by="nobody")


def test_a_pydantic_model_is_a_payload(app, env):
    @app.workflow
    async def body() -> int:
        return (await Payment.wait(token="t")).amount

    run = env.start(body)
    env.wait_for_hook(run)
    with pytest.raises(TypeValidationError, match="amount"):
        resume_hook_sync("t", {"amount": "many"})
    do(Payment(amount=3).resume("t"))
    assert run.wait() == 3


def test_a_hook_without_a_class(app, env):
    @app.workflow
    async def body() -> list[object]:
        anything = create_hook(token="any")
        number = create_hook(type=int, token="int")
        return [await anything, await number]

    run = env.start(body)
    env.wait_for_hook(run, token="int")
    resume_hook_sync("int", 4)
    resume_hook_sync("any", {"a": (1, None)})
    assert run.wait() == [{"a": (1, None)}, 4]


def test_what_does_not_fit_is_not_sent(app, env):
    @app.workflow
    async def body() -> bool:
        return (await Approval.wait(token="t")).approved

    run = env.start(body)
    env.wait_for_hook(run)
    with pytest.raises(TypeValidationError, match="approved"):
        resume_hook_sync("t", {"approved": "perhaps"})
    with pytest.raises(TypeValidationError, match="the hook takes a Approval, and got a Payment"):
        resume_hook_sync("t", Payment(amount=1))
    with pytest.raises(TypeValidationError, match="Approval"):
        resume_hook_sync("t", object())
    assert not env.connection.backend.runs.load(run.run_id).inbox
    resume_hook_sync("t", Approval(approved=True))
    assert run.wait() is True


def test_a_payload_that_nobody_could_check_is_checked_when_it_is_awaited(app, env):
    @app.workflow
    async def body() -> str:
        hook = create_hook(type=int, token="t")
        try:
            await hook
        except TypeValidationError:
            return f"then {await hook}"
        return "no error"

    run = env.start(body)
    env.wait_for_hook(run)
    resume_hook_sync("t", "three")
    resume_hook_sync("t", 3)
    assert run.wait() == "then 3"


def test_a_large_payload(app, env):
    @app.workflow
    async def body() -> int:
        return len(await create_hook(token="t"))

    run = env.start(body)
    env.wait_for_hook(run)
    resume_hook_sync("t", "x" * 3_000_000)
    assert run.wait() == 3_000_000


# --- order -------------------------------------------------------------------------------------------


def test_payloads_that_came_before_the_body_asked(app, env):
    @app.step
    async def work() -> str:
        for number in range(3):
            await resume_hook("t", number)
        return "worked"

    @app.workflow
    async def body() -> list[object]:
        hook = create_hook(token="t")
        return [await work(), await hook, await hook, await hook]

    assert env.run(body) == ["worked", 0, 1, 2]


def test_async_for_takes_them_in_order_until_the_hook_is_disposed(app, env):
    @app.step
    async def note(value: int) -> int:
        return value

    @app.workflow
    async def body() -> list[int]:
        seen = []
        hook = create_hook(token="t")
        async for value in hook:
            seen.append(await note(value))
            if value == 3:
                hook.dispose()
        return seen

    run = env.start(body)
    env.wait_for_hook(run)
    for value in range(6):  # 4 and 5 have come when the body disposes of the hook
        resume_hook_sync("t", value)
    assert run.wait() == [0, 1, 2, 3]
    assert holder(env, "t") is None


def test_async_with_disposes(app, env):
    @app.workflow
    async def body() -> list[str]:
        seen = []
        for _ in range(3):
            async with Approval.wait(token="again") as approval:
                seen.append((await approval).by)
        try:
            await approval
        except HookDisposedError as error:
            seen.append(error.token)
        return seen

    run = env.start(body)
    for by in ("ada", "bob", "cy"):
        env.wait_for_hook(run)
        resume_hook_sync("again", Approval(approved=True, by=by))
        env.run_until_idle()
    assert run.wait() == ["ada", "bob", "cy", "again"]
    assert [command.op for command in commands(env, run, OpenHook)] == [0, 1, 2]
    assert [command.op for command in commands(env, run, CloseHook)] == [0, 1, 2]


def test_many_wait_for_one_hook(app, env):
    @app.workflow
    async def body() -> list[str]:
        hook = create_hook(token="t")

        async def take(name: str) -> str:
            return f"{name}{await hook}"

        return list(await asyncio.gather(take("a"), take("b"), take("c")))

    run = env.start(body)
    env.wait_for_hook(run)
    for number in range(3):
        resume_hook_sync("t", number)
        if number:
            env.run_until_idle()
    assert run.wait() == ["a0", "b1", "c2"]


def test_one_waits_for_many_hooks(app, env):
    @app.workflow
    async def body() -> list[int]:
        hooks = {create_hook(token=f"t{number}") for number in range(5)}
        tasks = [asyncio.ensure_future(hook) for hook in hooks]
        return [await each for each in as_completed(tasks)]

    run = env.start(body)
    env.wait_for_hook(run)
    for number in (3, 0, 4, 1, 2):
        resume_hook_sync(f"t{number}", number)
        env.run_until_idle()
    assert run.wait() == [3, 0, 4, 1, 2]


def test_who_stops_waiting_takes_no_payload_along(app, env):
    @app.workflow
    async def body() -> list[object]:
        hook = create_hook(token="t")
        flag = create_hook(token="flag")
        first, second = asyncio.ensure_future(hook), asyncio.ensure_future(hook)
        await flag
        first.cancel()
        results = await asyncio.gather(first, second, return_exceptions=True)
        return [type(results[0]).__name__, results[1]]

    run = env.start(body)
    env.wait_for_hook(run, token="flag")
    resume_hook_sync("flag")
    resume_hook_sync("t", "payload")
    assert run.wait() == ["CancelledError", "payload"]


# --- deadlines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("answered", [True, False])
def test_a_deadline_around_a_hook(app, env, answered):
    @app.workflow
    async def body() -> str:
        async with Approval.wait(token="t") as approval:
            try:
                async with asyncio.timeout(DAY):
                    return (await approval).by
            except TimeoutError:
                return "too late"

    run = env.start(body)
    env.wait_for_hook(run)
    begin = env.clock.now()
    if answered:
        resume_hook_sync("t", Approval(approved=True, by="ada"))
    assert run.wait() == ("ada" if answered else "too late")
    assert env.clock.now() - begin == (0 if answered else DAY * 1_000_000)
    assert holder(env, "t") is None


def test_a_payload_that_came_before_the_deadline_counts(app, env):
    """It is in the inbox when the timer's message comes: nobody was there to take it."""

    @app.workflow
    async def body() -> str:
        try:
            return await asyncio.wait_for(create_hook(token="t"), DAY)
        except TimeoutError:
            return "too late"

    run = env.start(body)
    env.wait_for_hook(run)
    resume_hook_sync("t", "in time")
    [waiting] = env.connection.backend.runs.load(run.run_id).inbox
    assert waiting.event.payload == b'"in time"'
    env.clock.advance(2 * DAY * 1_000_000)
    assert run.wait() == "in time"


def test_waiting_again_after_a_deadline(app, env):
    @app.workflow
    async def body() -> list[str]:
        log: list[str] = []
        async with create_hook(token="t") as hook:
            while len(log) < 3:
                try:
                    log.append(await asyncio.wait_for(asyncio.ensure_future(hook), 60))
                except TimeoutError:
                    log.append("reminded")
                    if len(log) == 2:
                        await wait_for_sender()
        return log

    @app.step
    async def wait_for_sender() -> None:
        await resume_hook("t", "here")

    assert env.run(body) == ["reminded", "reminded", "here"]


# --- tokens ------------------------------------------------------------------------------------------


def test_tokens_by_default(app, environment):
    @app.workflow
    async def body() -> list[str]:
        hooks = [create_hook(), Approval.wait()]
        await hooks[0]
        return [hook.token for hook in hooks]

    tokens = []
    for seed in (1, 2):
        with environment(app, seed=seed) as env:
            run = env.start(body.with_options(idempotency_key="the same"))
            info = env.wait_for_hook(run)
            env.engine.live.clear()
            resume_hook_sync(info)
            tokens += run.wait()
            assert replay(app, env.history(run)) == tokens[-2:]
            drawn = [token for turn in env.history(run).turns for token in turn.drawn]
            assert drawn == tokens[-2:]
    assert len(set(tokens)) == 4, "two runs with one id have tokens that tell nothing of each other"
    assert all(len(token) == 22 for token in tokens)


@pytest.mark.parametrize("token", ["", "x" * 513, "two\nlines", 3])
def test_tokens_that_cannot_be(app, env, token):
    @app.workflow
    async def body():
        await create_hook(token=token)

    with pytest.raises(WorkflowRunFailedError, match="a hook's token has") as caught:
        env.run(body)
    assert isinstance(caught.value.__cause__, ConfigurationError)


def test_metadata_has_a_limit(app, env):
    @app.workflow
    async def body():
        await create_hook(token="t", metadata="x" * 9000)

    with pytest.raises(WorkflowRunFailedError, match=r"the metadata of create_hook\(\) is 9,002 bytes") as caught:
        env.run(body)
    assert isinstance(caught.value.__cause__, SerializationError)


def test_hooks_in_the_wrong_place(app, env):
    with pytest.raises(ContextError, match=r"Approval.wait\(\) belongs in a workflow body"):
        Approval.wait(token="t")
    with pytest.raises(ContextError, match=r"create_hook\(\) belongs in a workflow body"):
        create_hook()

    @app.workflow
    async def body(what: str):
        if what == "resume":
            await resume_hook("t", 1)
        else:
            await get_hook_by_token("t")

    for what in ("resume", "get"):
        with pytest.raises(WorkflowRunFailedError, match="was called in a workflow body; in a body, move it into a"):
            env.run(body, what)


def test_nobody_waits_under_this_token(app, env):
    @app.workflow
    async def body() -> str:
        return await create_hook(token="a-token-that-is-long")

    for call in (get_hook_by_token("nothing"), resume_hook("nothing", 1), Approval(approved=True).resume("nothing")):
        with pytest.raises(HookNotFoundError, match="no run has an open hook with the token 'nothing'"):
            do(call)
    run = env.start(body)
    with pytest.raises(HookNotFoundError, match=r"'a-token-…'"):  # nothing of the run has happened yet
        resume_hook_sync("a-token-that-is-long", 1)
    env.wait_for_hook(run)
    resume_hook_sync("a-token-that-is-long", "here")
    assert run.wait() == "here"
    with pytest.raises(HookNotFoundError):
        resume_hook_sync("a-token-that-is-long", 1)


@pytest.mark.parametrize("how", ["returns", "raises", "at once"])
def test_a_token_is_free_when_the_run_has_ended(app, env, how):
    @app.step
    async def work() -> None: ...

    @app.workflow
    async def body(how: str) -> str:
        create_hook(token="mine")
        if how != "at once":
            await work()
        if how == "raises":
            raise ValueError("no")
        return "done"

    run = env.start(body, how)
    env.run_until_idle()
    assert do(run.status()) == ("failed" if how == "raises" else "completed")
    assert holder(env, "mine") is None


def test_a_hook_that_is_opened_and_disposed_in_one_turn_is_no_operation(app, env):
    @app.workflow
    async def body() -> str:
        async with create_hook(token="t"):
            pass
        create_hook(token="t").dispose()
        await sleep(1)
        return "done"

    run = env.start(body)
    assert run.wait() == "done"
    assert not commands(env, run, (OpenHook, CloseHook))


def test_a_payload_for_a_hook_that_was_disposed_is_dropped(app, env):
    @app.step
    async def send_late() -> None:
        await resume_hook("t", "late")

    @app.workflow
    async def body() -> str:
        hook = create_hook(token="t")
        task = asyncio.create_task(send_late())
        await create_hook(token="go")
        hook.dispose()
        hook.dispose()
        await task
        await sleep(120)
        return "done"

    run = env.start(body)
    env.wait_for_hook(run, token="go")
    claim = env.connection.backend.hooks.find("t")
    resume_hook_sync("go")
    env.run_until_idle(lambda: bool(commands(env, run, CloseHook)))
    assert holder(env, "t") is None
    env.connection.backend.hooks.claim(claim)  # as if the sender had found it just before
    env.run_until_idle()
    assert run.wait() == "done"
    assert [event.op for event in events(env, run, HookReceived)] == [1]
    assert not env.connection.backend.runs.load(run.run_id).inbox


# --- conflicts ---------------------------------------------------------------------------------------


@pytest.fixture
def hold(app):
    @app.workflow(name="hold")
    async def hold(token: str) -> str:
        async with create_hook(token=token) as hook:
            return await hook

    return hold


@pytest.fixture
def wants(app):
    @app.workflow(name="wants")
    async def wants(token: str) -> list[str | None]:
        hook = create_hook(token=token)
        try:
            return ["got", await hook]
        except HookConflictError as error:
            conflict = await hook.get_conflict()
            hook.dispose()
            return [error.run_id, conflict, error.token]

    return wants


def test_a_token_has_one_hook_at_a_time(env, hold, wants):
    first = env.start(hold, "t")
    env.wait_for_hook(first)
    second = env.start(wants, "t")
    assert second.wait() == [first.run_id, first.run_id, "t"]
    assert holder(env, "t") == first.run_id
    third = env.start(wants, "t")
    assert third.wait()[0] == first.run_id
    resume_hook_sync("t", "for the first")
    assert first.wait() == "for the first"
    fourth = env.start(wants, "t")
    env.wait_for_hook(fourth)
    resume_hook_sync("t", "for the fourth")
    assert fourth.wait() == ["got", "for the fourth"]


@pytest.mark.parametrize("later", [False, True])
def test_asking_for_a_conflict(app, env, hold, later):
    @app.step
    async def work() -> None: ...

    @app.workflow
    async def body() -> list[str | None]:
        hook = create_hook(token="t")
        if later:
            await work()
        answers = await asyncio.gather(hook.get_conflict(), hook.get_conflict())
        return [*answers, await hook.get_conflict()]

    other = env.start(hold, "t")
    env.wait_for_hook(other)
    run = env.start(body)
    assert run.wait() == [other.run_id] * 3
    assert len(events(env, run, HookConflicted)) == 1
    assert holder(env, "t") == other.run_id


@pytest.mark.parametrize("later", [False, True])
def test_asking_for_a_conflict_where_there_is_none(app, env, later):
    @app.step
    async def work() -> None: ...

    @app.workflow
    async def body() -> list[object]:
        hook = create_hook(token="t")
        if later:
            await work()
        return [await hook.get_conflict(), await hook.get_conflict(), await hook]

    run = env.start(body)
    env.wait_for_hook(run)
    env.run_until_idle()
    assert len(commands(env, run, ConfirmHook)) == len(events(env, run, HookOpened)) == 1
    resume_hook_sync("t", "payload")
    assert run.wait() == [None, None, "payload"]


def test_who_asks_for_a_conflict_and_is_cancelled(app, env):
    @app.workflow
    async def body() -> list[object]:
        hook = create_hook(token="t")
        asking = asyncio.create_task(hook.get_conflict())
        await asyncio.sleep(0)
        asking.cancel()
        return [await hook.get_conflict(), asking.cancelled()]

    assert env.run(body) == [None, True]


def test_a_payload_answers_who_asks_for_a_conflict(app, env):
    """Where payloads come, the token is the hook's: here one is taken before the answer."""

    @app.workflow
    async def body() -> list[object]:
        hook = create_hook(token="t")
        payload = await hook
        return [payload, await hook.get_conflict()]

    run = env.start(body)
    env.wait_for_hook(run)
    resume_hook_sync("t", "payload")
    assert run.wait() == ["payload", None]
    assert not commands(env, run, ConfirmHook)


def test_a_token_that_another_hook_of_the_run_has(app, env):
    @app.workflow
    async def body() -> list[object]:
        first, second = create_hook(token="t"), create_hook(token="t")
        conflict = await second.get_conflict()
        first.dispose()
        third = create_hook(token="t")
        return [conflict, await third.get_conflict()]

    run = env.start(body)
    assert run.wait() == [run.run_id, None]


def test_disposing_and_opening_in_one_turn(app, env):
    @app.workflow
    async def body() -> list[object]:
        seen = []
        for _ in range(3):
            hook = create_hook(token="t")
            seen.append(await hook)
            hook.dispose()
        return seen

    run = env.start(body)
    for number in range(3):
        env.wait_for_hook(run)
        resume_hook_sync("t", number)
        env.run_until_idle()
    assert run.wait() == [0, 1, 2]


def test_disposing_wakes_who_waits(app, env):
    @app.workflow
    async def body() -> list[str]:
        hook = create_hook(token="t")
        waiting = [asyncio.ensure_future(hook), asyncio.create_task(hook.get_conflict())]
        await sleep(0)
        hook.dispose()
        return [type(each).__name__ for each in await asyncio.gather(*waiting, return_exceptions=True)]

    assert env.run(body) == ["HookDisposedError", "HookDisposedError"]


def test_the_holder_is_parked(app, env, wants):
    """A parked run is alive: its token is taken."""

    @app.step
    async def work() -> None: ...

    @app.workflow(name="fragile")
    async def fragile() -> str:
        hook = create_hook(token="t")
        await work()
        return await hook

    run = env.start(fragile)
    del app.steps[work.name]
    with pytest.raises(WorkflowRunParkedError):
        run.wait()
    assert env.run(wants, "t") == [run.run_id, run.run_id, "t"]
    app.steps[work.name] = work
    env.connection.resume(run.run_id)
    resume_hook_sync("t", "it was there all the time")
    assert run.wait() == "it was there all the time"


def test_the_holder_died_before_it_gave_the_token_free(env, hold, wants):
    run = env.start(hold, "t")
    env.wait_for_hook(run)
    claim = env.connection.backend.hooks.find("t")
    resume_hook_sync("t", "x")
    assert run.wait() == "x"
    env.connection.backend.hooks.claim(claim)
    second = env.start(wants, "t")
    env.wait_for_hook(second)
    assert holder(env, "t") == second.run_id


def test_a_claim_that_was_left_behind_by_a_living_run(app, env, wants):
    """Somebody slow has claimed the token of a hook that is closed: the next one takes it."""

    @app.workflow
    async def body() -> str:
        async with create_hook(token="t") as hook:
            await hook
        return await create_hook(token="other")

    run = env.start(body)
    env.wait_for_hook(run)
    claim = env.connection.backend.hooks.find("t")
    resume_hook_sync("t", "x")
    env.wait_for_hook(run, token="other")
    env.connection.backend.hooks.claim(claim)
    second = env.start(wants, "t")
    env.wait_for_hook(second)
    assert holder(env, "t") == second.run_id


def test_a_claim_that_was_left_behind_by_the_run_itself(app, env):
    @app.workflow
    async def body() -> list[object]:
        seen = []
        for _ in range(2):
            async with create_hook(token="t") as hook:
                seen.append(await hook)
            async with create_hook(token="pause") as pause:
                seen.append(await pause)
        return seen

    run = env.start(body)
    env.wait_for_hook(run)
    claim = env.connection.backend.hooks.find("t")
    resume_hook_sync("t", 1)
    env.wait_for_hook(run, token="pause")
    env.connection.backend.hooks.claim(claim)
    resume_hook_sync("pause", 2)
    assert env.wait_for_hook(run, token="t").run_id == run.run_id
    resume_hook_sync("t", 3)
    env.wait_for_hook(run, token="pause")
    resume_hook_sync("pause", 4)
    assert run.wait() == [1, 2, 3, 4]


# --- the same once more ------------------------------------------------------------------------------


@pytest.mark.parametrize("consumed", [False, True])
def test_the_same_resume_id_counts_once(app, env, consumed):
    @app.workflow
    async def body() -> list[object]:
        hook = create_hook(token="t")
        return [await hook, await hook]

    run = env.start(body)
    env.wait_for_hook(run)
    resume_hook_sync("t", 1, resume_id="delivery-1")
    if consumed:
        env.run_until_idle()
    resume_hook_sync("t", 1, resume_id="delivery-1")
    resume_hook_sync("t", 2, resume_id="delivery-2")
    assert run.wait() == [1, 2]
    assert len(events(env, run, HookReceived)) == 2


def test_sending_the_same_again_does_not_repeat_what_follows(app, environment):
    """The first has been consumed, and a step is under way. A second one, an hour later, does not ask for it again."""
    sent = []

    def see(moment, call, args, _value):
        if (moment, call) == ("before", "queue.send"):
            sent.extend(outgoing.message_id for outgoing in args[0])

    @app.step
    async def work() -> str:
        env.clock.advance(3_600_000_000)
        await resume_hook("t", 1, resume_id="once")
        await resume_hook("other")
        await asyncio.to_thread(advance)
        return "worked"

    def advance():
        """Another worker handles what is due; it has never seen the run."""
        other = env.connection.engine(app)
        source = env.connection.backend.source
        source.register("other", until=1 << 62)
        for delivery in source.receive("other", limit=10, now=env.clock.now()):
            handle(other, delivery.message, None, root_id=delivery.root_id)
            source.acknowledge([delivery.message_id])

    @app.workflow
    async def body() -> list[object]:
        hook, other = create_hook(token="t"), create_hook(token="other")
        first = await hook
        return [first, *await asyncio.gather(work(), other)]

    with environment(app, backend=watched(open_memory(atomic_units=False), see)) as env:
        run = env.start(body)
        env.wait_for_hook(run)
        resume_hook_sync("t", 1, resume_id="once")
        assert run.wait() == [1, "worked", None]
    assert len([each for each in sent if each.startswith("step/")]) == 1


def test_the_same_resume_id_for_another_hook(app, env):
    """It counts once for a token: not again where the run has opened another hook with it, but for another token."""

    @app.workflow
    async def body() -> list[object]:
        seen = []
        other = create_hook(token="other")
        for _ in range(2):
            async with create_hook(token="t") as hook:
                seen.append(await hook)
        return [*seen, await other]

    run = env.start(body)
    env.wait_for_hook(run, token="t")
    resume_hook_sync("t", 1, resume_id="1")
    env.run_until_idle()
    resume_hook_sync("t", 1, resume_id="1")
    env.run_until_idle()
    resume_hook_sync("t", 2, resume_id="2")
    resume_hook_sync("other", 3, resume_id="1")
    assert run.wait() == [1, 2, 3]


@pytest.mark.parametrize("resume_id", ["", "x" * 257, "two\nlines"])
def test_resume_ids_that_cannot_be(app, env, hold, resume_id):
    env.wait_for_hook(env.start(hold, "t"))
    with pytest.raises(ConfigurationError, match="a resume id has 1 to 256 printable characters"):
        resume_hook_sync("t", 1, resume_id=resume_id)


# --- what happens meanwhile ---------------------------------------------------------------------------


def test_a_year_and_a_new_process_between(env, hold):
    run = env.start(hold, "t")
    env.wait_for_hook(run)
    env.engine.live.clear()
    env.clock.advance(365 * DAY * 1_000_000)
    resume_hook_sync("t", "late, but there")
    assert run.wait() == "late, but there"


def test_waiting_where_nothing_will_come(app, env, hold):
    run = env.start(hold, "t")
    env.wait_for_hook(run)
    with pytest.raises(LookupError, match=f"run {run.run_id} has no hook with the token 'other'.*it is running"):
        env.wait_for_hook(run, token="other")
    resume_hook_sync("t", "x")
    run.wait()
    with pytest.raises(LookupError, match="has no hook, and nothing is left to do: it is completed"):
        env.wait_for_hook(run)


def test_a_hook_in_an_async_test(app):
    @app.workflow
    async def body() -> str:
        return (await Approval.wait(token="t")).by

    async def test() -> str:
        with WorkflowEnvironment(app) as env:
            run = env.start(body)
            env.wait_for_hook(run)
            await Approval(approved=True, by="ada").resume("t")
            assert await run.status() is RunStatus.RUNNING
            return await run.return_value()

    assert asyncio.run(test()) == "ada"
