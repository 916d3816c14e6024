"""Streams in DynamoDB.

A stream is one partition, ``pk`` = ``stream#<run id>#<name>``:

======================= ========================================================================================
``sk``                  what
======================= ========================================================================================
``<12 digits>``         a record: its position
``step#<step id>``      where a step began to write, if its chunks are replaceable
======================= ========================================================================================

The run's own partition has an item ``stream#<name>`` for each, so that they are listed, and expire with the run.
Writing costs 1 WRU for each KB of a record, and 1 for a new stream; nothing for each chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final, final

from everstep.backends.aws.blobs import INLINE, S3Blobs
from everstep.backends.aws.items import STREAMS, Item, key, n, s
from everstep.backends.aws.resources import EXPIRES_AT
from everstep.backends.aws.table import DynamoTable
from everstep.core.streams import LAST_POSITION
from everstep.errors import StoreError
from everstep.ports import Clock, StreamRecord

_DAY: Final = 86_400
_LONGEST_RUN: Final = 2 * 365
"""Days. Where items expire at all, those of a run that does not close by then do so after this time and the retention.
"""


@final
class DynamoStreamStore:
    """Implements `everstep.ports.StreamStore`."""

    def __init__(self, table: DynamoTable, blobs: S3Blobs, clock: Clock, *, retention_days: int) -> None:
        self._table = table
        self._blobs = blobs
        self._clock = clock
        self._retention = retention_days

    def append(self, run_id: str, name: str, record: StreamRecord) -> bool:
        """As the port says. One request, 1 WRU for each KB, refused as well; the first of a stream one request more.

        The refusal brings the stored record, for nothing, so that a request repeated after its answer was lost is told
        from a lost race by the nonce.
        """
        if record.first > LAST_POSITION:
            raise StoreError(f"stream {name!r} of run {run_id!r} has more chunks than a stream can hold")
        if record.first == 0:  # before the record: a stream that has one is listed
            self._table.put(self._expiring(key(run_id, STREAMS + name)))
        item = self._expiring(_key(run_id, name, _at(record.first)) | {"nonce": s(record.nonce)})
        item["body"] = self._blobs.hold(run_id, "stream", record.body, inline=INLINE)
        refusal = self._table.put_new(item)
        return refusal is None or refusal.item.get("nonce") == item["nonce"]

    def read(self, run_id: str, name: str, *, first: int, limit: int) -> Sequence[StreamRecord]:
        """As the port says. One Query for each MB, 1 RRU for each 4 KB; 1 if there is nothing."""
        found = self._table.query_partition(
            _partition(run_id, name),
            "sk BETWEEN :first AND :last",
            {":first": s(_at(first)), ":last": s(_at(LAST_POSITION))},
            page=limit,
        )
        return [self._record(item) for item in islice(found, limit)]

    def find(self, run_id: str, name: str, position: int | None = None) -> StreamRecord | None:
        """As the port says. One Query, 1 RRU for each 4 KB of the record."""
        last = LAST_POSITION if position is None else position
        found = self._table.query_partition(
            _partition(run_id, name),
            "sk BETWEEN :first AND :last",
            {":first": s(_at(0)), ":last": s(_at(last))},
            page=1,
            backward=True,
        )
        return next((self._record(item) for item in found), None)

    def enter(self, run_id: str, name: str, step: str, position: int) -> int:
        """As the port says. One request, 1 WRU, refused as well."""
        refusal = self._table.put_new(self._expiring(_key(run_id, name, f"step#{step}") | {"first": n(position)}))
        return position if refusal is None else int(refusal.item["first"]["N"])

    def names(self, run_id: str) -> Sequence[str]:
        """As the port says. One Query, 1 RRU for about 50 streams."""
        found = self._table.query_run(run_id, "begins_with(sk, :prefix)", {":prefix": s(STREAMS)}, only=["sk"])
        return [str(item["sk"]["S"]).removeprefix(STREAMS) for item in found]

    def _record(self, item: Item) -> StreamRecord:
        return StreamRecord(
            first=int(item["sk"]["S"]), nonce=str(item["nonce"]["S"]), body=self._blobs.held(item["body"])
        )

    def _expiring(self, item: Item) -> Item:
        """With a time far ahead at which it expires, where items do. The closing of its run brings that forward."""
        if self._retention:
            seconds = self._clock.now() // 1_000_000 + (self._retention + _LONGEST_RUN) * _DAY
            item[EXPIRES_AT] = n(seconds)
        return item


def expire_stream(table: DynamoTable, run_id: str, name: str, at: int) -> None:
    """Let all items of a stream expire at this time (seconds). Reads the stream, and writes each of its items."""
    found = table.query_partition(_partition(run_id, name), "sk >= :first", {":first": s(" ")}, only=["sk"])
    for sk in [str(item["sk"]["S"]) for item in found]:
        table.expire(_key(run_id, name, sk), at)


def _partition(run_id: str, name: str) -> str:
    return f"stream#{run_id}#{name}"


def _key(run_id: str, name: str, sk: str) -> Item:
    return {"pk": s(_partition(run_id, name)), "sk": s(sk)}


def _at(position: int) -> str:
    return f"{min(max(position, 0), LAST_POSITION):012d}"
