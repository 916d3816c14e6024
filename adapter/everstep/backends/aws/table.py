"""Requests to the table.

Costs are in write and read request units (WRU, RRU): a write costs 1 WRU for each KB of its item, begun; a strongly
consistent read 1 RRU for each 4 KB, an eventually consistent one half. A refused conditional write costs what a write
does. (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html)
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from everstep.backends.aws.clients import AwsClients
from everstep.backends.aws.failures import RefusedError
from everstep.backends.aws.items import PARTITION, Item, Value
from everstep.backends.aws.resources import EXPIRES_AT
from everstep.errors import StoreBusyError

_DELETED_AT_ONCE: Final = 25
_READ_AT_ONCE: Final = 100
_TRIES: Final = 6
_FIRST_WAIT: Final = 0.05  # seconds; doubled each time


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why an item was not stored.

    Attributes:
        item: what is there; empty if it has gone meanwhile.
        repeated: an earlier try of the same request may have stored it.
    """

    item: Item
    repeated: bool


@final
class DynamoTable:
    """The table, with the few requests this backend makes of it."""

    def __init__(self, clients: AwsClients, name: str) -> None:
        self._clients = clients
        self._name = name

    # --- writing -----------------------------------------------------------------------------------

    def put(self, item: Item) -> None:
        """Store the item, whatever is there. One request, 1 WRU for each KB."""
        self._clients.call("dynamodb", "PutItem", TableName=self._name, Item=item)

    def put_new(self, item: Item) -> Refusal | None:
        """Store the item if there is none with its key: None. Otherwise what is there. One request, 1 WRU for each KB.

        What is there comes with the refusal and costs nothing. Only if a server does not send it, it is read.
        """
        return self.put_if(item, "attribute_not_exists(pk)", {})

    def put_if(self, item: Item, condition: str, values: dict[str, Value], **names: str) -> Refusal | None:
        """Store the item if the condition holds for the one that is there: None. Otherwise what is there.

        Args:
            names: what ``#name`` stands for in the condition.
        """
        parameters: dict[str, Any] = {"ExpressionAttributeValues": values} if values else {}
        if names:
            parameters["ExpressionAttributeNames"] = {f"#{name}": value for name, value in names.items()}
        try:
            self._clients.call(
                "dynamodb",
                "PutItem",
                TableName=self._name,
                Item=item,
                ConditionExpression=condition,
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
                **parameters,
            )
        except RefusedError as refused:
            found = refused.item or self.get({name: item[name] for name in ("pk", "sk")}) or {}
            return Refusal(item=found, repeated=refused.repeated)
        return None

    def update_if(
        self, item_key: Item, expression: str, condition: str, names: dict[str, str], values: dict[str, Value]
    ) -> bool:
        """Change an item if the condition holds; say whether it does. One request, 1 WRU for each KB of the item."""
        parameters: dict[str, Any] = {"ExpressionAttributeValues": values} if values else {}
        try:
            self._clients.call(
                "dynamodb",
                "UpdateItem",
                TableName=self._name,
                Key=item_key,
                UpdateExpression=expression,
                ConditionExpression=condition,
                ExpressionAttributeNames=names,
                **parameters,
            )
        except RefusedError:
            return False
        return True

    def expire(self, item_key: Item, at: int) -> None:
        """Let an item expire at this time (seconds since the epoch), if it exists. 1 WRU for each KB of it."""
        expression, condition = "SET #expires = :at", "attribute_exists(pk)"
        self.update_if(item_key, expression, condition, {"#expires": EXPIRES_AT}, {":at": {"N": str(at)}})

    def delete(self, keys: Sequence[Item]) -> None:
        """Delete these items, which must differ. 1 WRU each (for each KB); one request for 25 of them."""
        if len(keys) == 1:
            self._clients.call("dynamodb", "DeleteItem", TableName=self._name, Key=keys[0])
            return
        for begin in range(0, len(keys), _DELETED_AT_ONCE):
            left = [{"DeleteRequest": {"Key": each}} for each in keys[begin : begin + _DELETED_AT_ONCE]]
            for wait in _waits("some entries of a run were not removed"):
                answer = self._clients.call("dynamodb", "BatchWriteItem", RequestItems={self._name: left})
                left = answer.get("UnprocessedItems", {}).get(self._name, [])
                if not left:
                    break
                time.sleep(wait)

    def delete_if(self, item_key: Item, condition: str, values: dict[str, Value], **names: str) -> bool:
        """Delete an item if the condition holds; say whether it does. One request, 1 WRU for each KB of the item."""
        try:
            self._clients.call(
                "dynamodb",
                "DeleteItem",
                TableName=self._name,
                Key=item_key,
                ConditionExpression=condition,
                ExpressionAttributeValues=values,
                ExpressionAttributeNames={f"#{name}": value for name, value in names.items()},
            )
        except RefusedError:
            return False
        return True

    # --- reading -----------------------------------------------------------------------------------

    def get(self, item_key: Item, *, only: Sequence[str] = ()) -> Item | None:
        """Read an item, strongly consistent; only these attributes (which does not make it cheaper)."""
        parameters = _projection(only)
        answer = self._clients.call(
            "dynamodb", "GetItem", TableName=self._name, Key=item_key, ConsistentRead=True, **parameters
        )
        item: Item | None = answer.get("Item")
        return item

    def get_many(self, keys: Sequence[Item], *, only: Sequence[str] = ()) -> list[Item]:
        """Read these items, eventually consistent, in no order. One request for 100 of them, ½ RRU each (for 4 KB)."""
        found: list[Item] = []
        for begin in range(0, len(keys), _READ_AT_ONCE):
            left: dict[str, Any] = {self._name: {"Keys": keys[begin : begin + _READ_AT_ONCE], **_projection(only)}}
            for wait in _waits("some runs of a list were not read"):
                answer = self._clients.call("dynamodb", "BatchGetItem", RequestItems=left)
                found += answer.get("Responses", {}).get(self._name, [])
                left = answer.get("UnprocessedKeys", {})
                if not left:
                    break
                time.sleep(wait)
        return found

    def query_run(
        self, run_id: str, condition: str, values: dict[str, Value], *, only: Sequence[str] = ()
    ) -> Iterator[Item]:
        """The items of a run whose sort key fits, in order, strongly consistent.

        One request for each MB. The sizes of the items are added up before they are rounded up to 4 KB.
        """
        yield from self.query_partition(PARTITION + run_id, condition, values, only=only)

    def query_partition(
        self,
        pk: str,
        condition: str,
        values: dict[str, Value],
        *,
        only: Sequence[str] = (),
        page: int | None = None,
        backward: bool = False,
    ) -> Iterator[Item]:
        """As `query_run`, for any partition: `page` items in a request, as they are asked for."""
        yield from self._query(
            KeyConditionExpression=f"pk = :pk AND {condition}",
            ExpressionAttributeValues={":pk": {"S": pk}, **values},
            ConsistentRead=True,
            ScanIndexForward=not backward,
            **({} if page is None else {"Limit": page}),
            **_projection(only),
        )

    def query_index(
        self, index: str, condition: str, values: dict[str, Value], *, newest_first: bool, page: int
    ) -> Iterator[Item]:
        """Keys from an index, `page` of them in a request, as they are asked for. ½ RRU for about 30 keys."""
        yield from self._query(
            IndexName=index,
            KeyConditionExpression=condition,
            ExpressionAttributeValues=values,
            ScanIndexForward=not newest_first,
            Limit=page,
        )

    def whole_index(self, index: str, most: int) -> list[Item] | None:
        """All keys of an index if there are no more than `most`, else None. One request, ½ RRU for about 30 of them."""
        answer = self._clients.call("dynamodb", "Scan", TableName=self._name, IndexName=index, Limit=most)
        found: list[Item] = answer.get("Items", [])
        return None if answer.get("LastEvaluatedKey") else found

    def _query(self, **parameters: Any) -> Iterator[Item]:
        while True:
            answer = self._clients.call("dynamodb", "Query", TableName=self._name, **parameters)
            yield from answer.get("Items", [])
            following = answer.get("LastEvaluatedKey")
            if not following:
                return
            parameters["ExclusiveStartKey"] = following


def _projection(only: Sequence[str]) -> dict[str, Any]:
    if not only:
        return {}
    names = {f"#{number}": name for number, name in enumerate(only)}
    return {"ProjectionExpression": ", ".join(names), "ExpressionAttributeNames": names}


def _waits(what: str) -> Iterator[float]:
    """How long to wait after each try, in seconds; after the last one a `StoreBusyError`."""
    for number in range(_TRIES):
        yield _FIRST_WAIT * 2**number
    raise StoreBusyError(f"the table is throttled: {what}. The same call may succeed later.")
