"""What Lambda says about the invocation, and how long it lets a step run."""

from __future__ import annotations

import math
from typing import Final, Protocol

from everstep.runtime.execute import TimeLeft

MARGIN_SHARE: Final = 0.1
SHORTEST_MARGIN: Final = 0.5
LONGEST_MARGIN: Final = 5.0


class LambdaContext(Protocol):
    """The part of Lambda's context object that is used here.

    https://docs.aws.amazon.com/lambda/latest/dg/python-context.html
    """

    @property
    def aws_request_id(self) -> str: ...

    def get_remaining_time_in_millis(self) -> int: ...


class Invocation:
    """One invocation of a function; made when it begins.

    A step gets what is left of the function's timeout, less a margin in which its outcome is encoded and written: a
    tenth of the timeout, at least half a second and at most five.
    """

    def __init__(self, context: LambdaContext) -> None:
        self.request_id = context.aws_request_id
        self._context = context
        # Lambda does not tell the timeout. It is in whole seconds, and hardly any of it has passed.
        self.timeout = math.ceil(context.get_remaining_time_in_millis() / 1000)
        self._margin = min(max(self.timeout * MARGIN_SHARE, SHORTEST_MARGIN), LONGEST_MARGIN)

    def time_left(self) -> TimeLeft:
        """What is left for a step."""
        seconds = self._context.get_remaining_time_in_millis() / 1000 - self._margin
        return TimeLeft(seconds=seconds, reason=f"the function's timeout of {self.timeout} s")
