"""An order with retries, and a saga: when a later step fails for good, what was done is undone in reverse.

python examples/order.py
everstep run examples/order.py:place_order \\
    --input '{"order": {"order_id": "o2", "amount": "12.50", "address": "nowhere"}}'
"""

from dataclasses import dataclass
from decimal import Decimal

from everstep import FatalError, RetryPolicy, Workflows, get_step_metadata, run

wf = Workflows()

quickly = RetryPolicy(first_delay="50ms", factor=2, cap="1s")


@dataclass
class Order:
    order_id: str
    amount: Decimal
    address: str


@dataclass
class Receipt:
    order_id: str
    payment: str
    shipment: str


class OutOfStockError(Exception):
    """The warehouse has none left."""


@wf.workflow
async def place_order(order: Order) -> Receipt:
    undo = []
    try:
        payment = await charge(order)
        undo.append(lambda: refund(payment))
        reservation = await reserve(order)
        undo.append(lambda: release(reservation))
        shipment = await ship(order, reservation)
    except Exception:
        for compensate in reversed(undo):
            await compensate()
        raise
    return Receipt(order.order_id, payment, shipment)


@wf.step(max_retries=5, retry=quickly)
async def charge(order: Order) -> str:
    step = get_step_metadata()
    if step.attempt < 3:  # the payment provider is having a bad day
        raise ConnectionError(f"payment provider did not answer (attempt {step.attempt})")
    # step_id is the same on every attempt: give it to the provider as its idempotency key
    return f"payment for {order.amount} under key {step.step_id[-4:]}"


@wf.step
async def reserve(order: Order) -> str:
    if order.amount > 1000:
        raise FatalError("more than we have")  # trying again cannot help
    return f"reservation-{order.order_id}"


@wf.step(max_retries=1, retry=quickly)
async def ship(order: Order, reservation: str) -> str:
    if order.address == "nowhere":
        raise OutOfStockError(f"no carrier goes to {order.address!r}")
    return f"shipment of {reservation}"


@wf.step
async def refund(payment: str) -> None:
    print(f"refunded: {payment}")


@wf.step
async def release(reservation: str) -> None:
    print(f"released: {reservation}")


if __name__ == "__main__":
    print(run(place_order, Order("o1", Decimal("12.50"), "1 Main Street")))
