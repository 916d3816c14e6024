"""Lists and whole runs in DynamoDB, for people.

A list reads keys from the index, newest first, and then the records of those keys; conditions other than time are
applied to the records. A small table (up to 1,000 runs) is listed from one Scan of the index. A larger one is walked
day by day, four Queries a day, and the work of a page is bounded: a page that found little may be short and still have
a cursor. Where the query gives no ``created_from``, a walk ends when 62 days in a row have no run.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Final, NamedTuple, final

from everstep.backends.aws import run_items
from everstep.backends.aws.blobs import S3Blobs
from everstep.backends.aws.items import (
    PARTITION,
    PUBLISHED,
    RECORD,
    SHARDS,
    TURNS,
    Item,
    build_mark,
    day_of,
    day_partition,
    key,
    moment,
    number_in,
    parked_partition,
    s,
    turn_key,
)
from everstep.backends.aws.resources import PARKED_RUNS, RUNS_BY_DAY
from everstep.backends.aws.run_store import StartTimes
from everstep.backends.aws.table import DynamoTable
from everstep.backends.paging import check_limit, from_cursor, to_cursor
from everstep.codec.envelope import unseal
from everstep.codec.records import decode_turn
from everstep.core.durations import to_micros
from everstep.core.history import Micros, Turn
from everstep.core.run import RunRecord
from everstep.ports import Clock, RunPage, RunQuery

FEW: Final = 1000
"""Runs of a small table. Reading their keys is one request of about 16 RRU."""
EMPTY_DAYS: Final = 62
"""After so many days without a run a list without ``created_from`` ends."""
MOST_WORK: Final = 3000
"""Of a page: keys, and for each day `_DAY_WORK`."""
_DAY_WORK: Final = 20
_AT_ONCE: Final = 100
_AHEAD: Final = timedelta(days=1)  # a run may have been created by a clock that is ahead of ours


class _Position(NamedTuple):
    """A run in the order of lists; with an empty id, the beginning of a day."""

    created_at: Micros
    run_id: str


@final
class DynamoInspector:
    """Implements `everstep.ports.Inspector`. Lists are eventually consistent; what is asked of one run is not."""

    def __init__(self, table: DynamoTable, blobs: S3Blobs, starts: StartTimes, clock: Clock) -> None:
        self._table = table
        self._blobs = blobs
        self._starts = starts
        self._clock = clock
        self._many = False

    def get_run(self, run_id: str) -> RunRecord | None:
        """As the port says. One GetItem (1 RRU for each 4 KB); two while it is open, until this process saw turn 0."""
        item = self._table.get(key(run_id, RECORD))
        if item is None:
            return None
        started_at = number_in(item, "started") or self._starts.get(run_id)
        if started_at is None:
            first = self._table.get(key(run_id, turn_key(0)), only=["at"])
            if first is not None:
                started_at = int(first["at"]["N"])
                self._starts.remember(run_id, started_at)
        return run_items.from_item(item, self._blobs, started_at)

    def history(self, run_id: str) -> Sequence[Turn]:
        """As the port says. One Query for each MB, 1 RRU for each 4 KB."""
        found = self._table.query_run(run_id, "begins_with(sk, :prefix)", {":prefix": s(TURNS)})
        return [decode_turn(self._blobs.held(item["body"])) for item in found]

    def published(self, run_id: str) -> Mapping[str, bytes]:
        """As the port says. One Query, 1 RRU for each 4 KB."""
        found = self._table.query_run(run_id, "begins_with(sk, :prefix)", {":prefix": s(PUBLISHED)})
        return {str(item["name"]["S"]): unseal(self._blobs.held(item["value"])) for item in found}

    # --- lists -----------------------------------------------------------------------------------

    def list_runs(self, query: RunQuery) -> RunPage:
        """As the port says, but that a page may be short and still have a cursor."""
        check_limit(query.limit)
        before = None if query.cursor is None else _Position(*from_cursor(query.cursor))
        plain = query.workflow is None and query.status is None and not query.attributes
        found: list[RunRecord] = []
        positions = self._positions(query, before)
        work = 0
        while len(found) <= query.limit:
            wanted = min(_AT_ONCE, query.limit + 1 - len(found)) if plain else _AT_ONCE
            taken = list(islice(positions, wanted))
            if not taken:
                return RunPage(runs=found, cursor=None)
            found += self._matching([position.run_id for position in taken if position.run_id], query)
            work += sum(1 if position.run_id else _DAY_WORK for position in taken)
            if work >= MOST_WORK and len(found) <= query.limit:
                return RunPage(runs=found, cursor=to_cursor(*taken[-1]))
        page = found[: query.limit]
        return RunPage(runs=page, cursor=to_cursor(page[-1].created_at, page[-1].run_id))

    def _positions(self, query: RunQuery, before: _Position | None) -> Iterator[_Position]:
        """The runs of the query's time, newest first, and the beginnings of the days that were walked."""
        low = moment(query.created_from or 0)
        high = "9" if query.created_before is None else moment(query.created_before)
        if before is not None:
            high = min(high, f"{moment(before.created_at)}#{before.run_id}")
        if not self._many:
            keys = self._table.whole_index(RUNS_BY_DAY, FEW)
            if keys is not None:
                places = sorted((str(item["list_sk"]["S"]) for item in keys), reverse=True)
                yield from (_position(place) for place in places if low <= place < high)
                return
            self._many = True
        last = to_micros(day_of(self._clock.now()) + _AHEAD)
        ends = (query.created_before, None if before is None else before.created_at)
        last = min(last, *(end for end in ends if end is not None), last)
        day = day_of(last)
        empty = 0
        while query.created_from is not None or empty < EMPTY_DAYS:
            found = False
            for place in self._day(day, low, high):
                found = True
                yield _position(place)
            empty = 0 if found else empty + 1
            beginning = to_micros(day)
            if beginning <= (query.created_from or 0):
                return
            yield _Position(beginning, "")
            day -= timedelta(days=1)

    def _day(self, day: datetime, low: str, high: str) -> Iterator[str]:
        shards = [self._shard(day_partition(day, number), low, high) for number in range(SHARDS)]
        return heapq.merge(*shards, reverse=True)

    def _shard(self, place: str, low: str, high: str) -> Iterator[str]:
        items = self._table.query_index(
            RUNS_BY_DAY,
            "list_pk = :pk AND list_sk BETWEEN :low AND :high",
            {":pk": s(place), ":low": s(low), ":high": s(high)},
            newest_first=True,
            page=_AT_ONCE,
        )
        return (sk for item in items if (sk := str(item["list_sk"]["S"])) < high)

    def _matching(self, run_ids: list[str], query: RunQuery) -> list[RunRecord]:
        """The records of these runs that fit, in this order. What exists in the index only is left out."""
        items = {str(item["pk"]["S"]): item for item in self._table.get_many([key(each, RECORD) for each in run_ids])}
        chosen = {
            run_id: items[PARTITION + run_id]
            for run_id in run_ids
            if PARTITION + run_id in items and _may_match(items[PARTITION + run_id], query)
        }
        unknown = [
            run_id for run_id, item in chosen.items() if "started" not in item and self._starts.get(run_id) is None
        ]
        for first in self._table.get_many([key(run_id, turn_key(0)) for run_id in unknown], only=["pk", "at"]):
            self._starts.remember(str(first["pk"]["S"]).removeprefix(PARTITION), int(first["at"]["N"]))
        records = (run_items.from_item(item, self._blobs, self._starts.get(run_id)) for run_id, item in chosen.items())
        return [record for record in records if _matches(record, query)]

    # --- parked ----------------------------------------------------------------------------------

    def parked(self, *, not_by: str, limit: int = 100) -> Sequence[str]:
        """As the port says. Four Queries of keys, and more where many were parked by this build itself."""
        check_limit(limit)
        mark = build_mark(not_by)
        shards = [self._parked_shard(number) for number in range(SHARDS)]
        parts = (place.split("#") for place in heapq.merge(*shards))
        return list(islice((run_id for _, run_id, build in parts if build != mark), limit))

    def _parked_shard(self, number: int) -> Iterator[str]:
        items = self._table.query_index(
            PARKED_RUNS, "parked_pk = :pk", {":pk": s(parked_partition(number))}, newest_first=False, page=_AT_ONCE
        )
        return (str(item["parked_sk"]["S"]) for item in items)


def _position(place: str) -> _Position:
    created_at, _, run_id = place.partition("#")
    return _Position(int(created_at), run_id)


def _may_match(item: Item, query: RunQuery) -> bool:
    """Spares the look at turn 0 for runs of other workflows."""
    return query.workflow is None or item["workflow"]["S"] == query.workflow


def _matches(run: RunRecord, query: RunQuery) -> bool:
    return (
        (query.workflow is None or run.workflow == query.workflow)
        and (query.status is None or run.shown_status == query.status)
        and all(run.attributes.get(name) == value for name, value in query.attributes.items())
    )
