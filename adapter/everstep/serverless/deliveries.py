"""What the functions need of the queue besides sending: to read what SQS hands them, and to send on what is early."""

from __future__ import annotations

from typing import Protocol

from everstep.core.ids import is_run_id
from everstep.core.messages import run_named_in, run_of
from everstep.ports import Delivery, Unreadable


class Deliveries(Protocol):
    """Bodies of SQS messages and the deliveries they stand for."""

    def read(self, body: str, receives: int) -> Delivery:
        """The message of a body; `Unreadable` stands in where this code cannot read it.

        Raises:
            StoreError: the body only refers to the message, and that cannot be fetched.
        """
        ...

    def send_on(self, delivery: Delivery, body: str) -> None:
        """Send the message again, as it came, to be delivered when it is due: it came before.

        It must arrive although a message of the same id is still in the queue: the one that is being handled.
        """
        ...


def run_of_delivery(delivery: Delivery) -> str | None:
    """The run a message is about; of one that cannot be read, the run that its id names, if it names one."""
    if not isinstance(delivery.message, Unreadable):
        return run_of(delivery.message)
    try:
        run_id = run_named_in(delivery.message_id)
    except IndexError:
        return None
    return run_id if is_run_id(run_id) else None
