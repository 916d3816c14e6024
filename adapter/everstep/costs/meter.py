"""The cost meter: watches botocore clients and adds up what AWS would bill, by AWS's rules, from real sizes.

It hooks the clients' events, so the code under measurement is the real one. Emulators report made-up capacity; so sizes
before and after a write are looked up in the table itself, by calls that are not counted. Under concurrent writes to
one item such a look-up may see a neighbour's version: the figures are then off by the difference in size.

Every attempt counts, retries by the SDK too. One that was throttled or met a fault of the service is not billed; one
that got no answer at all is billed as if it had succeeded, since it may have.
"""

from __future__ import annotations

import math
import re
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from everstep.costs.prices import MILLION, PRICES, Price, bill
from everstep.costs.units import (
    Index,
    Item,
    item_size,
    read_units,
    table_and_index_units,
    write_units,
)

Tally: TypeAlias = "defaultdict[str, float]"

SQS_CHUNK: Final = 64 * 1024
_RUN: Final = re.compile(r"run#(.+)")
_KEY: Final = "everstep_meter"
_NOT_BILLED: Final = re.compile(r"Thrott|ProvisionedThroughputExceeded|RequestLimitExceeded|SlowDown")
_REFUSED: Final = "ConditionalCheckFailedException"
_EXPRESSIONS: Final = ("KeyConditionExpression", "UpdateExpression", "ConditionExpression")


@dataclass(frozen=True, slots=True)
class Usage:
    """What was asked of AWS.

    Attributes:
        requests: attempts by operation, such as ``dynamodb:PutItem``.
        quantities: by names of the price book, such as ``dynamodb.write``.
        writes_by_run: write units of items of each run, indexes included.
        details: write units by what they were for: ``table``, ``index``, ``refused`` (also within ``table``); and
            ``messages`` that were sent, with ``more chunks`` of 64 KB than one each.
    """

    requests: Tally = field(default_factory=lambda: defaultdict(float))
    quantities: Tally = field(default_factory=lambda: defaultdict(float))
    writes_by_run: Tally = field(default_factory=lambda: defaultdict(float))
    details: Tally = field(default_factory=lambda: defaultdict(float))

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(*(_minus(mine, theirs) for mine, theirs in zip(self._parts(), earlier._parts(), strict=True)))

    def _parts(self) -> tuple[Tally, Tally, Tally, Tally]:
        return (self.requests, self.quantities, self.writes_by_run, self.details)

    def polled(self, *, batch_size: int = 1) -> Usage:
        """With what Lambda's pollers are billed for the messages sent: a receive and a delete for each batch.

        A receive is billed by its 64 KB chunks too, a delete is one request. Empty receives of an idle queue are left
        out, since they do not depend on the number of steps, and so are messages that schedules send.
        """
        batches = math.ceil(self.details.get("messages", 0) / batch_size)
        quantities = self.quantities.copy()
        quantities["sqs.request"] += 2 * batches + self.details.get("more chunks", 0)
        return Usage(self.requests, quantities, self.writes_by_run, self.details)

    def invoked(self, count: int, *, milliseconds: float, memory_mb: int, architecture: str = "arm64") -> Usage:
        """With invocations of a function, which no client sees. `milliseconds` are billed ones, of all together."""
        quantities = self.quantities.copy()
        quantities["lambda.request"] += count
        quantities[f"lambda.{architecture}"] += milliseconds / 1000 * memory_mb / 1024
        return Usage(self.requests, quantities, self.writes_by_run, self.details)

    def dollars(self, prices: Mapping[str, Price] = PRICES) -> dict[str, float]:
        return bill(self.quantities, prices)

    def dollars_per_million(self, steps: int, prices: Mapping[str, Price] = PRICES) -> float:
        """Dollars for a million steps like the `steps` of this usage."""
        return sum(self.dollars(prices).values()) / steps * MILLION

    def report(self, *, runs: int, steps: int, prices: Mapping[str, Price] = PRICES) -> str:
        """A table for people: what was used, by run and by step, and what a million steps would cost."""
        dollars = self.dollars(prices)
        lines = [f"{'':28}{'in all':>12}{'per run':>12}{'per step':>12}{'$/M steps':>12}"]
        for name, quantity in sorted(self.quantities.items()):
            cost = dollars.get(name, 0.0) / steps * MILLION
            lines.append(f"{name:28}{quantity:>12,.6g}{quantity / runs:>12,.4g}{quantity / steps:>12,.4g}{cost:>12.3f}")
        lines.append(f"{'':64}{self.dollars_per_million(steps, prices):>12.3f}")
        lines += [f"{name:28}{count:>12,.0f}" for name, count in sorted(self.requests.items())]
        return "\n".join(lines)


