"""Everything in this process's memory, for tests."""

from __future__ import annotations

from everstep.backends.memory.connection import MemoryDatabase
from everstep.backends.memory.hook_registry import MemoryHookRegistry
from everstep.backends.memory.inbox import MemoryInbox
from everstep.backends.memory.inspector import MemoryInspector
from everstep.backends.memory.message_queue import MemoryMessageQueue, MemoryMessageSource
from everstep.backends.memory.run_store import MemoryRunStore
from everstep.backends.memory.step_log import MemoryStepLog
from everstep.backends.memory.stream_store import MemoryStreamStore
from everstep.ports import Backend

__all__ = ["MemoryMessageSource", "open_memory"]


def open_memory(*, atomic_units: bool) -> Backend:
    """A new, empty store. What is stored are encoded records, as in a real one.

    Args:
        atomic_units: with True a unit is all or nothing, as in SQLite. With False it does nothing, as in DynamoDB: each
            call is committed by itself and stays when a later one fails, which tests the order of the calls.
    """
    database = MemoryDatabase(atomic_units=atomic_units)
    return Backend(
        runs=MemoryRunStore(database),
        inbox=MemoryInbox(database),
        hooks=MemoryHookRegistry(database),
        steps=MemoryStepLog(database),
        streams=MemoryStreamStore(database),
        queue=MemoryMessageQueue(database),
        source=MemoryMessageSource(database),
        inspector=MemoryInspector(database),
        unit=database.unit,
        close=database.close,
    )
