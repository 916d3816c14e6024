"""What of AWS a backend uses: names that the stack's outputs or an infrastructure tool provide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from everstep.errors import ConfigurationError

RUNS_BY_DAY: Final = "runs-by-day"
"""The index of lists, KEYS_ONLY: ``list_pk`` is ``<yyyy-mm-dd>#<0..3>``, ``list_sk`` ``<created_at>#<run id>``."""
PARKED_RUNS: Final = "parked-runs"
"""The index of parked runs, KEYS_ONLY: ``parked_pk`` is ``parked#<0..3>``, ``parked_sk`` ``<at>#<run id>#<build>``."""
EXPIRES_AT: Final = "expires_at"
"""The attribute of the table's time to live, in seconds since the epoch."""

LONGEST_DELAY: Final = 900
"""Seconds; the longest ``DelaySeconds`` of SQS."""
SHORTEST_RETENTION: Final = 15
"""Days. A queue keeps a message for up to 14: nothing may come for a run whose items are gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsResources:
    """One table, one queue, one bucket, one schedule group.

    Attributes:
        table: name (or ARN) of the table, with string keys ``pk`` and ``sk`` and the two indexes named above.
        queue_url: the standard queue that workers are fed from.
        queue_arn: the same queue, as the target of schedules.
        bucket: keeps what is too large for an item or a message.
        schedule_group: holds the one-time schedules of long timers.
        scheduler_role_arn: the role with which EventBridge Scheduler sends to the queue.
        region: of all of them.
        delay_limit: seconds; a message due later than that gets a schedule. At most 900. Tests shorten it.
        endpoint_url: another endpoint for all services, such as an emulator. None is AWS.
        retention_days: how long the items of a closed run are kept; 0 keeps them for ever, otherwise at least 15.
            It costs a read of the run and a write of each of its items when the run closes.
    """

    table: str
    queue_url: str
    queue_arn: str
    bucket: str
    schedule_group: str
    scheduler_role_arn: str
    region: str
    delay_limit: int = LONGEST_DELAY
    endpoint_url: str | None = None
    retention_days: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.delay_limit <= LONGEST_DELAY:
            raise ConfigurationError(
                f"delay_limit must be from 1 to {LONGEST_DELAY} seconds, not {self.delay_limit}: SQS delays no message "
                f"longer, and later ones get a schedule"
            )
        if self.retention_days != 0 and self.retention_days < SHORTEST_RETENTION:
            raise ConfigurationError(
                f"retention_days must be 0 (keep for ever) or at least {SHORTEST_RETENTION}, not "
                f"{self.retention_days}: a message may come for a run 14 days after it was sent"
            )