def _minus(mine: Tally, theirs: Tally) -> Tally:
    left = {name: count - theirs.get(name, 0) for name, count in mine.items()}
    return defaultdict(float, {name: count for name, count in left.items() if count})


INDEXES: Final = (
    Index(name="runs-by-day", keys=("list_pk", "list_sk"), table_keys=("pk", "sk")),
    Index(name="parked-runs", keys=("parked_pk", "parked_sk"), table_keys=("pk", "sk")),
)
"""The table's indexes, as the template defines them (a test compares)."""


class CostMeter:
    """Counts what the clients it is attached to do. Thread-safe.

    Args:
        indexes: the table's indexes.
    """

    def __init__(self, indexes: Sequence[Index] = INDEXES) -> None:
        self._indexes = tuple(indexes)
        self._usage = Usage()
        self._lock = threading.Lock()
        self._muted = threading.local()

    def attach(self, client: Any) -> None:
        """Watch a client of boto3 or botocore. Calls that are under way are not counted."""
        service = client.meta.service_model.service_id.hyphenize()
        name = client.meta.service_model.service_name
        if name not in ("dynamodb", "sqs", "scheduler", "s3"):
            raise ValueError(f"{name} is not metered")

        def before(params: Any, model: Any, context: dict[str, Any], **_: Any) -> None:
            if not self._is_muted():
                self._before(client, model.name, params, context)

        def after(context: dict[str, Any], parsed_response: Any, exception: Any, **_: Any) -> None:
            if not self._is_muted() and _KEY in context:
                self._after(client, name, context[_KEY], parsed_response, exception)

        client.meta.events.register_last(f"before-parameter-build.{service}", before)
        client.meta.events.register_last(f"response-received.{service}", after)

    def usage(self) -> Usage:
        """What was used so far. Take the difference of two to measure what lies between them."""
        with self._lock:
            return Usage(*(part.copy() for part in self._usage._parts()))

    # --- events ----------------------------------------------------------------------------------

    def _before(self, client: Any, operation: str, params: Any, context: dict[str, Any]) -> None:
        # S3 bodies may be streams, which are not kept.
        kept = {key: value for key, value in params.items() if key != "Body"}
        call = _Call(operation, kept, [])
        if operation in ("UpdateItem", "DeleteItem", "PutItem") and not _puts_new(params):
            call.before.append(self._look_up(client, params["TableName"], _key_of(params)))
        elif operation == "BatchWriteItem":
            for table, request in _batch(params):
                call.before.append(self._look_up(client, table, _key_of_batched(request)))
        elif operation == "TransactWriteItems":
            for action in _actions(params):
                call.before.append(self._look_up(client, action["TableName"], _key_of(action)))
        context[_KEY] = call

    def _after(self, client: Any, service: str, call: _Call, answer: Any, exception: Any) -> None:
        counts = _Counts(Usage())
        counts.usage.requests[f"{service}:{call.operation}"] += 1
        error = _error_of(answer)
        status = (answer or {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 200)
        if not (_NOT_BILLED.search(error) or status >= 500):
            match service:
                case "dynamodb":
                    self._dynamodb(client, call, answer if exception is None else None, error, counts)
                case "sqs":
                    _sqs(call, answer, counts)
                case "scheduler":
                    if call.operation == "CreateSchedule" and not error:
                        counts.add("scheduler.invocation")
                case _:
                    kind = "s3.get" if call.operation in ("GetObject", "HeadObject") else "s3.put"
                    if call.operation not in ("DeleteObject", "DeleteObjects"):  # free
                        counts.add(kind)
        with self._lock:
            for mine, theirs in zip(self._usage._parts(), counts.usage._parts(), strict=True):
                for what, count in theirs.items():
                    mine[what] += count

    # --- DynamoDB --------------------------------------------------------------------------------

    def _dynamodb(self, client: Any, call: _Call, answer: Any, error: str, counts: _Counts) -> None:
        params = call.params
        match call.operation:
            case "PutItem" | "UpdateItem" | "DeleteItem":
                before = call.before[0] if call.before else None
                if error == _REFUSED:
                    stored = (answer or {}).get("Item") or before
                    stored = stored or self._look_up(client, params["TableName"], _key_of(params))
                    counts.write(_key_of(params), write_units(item_size(stored or {})), 0, refused=True)
                elif not error:
                    counts.write(_key_of(params), *self._written(client, params, before))
            case "BatchWriteItem" if not error:
                left = [request for _, request in _batch({"RequestItems": (answer or {}).get("UnprocessedItems", {})})]
                for (_, request), before in zip(_batch(params), call.before, strict=True):
                    if request not in left:
                        after = request["PutRequest"]["Item"] if "PutRequest" in request else None
                        units = table_and_index_units(self._indexes, before, after)
                        counts.write(_key_of_batched(request), *units)
            case "TransactWriteItems":
                # A cancelled transaction is billed like one that went through.
                for action, before in zip(_actions(params), call.before, strict=True):
                    counts.write(_key_of(action), *self._written(client, action, before, transactional=True))
            case "GetItem" if not error:
                item = (answer or {}).get("Item")
                if item is not None and "ProjectionExpression" in params:
                    item = self._look_up(client, params["TableName"], params["Key"])
                counts.read(read_units(item_size(item or {}), consistent=bool(params.get("ConsistentRead"))))
            case "BatchGetItem" if not error:
                self._batch_get(client, params, answer or {}, counts)
            case "Query" | "Scan" if not error:
                size = self._looked_at(client, call.operation, params, answer or {})
                counts.read(read_units(size, consistent=bool(params.get("ConsistentRead"))))
            case "TransactGetItems" if not error:
                for each in (answer or {}).get("Responses", ()):
                    counts.read(read_units(item_size(each.get("Item", {})), consistent=True, transactional=True))
            case _:
                pass

    def _written(
        self, client: Any, params: Mapping[str, Any], before: Item | None, *, transactional: bool = False
    ) -> tuple[int, int]:
        if "Item" in params:
            after: Item | None = params["Item"]
        elif "UpdateExpression" in params or "AttributeUpdates" in params:
            after = self._look_up(client, params["TableName"], params["Key"])
        elif "Key" in params and "ConditionExpression" in params and transactional:
            after = before  # a condition check, or a conditional delete: billed on what is there
        else:
            after = None
        return table_and_index_units(self._indexes, before, after, transactional=transactional)

    def _batch_get(self, client: Any, params: Mapping[str, Any], answer: Mapping[str, Any], counts: _Counts) -> None:
        for table, asked in params["RequestItems"].items():
            consistent = bool(asked.get("ConsistentRead"))
            found = answer.get("Responses", {}).get(table, [])
            if "ProjectionExpression" in asked:
                found = [item for key in asked["Keys"] if (item := self._look_up(client, table, key)) is not None]
            left = len(answer.get("UnprocessedKeys", {}).get(table, {}).get("Keys", ()))
            for item in found:
                counts.read(read_units(item_size(item), consistent=consistent))
            for _ in range(len(asked["Keys"]) - left - len(found)):
                counts.read(read_units(0, consistent=consistent))

    def _looked_at(self, client: Any, operation: str, params: dict[str, Any], answer: Mapping[str, Any]) -> int:
        """Bytes that a query or scan read, which is more than it returned if it filtered or projected."""
        items = answer.get("Items", [])
        if {"ProjectionExpression", "FilterExpression", "Select"} & set(params):
            whole = {
                key: value
                for key, value in params.items()
                if key not in ("ProjectionExpression", "FilterExpression", "Select")
            }
            _drop_unused(whole)
            with self._mute():
                items = getattr(client, operation.lower())(**whole).get("Items", [])
        return sum(item_size(item) for item in items)

    # --- looking things up -----------------------------------------------------------------------

    def _look_up(self, client: Any, table: str, key: Item) -> Item | None:
        keys = {name: key[name] for name in self._table_keys() if name in key}
        with self._mute():
            found: Item | None = client.get_item(TableName=table, Key=keys, ConsistentRead=True).get("Item")
        return found

    def _table_keys(self) -> tuple[str, ...]:
        return self._indexes[0].table_keys if self._indexes else ("pk", "sk")

    @contextmanager
    def _mute(self) -> Iterator[None]:
        self._muted.on = True
        try:
            yield
        finally:
            self._muted.on = False

    def _is_muted(self) -> bool:
        return bool(getattr(self._muted, "on", False))


@dataclass(frozen=True, slots=True)
class _Call:
    """A call under way, and the items as they were before it (in the order of its writes)."""

    operation: str
    params: dict[str, Any]
    before: list[Item | None]


@dataclass(frozen=True, slots=True)
class _Counts:
    """What one attempt adds."""

    usage: Usage

    def add(self, name: str, quantity: float = 1) -> None:
        self.usage.quantities[name] += quantity

    def write(self, key: Item, table: int, indexes: int, *, refused: bool = False) -> None:
        self.add("dynamodb.write", table + indexes)
        self.usage.details["table"] += table
        self.usage.details["index"] += indexes
        if refused:
            self.usage.details["refused"] += table
        found = _RUN.match(str(key.get("pk", {}).get("S", "")))
        if found:
            self.usage.writes_by_run[found[1]] += table + indexes

    def read(self, units: float) -> None:
        self.add("dynamodb.read", units)


def _sqs(call: _Call, answer: Any, counts: _Counts) -> None:
    params = call.params
    match call.operation:
        case "SendMessage":
            sent = [params]
            size = _sent_size(params)
        case "SendMessageBatch":
            failed = {each["Id"] for each in (answer or {}).get("Failed", ())}
            sent = [each for each in params["Entries"] if each["Id"] not in failed]
            size = sum(map(_sent_size, params["Entries"]))
        case "ReceiveMessage":
            messages = (answer or {}).get("Messages", ())
            sent, size = [], sum(message_size(each["Body"], each.get("MessageAttributes", {})) for each in messages)
        case _:
            sent, size = [], 0
    counts.usage.details["messages"] += len(sent)
    counts.usage.details["more chunks"] += sum(sqs_requests(_sent_size(each)) - 1 for each in sent)
    counts.add("sqs.request", sqs_requests(size))


def _sent_size(entry: Mapping[str, Any]) -> int:
    return message_size(entry["MessageBody"], entry.get("MessageAttributes", {}))


def sqs_requests(size: int) -> int:
    """Billed requests for one call with a payload of this many bytes, all messages of a batch together."""
    return max(1, math.ceil(size / SQS_CHUNK))


def message_size(body: str, attributes: Mapping[str, Mapping[str, Any]]) -> int:
    """Bytes of a message: body, and names, types and values of its attributes."""
    size = len(body.encode())
    for name, value in attributes.items():
        content = value.get("BinaryValue", value.get("StringValue", ""))
        size += len(name.encode()) + len(value["DataType"].encode())
        size += len(content.encode() if isinstance(content, str) else content)
    return size


def _error_of(answer: Any) -> str:
    return str((answer or {}).get("Error", {}).get("Code", "")).rpartition("#")[2]


def _puts_new(params: Mapping[str, Any]) -> bool:
    """Whether this is a put that succeeds only where nothing is, so that nothing need be looked up before it."""
    condition = str(params.get("ConditionExpression", ""))
    return "Item" in params and bool(re.fullmatch(r"\s*attribute_not_exists\s*\(\s*#?(pk|sk)\s*\)\s*", condition))


def _key_of(params: Mapping[str, Any]) -> Item:
    key: Item = params["Key"] if "Key" in params else params["Item"]
    return key


def _key_of_batched(request: Mapping[str, Any]) -> Item:
    (inner,) = request.values()
    return _key_of(inner)


def _batch(params: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(table, request) for table, requests in params["RequestItems"].items() for request in requests]


def _actions(params: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [action for each in params["TransactItems"] for action in each.values()]


def _drop_unused(params: dict[str, Any]) -> None:
    """DynamoDB refuses names and values that no expression uses."""
    used = " ".join(str(params.get(name, "")) for name in _EXPRESSIONS)
    words = set(re.findall(r"[#:]\w+", used))
    for part in ("ExpressionAttributeNames", "ExpressionAttributeValues"):
        if part in params:
            params[part] = {name: value for name, value in params[part].items() if name in words}
            if not params[part]:
                del params[part]
