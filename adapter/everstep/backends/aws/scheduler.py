"""Messages that are due later than the queue can delay them: one-time schedules of EventBridge Scheduler.

A schedule fires within 60 s after its time (https://docs.aws.amazon.com/scheduler/latest/UserGuide/managing-schedule.html).
So it is aimed 75 s early, and whoever reads the message before it is due sends it on with the rest as delay. It deletes
itself when it has fired. $1 per million.
"""

from __future__ import annotations

import hashlib
from typing import Final, final

from everstep.backends.aws.clients import AwsClients
from everstep.backends.aws.failures import code_behind
from everstep.backends.aws.resources import AwsResources
from everstep.core.durations import to_datetime
from everstep.core.history import Micros
from everstep.errors import ConfigurationError, StoreError

EARLY: Final = 75
"""Seconds: the 60 that a schedule may be late, and some for the way through the queue."""
LAST: Final[Micros] = 4_102_444_800_000_000
"""The year 2100. What is due later is scheduled for then, and sent on."""

_SECOND: Final[Micros] = 1_000_000
_RETRY: Final = {"MaximumRetryAttempts": 185, "MaximumEventAgeInSeconds": 86_400}


@final
class OneTimeSchedules:
    """Schedules in the group of the resources, each named by the message it sends."""

    def __init__(self, clients: AwsClients, resources: AwsResources) -> None:
        self._clients = clients
        self._resources = resources

    def time_for(self, due: Micros, now: Micros) -> Micros | None:
        """When to fire, in whole seconds; None when that is now or past, so that there is no use in a schedule."""
        early = min(EARLY, self._resources.delay_limit)
        at = (min(due, LAST) // _SECOND - early) * _SECOND
        return at if at > now + _SECOND else None

    def create(self, message_id: str, body: str, at: Micros) -> None:
        """Have the body, which is JSON, sent to the queue at that time. One request.

        A schedule of this name is left as it is.
        """
        resources = self._resources
        try:
            self._clients.call(
                "scheduler",
                "CreateSchedule",
                Name=schedule_name(message_id),
                GroupName=resources.schedule_group,
                ScheduleExpression=f"at({to_datetime(at):%Y-%m-%dT%H:%M:%S})",
                ScheduleExpressionTimezone="UTC",
                FlexibleTimeWindow={"Mode": "OFF"},
                ActionAfterCompletion="DELETE",
                Target={
                    "Arn": resources.queue_arn,
                    "RoleArn": resources.scheduler_role_arn,
                    "Input": body.replace("<", "\\u003c"),  # AWS fills in what looks like <aws.scheduler.…>
                    "RetryPolicy": _RETRY,
                },
            )
        except StoreError as error:
            if code_behind(error) != "ConflictException":  # it is there already: the same message, sent again
                raise

    def delete(self, message_id: str) -> None:
        """Delete the schedule of a message. One request. That there is none is no error."""
        try:
            self._clients.call(
                "scheduler",
                "DeleteSchedule",
                Name=schedule_name(message_id),
                GroupName=self._resources.schedule_group,
            )
        except ConfigurationError as error:
            if code_behind(error) != "ResourceNotFoundException":
                raise


def schedule_name(message_id: str) -> str:
    """At most 64 letters, digits and ``-``: the same message has the same."""
    return "everstep-" + hashlib.sha256(message_id.encode("utf-8", "backslashreplace")).hexdigest()[:48]
