"""The test kit: run workflows in memory with a virtual clock, replay histories, check backends.

`WorkflowEnvironment` runs an app in this process and skips time: a year's sleep takes milliseconds.
`History` is a run as a file; `replay` runs it against the present code and raises where they differ.
`everstep.testing.contracts` holds the contract suites for people who write backends (they need pytest).
"""

from everstep.testing.clock import VirtualClock
from everstep.testing.environment import WorkflowEnvironment
from everstep.testing.history import History, replay

__all__ = ["History", "VirtualClock", "WorkflowEnvironment", "replay"]
