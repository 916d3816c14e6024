"""An approval by people, with a deadline and an escalation: hooks and asyncio.timeout.

python examples/approval.py
"""

import asyncio
from dataclasses import dataclass

from everstep import BaseHook, Workflows, publish, run, set_attributes

wf = Workflows()


@dataclass
class Decision(BaseHook):
    """What a person answers."""

    approved: bool
    by: str


@wf.workflow
async def expense(amount: int, patience: float = 0.5) -> str:
    for person in ("manager", "director"):
        set_attributes(waits_for=person)  # by which others find the run
        async with Decision.wait(metadata={"amount": amount, "for": person}) as hook:
            await send_mail(person, amount, hook.token)
            try:
                async with asyncio.timeout(patience):  # of days in real life; a restart does not begin it anew
                    decision = await hook
            except TimeoutError:
                publish("note", f"the {person} did not answer")  # read it with run.query("note")
                continue  # the token is not valid any more: a late answer is refused
        set_attributes(waits_for=None)
        return await pay(amount, decision.by) if decision.approved else f"refused by the {decision.by}"
    return "nobody answered"


@wf.step
async def send_mail(person: str, amount: int, token: str) -> None:
    print(f"Dear {person}, please decide about {amount} euros: https://shop.example/decide?token={token}")
    if person == "director":  # here: answers at once. In real life a web handler does this, days later
        await Decision(approved=True, by="director").resume(token, resume_id="the director's click")


@wf.step
async def pay(amount: int, approved_by: str) -> str:
    return f"paid {amount} euros, approved by the {approved_by}"


if __name__ == "__main__":
    print(run(expense, 120))
