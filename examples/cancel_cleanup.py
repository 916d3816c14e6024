"""A trip that is cancelled half way: the body sees CancelledError and undoes what was done, with steps.

python examples/cancel_cleanup.py
"""

import asyncio
from collections.abc import Awaitable, Callable

from everstep import WorkflowRunCancelledError, Workflows, get_run, get_workflow_metadata, run, sleep

wf = Workflows()


@wf.workflow
async def book_trip(customer: str) -> str:
    undo: list[Callable[[], Awaitable[None]]] = []
    try:
        flight = await book_flight(customer)
        undo.append(lambda: return_flight(flight))
        hotel = await book_hotel(customer)
        undo.append(lambda: return_hotel(hotel))
        await ask_customer(customer)
        await sleep("14 days")  # until the trip begins
    except (Exception, asyncio.CancelledError):  # it failed, or somebody cancelled it
        for compensate in reversed(undo):
            await compensate()  # a step like any other: retried, and finished by another worker if this one dies
        raise  # then the run is cancelled. Without it the run would complete
    return f"have a good time: {flight}, {hotel}"


@wf.step
async def book_flight(customer: str) -> str:
    return f"flight of {customer}"


@wf.step
async def book_hotel(customer: str) -> str:
    return f"room of {customer}"


@wf.step
async def ask_customer(customer: str) -> None:
    print(f"mail to {customer}: booked. Reply to cancel.")
    # Here, the reply: from a step as from any other program.
    await get_run(get_workflow_metadata().run_id).cancel("the customer is ill")


@wf.step
async def return_flight(flight: str) -> None:
    print(f"returned: {flight}")


@wf.step
async def return_hotel(room: str) -> None:
    print(f"returned: {room}")


if __name__ == "__main__":
    try:
        print(run(book_trip, "ada"))
    except WorkflowRunCancelledError as error:
        print(f"cancelled: {error.reason}")
