"""Programs that talk: to others through hooks, to their children, and about their own runs from their steps.

What a step sends carries the step's id, so that it counts once however often the step runs.
"""

from __future__ import annotations

import asyncio

from everstep import (
    HookConflictError,
    HookNotFoundError,
    WorkflowRunCancelledError,
    continue_as_new,
    create_hook,
    get_run,
    get_step_metadata,
    get_workflow_metadata,
    now,
    publish,
    remove_attributes,
    resume_hook,
    set_attributes,
    sleep,
    start,
)
from tests.simulation.alone import DAY, add, in_ten_days, refuse, wf


def own_token(name: str) -> str:
    return f"{name} of {get_workflow_metadata().run_id}"


@wf.step
async def tell(token: str, value: object) -> object:
    """Send a payload."""
    try:
        await resume_hook(token, value, resume_id=get_step_metadata().step_id)
    except HookNotFoundError:  # it was sent before, taken, and the hook closed
        pass
    return value


@wf.step
async def ask(run_id: str, what: str) -> bool:
    """Ask something of a run; whether it has ended."""
    run = get_run(run_id)
    if what == "mark":
        await run.set_attributes(asked=get_step_metadata().step_name)
    else:
        await getattr(run, what)()
    return str(await run.status()) in ("completed", "failed", "cancelled")


@wf.step(cancellable=True, max_retries=1, retry=in_ten_days)
async def reluctant() -> int:
    raise ConnectionError("not today")


@wf.step(cancellable=True)
async def willing(value: int) -> int:
    return value


# --- hooks -------------------------------------------------------------------------------------------


@wf.workflow
async def answered() -> list[object]:
    """A token that nobody chose; payloads that come while the body does something else, and when it waits."""
    hook = create_hook()
    early = await tell(hook.token, "early")
    both = asyncio.gather(*(tell(hook.token, number) for number in range(3)))
    taken = [await hook for _ in range(4)]
    return [early, sorted(map(str, taken)), sorted(await both, key=str)]


@wf.workflow
async def reopened() -> list[object]:
    """One token, opened and closed again and again. What a step sends twice must not reach the next hook."""
    seen: list[object] = []
    for number in range(3):
        async with create_hook(token=own_token("door")) as hook:
            told, taken = await asyncio.gather(tell(hook.token, number), hook)
            seen.append([told, taken])
    return seen


@wf.workflow
async def streamed() -> list[object]:
    """A child sends to its parent's hook until it has no more."""
    seen = []
    async with create_hook(token=own_token("post")) as hook:
        await start(sender, hook.token, 3)
        async for value in hook:
            if value == "end":
                hook.dispose()
            seen.append(value)
    return seen


@wf.workflow
async def sender(token: str, count: int) -> None:
    for number in range(count):
        await tell(token, number)
    await tell(token, "end")


@wf.workflow
async def contested() -> list[object]:
    """Two hooks with one token: the second is told whose it is, and the third has it."""
    first, second = create_hook(token=own_token("one")), create_hook(token=own_token("one"))
    own = await second.get_conflict() == get_workflow_metadata().run_id
    said = False
    try:
        await second
    except HookConflictError as error:
        said = error.token == first.token
    first.dispose()
    third = create_hook(token=first.token)
    free = await third.get_conflict()
    await tell(third.token, "third")
    return [own, said, free, await third]


@wf.workflow
async def unanswered() -> str:
    async with create_hook(token=own_token("silence")) as hook:
        try:
            async with asyncio.timeout(DAY):
                return str(await hook)
        except TimeoutError:
            return f"too late {await add(1, 1)}"


@wf.workflow
async def several_wait() -> list[str]:
    hook = create_hook()
    waiting = [asyncio.ensure_future(hook) for _ in range(3)]
    await tell(hook.token, "a")
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    given_up = next(task for task in waiting if not task.done())
    given_up.cancel()
    await tell(hook.token, "b")
    rest = await asyncio.gather(*waiting, return_exceptions=True)
    return sorted(each if isinstance(each, str) else type(each).__name__ for each in rest)


# --- children ----------------------------------------------------------------------------------------


@wf.workflow
async def fibonacci(number: int = 3) -> int:
    if number < 2:
        return number
    return sum(await asyncio.gather(fibonacci(number - 1), fibonacci(number - 2)))


@wf.workflow
async def failing(why: str) -> int:
    await add(1, 1)
    return await refuse(why)


@wf.workflow
async def patient(days: int, token: str = "") -> str:
    try:
        if token:
            await tell(token, "here")
        await sleep(days * DAY)
    except asyncio.CancelledError:
        await add(1, 1)
        if token:
            await tell(token, "cancelled")
        raise
    return f"{days} days"


@wf.workflow
async def rounds(number: int = 0) -> int:
    if await add(number, 0) < 2:
        continue_as_new(number + 1)
    return number


@wf.workflow
async def family() -> list[str]:
    """Children of all kinds at once: they return, fail, go on as new runs, are cancelled."""
    found = await asyncio.gather(
        patient(1), failing("no"), rounds(), asyncio.wait_for(patient(10), DAY), return_exceptions=True
    )
    return [f"{type(each).__name__} {each}" if isinstance(each, Exception) else str(each) for each in found]


