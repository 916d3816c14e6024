"""A durable deadline: asyncio.timeout around steps, with something else to do when it passes.

python examples/deadline.py
"""

import asyncio

from everstep import Workflows, run

wf = Workflows()


@wf.workflow
async def quote(product: str, patience: float = 0.5) -> str:
    try:
        async with asyncio.timeout(patience):  # kept in the history: a restart does not begin it anew
            return await ask_supplier(product)
    except TimeoutError:
        return await last_known_price(product)


@wf.step(timeout="10s")
async def ask_supplier(product: str) -> str:
    await asyncio.sleep(1.5)  # a slow supplier
    return f"{product}: 10.00, fresh from the supplier"


@wf.step
async def last_known_price(product: str) -> str:
    return f"{product}: 9.50, as of yesterday"


if __name__ == "__main__":
    print(run(quote, "anvil"))
