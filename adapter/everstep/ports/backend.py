"""What the assembly hands to the runtime."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from everstep.ports.hook_registry import HookRegistry
from everstep.ports.inbox import Inbox
from everstep.ports.inspector import Inspector
from everstep.ports.message_queue import MessageQueue, MessageSource
from everstep.ports.run_store import RunStore
from everstep.ports.step_log import StepLog
from everstep.ports.stream_store import StreamStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """The stores and queues a process uses.

    Attributes:
        unit: groups the calls made within it by this thread. With transactions, all or nothing, visible to others at
            its end, and durable when it has ended; an exception undoes them, also one of a call that is caught
            within. Units may nest: the outermost one counts. A unit may hold the store's write lock: keep it short, and
            run no user code in it. Without transactions it does nothing.
        close: releases files and connections.
    """

    runs: RunStore
    inbox: Inbox
    hooks: HookRegistry
    steps: StepLog
    streams: StreamStore
    queue: MessageQueue
    source: MessageSource
    inspector: Inspector
    unit: Callable[[], AbstractContextManager[None]]
    close: Callable[[], None]
