"""The ports for messages: sending them, and (where we poll ourselves) receiving them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from everstep.core.history import Micros
from everstep.core.messages import Message, Outgoing


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """Stands for a message that cannot be decoded."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message as it was received.

    Attributes:
        message: `Unreadable` when this code cannot read it, as when a newer version sent it.
        receives: how many times it has been received, this time included.
        due: the time it was sent for.
        root_id: the family of its run.
        workflow: the workflow of its run.
    """

    message_id: str
    message: Message | Unreadable
    receives: int
    due: Micros
    root_id: str
    workflow: str


class MessageQueue(Protocol):
    """Sending. Delivery is at least once, in no promised order, never before a message is due."""

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Send the messages. One whose id is still in the queue is dropped."""
        ...

    def discard(self, message_ids: Sequence[str]) -> None:
        """Take back messages nobody needs any more. A best effort: they may be delivered all the same."""
        ...


class MessageSource(Protocol):
    """Receiving with leases, for backends where workers poll.

    A worker that is registered and alive holds what it received until it acknowledges or releases it. A worker
    counts as dead when the backend can tell that its process has ended, or when it did not renew in time.
    """

    def register(self, worker: str, *, until: Micros) -> None:
        """Make the worker known, or renew it: it counts as alive until then. Says nothing about its messages.

        A worker registers before it receives, or is sent messages that are leased to it. Every life of a worker has
        an id of its own.
        """
        ...

    def receive(
        self,
        worker: str,
        *,
        limit: int,
        now: Micros,
        root_id: str | None = None,
        workflows: Collection[str] | None = None,
    ) -> Sequence[Delivery]:
        """Lease up to `limit` messages that are due, longest due first.

        Only those of one family if `root_id` is given, and of these workflows if `workflows` is given.
        """
        ...

    def acknowledge(self, message_ids: Sequence[str]) -> None:
        """The messages are dealt with: remove them, whoever holds them."""
        ...

    def release(self, worker: str, message_ids: Sequence[str]) -> None:
        """Give back messages that were received but not begun; this receive is not counted."""
        ...

    def recover(self, *, now: Micros) -> int:
        """Give back what dead workers hold; say how many messages. Their next delivery counts one receive more."""
        ...

    def next_due(self, *, root_id: str | None = None, workflows: Collection[str] | None = None) -> Micros | None:
        """The earliest time at which an unleased message of these is due; None when there is none."""
        ...

    def orphans(self, *, known: Collection[str], due_before: Micros) -> Sequence[str]:
        """Ids of unleased messages, up to 100, of other workflows than these, that were due before this time."""
        ...

    def leave(self, worker: str) -> None:
        """The worker ends: release everything it still holds (those receives are not counted) and forget it."""
        ...

    def changes(self) -> int:
        """A number that differs from an earlier one of this thread if another process or thread has changed the store.

        This thread's own changes do not count. Cheap: it is asked many times a second.
        """
        ...
