"""What the runtime needs from a backend: small protocols whose docstrings are the specification.

The same rules hold for all. Calls are synchronous and thread-safe. Every call is atomic by itself; a group of
calls made within one ``Backend.unit()`` is atomic too where the backend can do it (SQLite), and is not where it
cannot (DynamoDB), so the runtime's order of calls must be right without. A backend raises `StoreBusyError` when
the same call may succeed later, `SerializationError` for what cannot be stored or read, `ConfigurationError` for a
wrong argument or a store it may not write, `StoreError` otherwise, and never an error of the technology beneath.
"""

from everstep.ports.backend import Backend
from everstep.ports.clock import Clock
from everstep.ports.hook_registry import HookClaim, HookRegistry
from everstep.ports.inbox import Inbox, InboxEntry
from everstep.ports.inspector import Inspector, RunPage, RunQuery
from everstep.ports.message_queue import Delivery, MessageQueue, MessageSource, Unreadable
from everstep.ports.run_store import RunStore, Snapshot
from everstep.ports.step_log import FailedAttempt, StepLog
from everstep.ports.stream_store import StreamRecord, StreamStore

__all__ = [
    "Backend",
    "Clock",
    "Delivery",
    "FailedAttempt",
    "HookClaim",
    "HookRegistry",
    "Inbox",
    "InboxEntry",
    "Inspector",
    "MessageQueue",
    "MessageSource",
    "RunPage",
    "RunQuery",
    "RunStore",
    "Snapshot",
    "StepLog",
    "StreamRecord",
    "StreamStore",
    "Unreadable",
]
