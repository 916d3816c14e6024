"""What every backend must do, as tests: one class for each port.

Subclass a class in a test module, name the subclass ``Test…`` and give it a ``backend`` fixture that opens a new, empty
backend for each test and closes it afterwards::

    class TestRunStore(RunStoreContract):
        @pytest.fixture
        def backend(self, tmp_path):
            backend = open_sqlite(tmp_path / "runs.db")
            yield backend
            backend.close()

`UnitContract` is for backends whose units are transactions, `MessageSourceContract` for those that receive messages
themselves. Put ``pytest.register_assert_rewrite("everstep.testing.contracts")`` into a ``conftest.py``, so that failed
asserts show both sides. Needs pytest, so nothing else of everstep imports this package.
"""

from everstep.testing.contracts.hook_registry import HookRegistryContract
from everstep.testing.contracts.inbox import InboxContract
from everstep.testing.contracts.inspector import InspectorContract
from everstep.testing.contracts.message_queue import MessageQueueContract
from everstep.testing.contracts.message_source import MessageSourceContract
from everstep.testing.contracts.run_store import RunStoreContract
from everstep.testing.contracts.step_log import StepLogContract
from everstep.testing.contracts.stream_store import StreamStoreContract
from everstep.testing.contracts.unit import UnitContract

__all__ = [
    "HookRegistryContract",
    "InboxContract",
    "InspectorContract",
    "MessageQueueContract",
    "MessageSourceContract",
    "RunStoreContract",
    "StepLogContract",
    "StreamStoreContract",
    "UnitContract",
]