@wf.workflow
async def cancelled_child() -> list[str]:
    """A child that is cancelled cleans up, and what it says then arrives; one that others cancel is told of."""
    hook = create_hook()
    task = asyncio.create_task(patient(10, hook.token))
    said = [str(await hook)]
    task.cancel()
    said += [str(await hook), type((await asyncio.gather(task, return_exceptions=True))[0]).__name__]
    try:
        await cancels_itself()
    except WorkflowRunCancelledError as error:
        said.append(f"{error.reason}")
    return said


@wf.workflow
async def left_behind() -> str:
    """What the body does not wait for when it returns: tasks are cancelled, runs that were started go on."""
    hook = create_hook(token=own_token("last"))
    asyncio.create_task(patient(10))
    await start(patient, 1)
    await start(rounds)
    await tell(hook.token, "ready")
    return str(await hook)


# --- control -----------------------------------------------------------------------------------------


@wf.workflow
async def cancels_itself() -> None:
    try:
        await ask(get_workflow_metadata().run_id, "cancel")
        await sleep(10 * DAY)
    except asyncio.CancelledError:
        await add(1, 1)
        raise


@wf.workflow
async def swallows_it() -> str:
    try:
        await ask(get_workflow_metadata().run_id, "cancel")
        await sleep(10 * DAY)
    except asyncio.CancelledError:
        return f"went on {await add(1, 1)}"
    return "was not cancelled"


@wf.workflow
async def terminates_itself() -> None:
    """With everything open that can be."""
    create_hook(token=own_token("open"))
    waiting = [asyncio.create_task(patient(10)), asyncio.create_task(sleep(10 * DAY))]
    await asyncio.gather(ask(get_workflow_metadata().run_id, "terminate"), reluctant(), *waiting)


@wf.workflow
async def cancelled_as_it_goes_on(number: int = 0) -> None:
    """The request meets the end of the run, which goes on as a new one."""
    if number == 0:
        hook = create_hook()
        await start(asks_and_tells, get_workflow_metadata().run_id, hook.token)
        await hook
        continue_as_new(1)
    await sleep(10 * DAY)


@wf.workflow
async def asks_and_tells(run_id: str, token: str) -> None:
    await asyncio.gather(ask(run_id, "cancel"), tell(token, "go"))


@wf.workflow
async def wakes_itself() -> bool:
    begin = now()

    async def wake() -> None:
        await sleep("1h")
        await ask(get_workflow_metadata().run_id, "wake_up")

    await asyncio.gather(sleep(10 * DAY), wake())
    return (now() - begin).days < 5


@wf.workflow
async def pauses_itself() -> list[int]:
    """Somebody else unpauses it, as often as need be."""
    run_id = get_workflow_metadata().run_id
    await start(unpauses, run_id)
    _, first, second = await asyncio.gather(ask(run_id, "pause"), add(1, 0), add(2, 0))
    await sleep("10m")
    return [first, second, await add(3, 0)]


@wf.workflow
async def unpauses(run_id: str) -> None:
    ended = False
    while not ended:
        await sleep("1h")
        ended = await ask(run_id, "unpause")


@wf.workflow
async def describes_itself() -> str:
    """Attributes from the body and from steps, and published values."""
    run_id = get_workflow_metadata().run_id
    for number in range(3):
        set_attributes({"phase": f"{number}", f"phase {number}": "x"})
        publish("progress", number)
        publish("progress", [number, "of", 3])
        await asyncio.gather(ask(run_id, "mark"), add(number, 0))
        remove_attributes(f"phase {number}")
    publish("end", True)
    await add(1, 1)
    return "described"


@wf.workflow
async def gives_a_step_up() -> list[object]:
    """A cancellable step that will be tried again in ten days is waited for a day, and told then."""
    begin = now()
    try:
        async with asyncio.timeout(DAY):
            await reluctant()
    except TimeoutError:
        pass
    return [(now() - begin).days < 5, await willing(7)]


EXPECTED: dict[str, tuple[str, object]] = {
    "answered": ("completed", ["early", ["0", "1", "2", "early"], [0, 1, 2]]),
    "reopened": ("completed", [[0, 0], [1, 1], [2, 2]]),
    "streamed": ("completed", [0, 1, 2, "end"]),
    "contested": ("completed", [True, True, None, "third"]),
    "unanswered": ("completed", "too late 2"),
    "several_wait": ("completed", ["CancelledError", "a", "b"]),
    "fibonacci": ("completed", 2),
    "family": ("completed", ["1 days", "FatalError no", "2", "TimeoutError "]),
    "cancelled_child": ("completed", ["here", "cancelled", "CancelledError", "None"]),
    "left_behind": ("completed", "ready"),
    "cancels_itself": ("cancelled", None),
    "swallows_it": ("completed", "went on 2"),
    "terminates_itself": ("cancelled", None),
    "cancelled_as_it_goes_on": ("cancelled", None),
    "wakes_itself": ("completed", True),
    "pauses_itself": ("completed", [1, 2, 3]),
    "describes_itself": ("completed", "described"),
    "gives_a_step_up": ("completed", [True, 7]),
}
