"""Every kind of call that the backend makes of AWS while a run goes on, and which requests are of it.

An expression of JMESPath tells: microburst applies it to the body of a request, and tests to the parameters of a call.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import jmespath

from everstep.backends.aws.clients import Service
from tests.aws.faults.proxy import Rule


@dataclass(frozen=True, slots=True)
class Call:
    """A kind of call.

    Attributes:
        where: what holds for the body of its requests, if not all of the operation are of this kind.
        programs: which make such a call, and are tried with faults at it; the first one with all of them.
        hot: made by every run of a common kind. The others are tried with the worst faults only.
        after: another kind of call, which must have failed before: this one is made only when a message comes again.
        writes: it has an effect.
    """

    service: Service
    operation: str
    where: str | None
    programs: tuple[str, ...]
    after: str | None = None
    writes: bool = True
    hot: bool = True

    def rule(self, fault: Rule) -> Rule:
        """microburst's rule for such calls to fail so."""
        matching = {"service": self.service, "operation": self.operation}
        if self.where is not None:
            matching["body"] = self.where
        return {**matching, **fault}

    def made(self, operation: str, parameters: dict[str, Any]) -> bool:
        """Whether a call is of this kind."""
        return operation == self.operation and (self.where is None or bool(jmespath.search(self.where, parameters)))


def _put(where: str, *programs: str) -> Call:
    return Call("dynamodb", "PutItem", where, programs)


def _get(sk: str, *programs: str) -> Call:
    return Call("dynamodb", "GetItem", f"Key.sk.S == '{sk}'", programs, writes=False)


def _query(where: str, *programs: str, after: str | None = None) -> Call:
    return Call("dynamodb", "Query", where, programs, after=after, writes=False)


def _update(attribute: str, *programs: str) -> Call:
    return Call("dynamodb", "UpdateItem", f"contains(values(ExpressionAttributeNames), '{attribute}')", programs)


def _send(kind: str, *programs: str) -> Call:
    return Call("sqs", "SendMessageBatch", f'contains(Entries[0].MessageBody, \'"id":"{kind}/\')', programs)


_HOT: Final = {
    "find a run by its key": _get("zrun", "steady"),
    "send a start": _send("start", "generations"),
    "create a run": _put("Item.sk.S == 'zrun'", "generations"),
    "load a run": _query("contains(KeyConditionExpression, '>= :first') && !ProjectionExpression", "fan_out", "pair"),
    "append a turn": _put("starts_with(Item.sk.S, 'turn#')", "steady", "fan_out", "pair", "generations"),
    "send a step": _send("step", "steady", "in_time"),
    "record a failed attempt": _put("starts_with(Item.sk.S, 'failed#')", "steady"),
    "read the failed attempts": _query("contains(KeyConditionExpression, ':prefix')", "steady", after="send a step"),
    "claim an attempt": _put("starts_with(Item.sk.S, 'claim#')", "once"),
    "deposit an outcome": _put("starts_with(Item.sk.S, 'zin#')", "fan_out", "pair"),
    "raise the flag": _put("Item.sk.S == 'flag' && Item.raised_at", "fan_out"),
    "send a wake-up": _send("advance", "fan_out"),
    "lower the flag": _put("Item.sk.S == 'flag' && Item.lowered_at", "fan_out"),
    "remove an inbox entry": Call("dynamodb", "DeleteItem", "starts_with(Key.sk.S, 'zin#')", ("pair",)),
    "remove inbox entries": Call("dynamodb", "BatchWriteItem", None, ("fan_out",)),
    "send a timer": _send("timer", "naps", "long_nap"),
    "create a schedule": Call("scheduler", "CreateSchedule", None, ("long_nap", "in_time")),
    "delete a schedule": Call("scheduler", "DeleteSchedule", None, ("in_time",)),
    "put an object": Call("s3", "PutObject", None, ("large",)),
    "get an object": Call("s3", "GetObject", None, ("large",), writes=False),
    "close a run": _update("completed", "generations", "fan_out"),
    "list what is to expire": _query("contains(KeyConditionExpression, '>= :first') && ProjectionExpression", "kept"),
    "let an item expire": _update("expires_at", "kept"),
}
_OTHERS: Final = {
    "claim a token": _put("Item.sk.S == 'hook'", "hooked"),
    "find a token": _get("hook", "hooked"),
    "release a token": Call("dynamodb", "DeleteItem", "Key.sk.S == 'hook'", ("hooked",)),
    "change the attributes": _update("attributes_turn", "talkative"),
    "publish a value": _put("starts_with(Item.sk.S, 'pub#')", "talkative"),
    "list a stream": _put("starts_with(Item.sk.S, 'stream#')", "talkative"),
    "enter a stream": _put("starts_with(Item.sk.S, 'step#')", "talkative"),
    "write to a stream": _put("starts_with(Item.sk.S, '0')", "talkative"),
    "find the end of a stream": _query("contains(KeyConditionExpression, 'BETWEEN')", "talkative"),
}
CALLS: Final = _HOT | {name: replace(call, hot=False) for name, call in _OTHERS.items()}


def kinds_of(operation: str, parameters: dict[str, Any]) -> list[str]:
    """What kinds of call this is: one, if the list is right."""
    return [name for name, call in CALLS.items() if call.made(operation, parameters)]
