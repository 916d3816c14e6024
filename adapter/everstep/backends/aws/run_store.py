"""Run records and histories in DynamoDB.

What a run costs here, for items up to 1 KB: create 2 WRU (the record, and its entry in the index of lists), each turn
1, close 1. Parking and unparking cost 2 each (the index of parked runs). A turn is the lock of the run: see `append`.
"""

from __future__ import annotations

from typing import Final, assert_never, final

from everstep.backends.aws import run_items
from everstep.backends.aws.blobs import INLINE, S3Blobs
from everstep.backends.aws.items import (
    INBOX,
    LAST_TURN,
    RECORD,
    STREAMS,
    Item,
    Value,
    key,
    n,
    number_in,
    parked_keys,
    published_key,
    s,
    turn_key,
    valid,
)
from everstep.backends.aws.resources import EXPIRES_AT
from everstep.backends.aws.stream_store import expire_stream
from everstep.backends.aws.table import DynamoTable
from everstep.codec.envelope import seal
from everstep.codec.records import decode_event, decode_turn, encode_turn
from everstep.core.history import Micros, Turn
from everstep.core.run import (
    AttributesSet,
    Closed,
    Parked,
    Paused,
    Published,
    RunChange,
    RunRecord,
    RunStatus,
    Started,
    Unparked,
    Unpaused,
)
from everstep.errors import StoreBusyError, StoreError
from everstep.ports import InboxEntry, Snapshot

_REMEMBERED: Final = 10_000
_DAY: Final = 86_400

_IS_OPEN: Final = "attribute_exists(pk) AND (attribute_not_exists(#status) OR #status IN (:pending, :running))"
_OPEN: Final[dict[str, Value]] = {":pending": s(RunStatus.PENDING.value), ":running": s(RunStatus.RUNNING.value)}


@final
class StartTimes:
    """When runs started, as far as this process has seen it. Only spares reads: a start time never changes."""

    def __init__(self) -> None:
        self._times: dict[str, Micros] = {}

    def remember(self, run_id: str, at: Micros) -> None:
        if len(self._times) >= _REMEMBERED:
            self._times.clear()
        self._times[run_id] = at

    def get(self, run_id: str) -> Micros | None:
        return self._times.get(run_id)


@final
class DynamoRunStore:
    """Implements `everstep.ports.RunStore`."""

    def __init__(self, table: DynamoTable, blobs: S3Blobs, starts: StartTimes, *, retention_days: int) -> None:
        self._table = table
        self._blobs = blobs
        self._starts = starts
        self._retention = retention_days * _DAY

    def create(self, run: RunRecord) -> bool:
        """As the port says. One request; 1 WRU for each KB, and 1 for the index; refused, 1.

        If the same record is there after the request was repeated, an earlier try of this call has stored it.
        """
        item = run_items.to_item(run, self._blobs)
        refusal = self._table.put_new(item)
        return refusal is None or (refusal.repeated and refusal.item == item)

    def load(self, run_id: str, *, first_turn: int = 0) -> Snapshot | None:
        """As the port says: one Query, strongly consistent, 1 RRU for each 4 KB of record, turns and inbox together.

        (One request for each MB; what is written while they are made may be seen or not, turns always without gaps.)
        That the run is running, and since when, is read off turn 0. Where `first_turn` leaves that out, it is known if
        this process has seen it, as whoever keeps a live instance has; if not, the record is as it is stored.

        Where closed runs expire, one that does not is seen to: whoever closed it did not come to that. (The message it
        was closed for comes again, and is looked up here.)
        """
        turns: list[Turn] = []
        inbox: list[tuple[Micros, str, Item]] = []
        record: Item | None = None
        for item in self._table.query_run(run_id, "sk >= :first", {":first": s(turn_key(first_turn))}):
            sk = str(item["sk"]["S"])
            if sk == RECORD:
                record = item
            elif sk.startswith(INBOX):
                inbox.append((number_in(item, "at") or 0, sk, item))
            else:
                turns.append(decode_turn(self._blobs.held(item["body"])))
        if record is None:
            return None
        if first_turn <= 0:
            started_at = turns[0].at if turns else None
            if started_at is not None:
                self._starts.remember(run_id, started_at)
        else:
            started_at = self._starts.get(run_id)
        run = run_items.from_item(record, self._blobs, started_at)
        if self._retention and run.completed_at is not None and EXPIRES_AT not in record:
            self._expire_left(run_id, run.completed_at)
        return Snapshot(
            run=run,
            turns=turns,
            inbox=[self._entry(item) for _, _, item in sorted(inbox, key=lambda each: each[:2])],
        )

    def append(self, run_id: str, turn: Turn) -> bool:
        """As the port says. One request; 1 WRU for each KB, refused as well.

        This is the lock of a run: put if there is no such turn. The refusal brings the stored turn, for nothing, so
        that a request repeated after its answer was lost is told from a lost race by the nonce.
        """
        if turn.number > LAST_TURN:
            raise StoreError(f"run {run_id!r} has {turn.number:,} turns, more than a history can hold: continue as new")
        body = self._blobs.hold(run_id, f"turn-{turn.number}", encode_turn(turn), inline=INLINE)
        nonce = valid(turn.nonce)
        item = key(run_id, turn_key(turn.number)) | {"at": n(turn.at), "nonce": s(nonce), "body": body}
        refusal = self._table.put_new(item)
        won = refusal is None or refusal.item.get("nonce") == item["nonce"]
        if won and turn.number == 0:
            self._starts.remember(run_id, turn.at)
        return won

    def mark(self, run_id: str, change: RunChange) -> None:
        """As the port says. One request and 1 WRU for each KB of the record; ``Started`` writes nothing.

        A run is running since turn 0, which is recorded before anybody marks the run as started.
        """
        match change:
            case Started():
                pass
            case Closed():
                self._close(run_id, change)
            case Parked(problem=problem):
                values = parked_keys(run_id, problem.at, problem.build)
                values["problem"] = run_items.problem_value(problem)
                self._update(run_id, values, [], _IS_OPEN, _OPEN)
            case Unparked():
                self._update(run_id, {}, ["problem", "parked_pk", "parked_sk"], "attribute_exists(#problem)", {})
            case Paused(at=at):
                condition = f"{_IS_OPEN} AND attribute_not_exists(#paused)"
                self._update(run_id, {"paused": n(at)}, [], condition, _OPEN)
            case Unpaused():
                self._update(run_id, {}, ["paused"], "attribute_exists(#paused)", {})
            case AttributesSet(turn=turn, attributes=attributes, first=first):
                values = {"attributes": run_items.attributes_value(attributes), "attributes_turn": n(turn)}
                values["first_attributes"] = run_items.attributes_value(first)
                later = "attribute_not_exists(#attributes_turn) OR #attributes_turn < :attributes_turn"
                self._update(run_id, values, [], f"attribute_exists(pk) AND ({later})", {})
            case Published():
                self._publish(run_id, change)
            case _:
                assert_never(change)

    def _close(self, run_id: str, closed: Closed) -> None:
        values = run_items.outcome(run_id, closed.result, closed.error, closed.continued_to, self._blobs)
        values |= {"status": s(closed.status.value), "completed": n(closed.at)}
        if closed.reason is not None:
            values["reason"] = s(valid(closed.reason))
        started_at = self._starts.get(run_id)
        if started_at is not None:  # spares readers of closed runs the look at turn 0
            values["started"] = n(started_at)
        self._update(run_id, values, ["problem", "parked_pk", "parked_sk", "paused"], _IS_OPEN, _OPEN)
        if self._retention:
            self._expire(run_id, closed.at)

    def _publish(self, run_id: str, change: Published) -> None:
        """1 WRU for each KB. Written by a turn of the run, so that the record is there, or will be."""
        item = key(run_id, published_key(change.name)) | {"name": s(valid(change.name)), "turn": n(change.turn)}
        item["value"] = self._blobs.hold(run_id, f"pub-{change.turn}", seal(change.value), inline=INLINE)
        self._table.put_if(item, "attribute_not_exists(pk) OR #turn < :turn", {":turn": n(change.turn)}, turn="turn")

    def _expire_left(self, run_id: str, closed_at: Micros) -> None:
        """As `_expire`, but whoever may only read goes on without."""
        try:
            self._expire(run_id, closed_at)
        except StoreBusyError:
            raise
        except StoreError:
            return

    def _expire(self, run_id: str, closed_at: Micros) -> None:
        """Let all items of a closed run expire, the record last, so that no history is ever left without its record.

        An identifier derived from an idempotency key may be used again, and must not meet the turns of its first life.
        """
        at = closed_at // 1_000_000 + self._retention
        names = [
            str(item["sk"]["S"])
            for item in self._table.query_run(run_id, "sk >= :first", {":first": s(" ")}, only=["sk"])
        ]
        for sk in names:  # in order: the record sorts last
            if sk.startswith(STREAMS):
                expire_stream(self._table, run_id, sk.removeprefix(STREAMS), at)
            later = 3 * _DAY if sk == RECORD else 0  # expired items are deleted within days
            self._table.expire(key(run_id, sk), at + later)

    def _update(
        self, run_id: str, values: dict[str, Value], removed: list[str], condition: str, tested: dict[str, Value]
    ) -> None:
        named = {f"#{name}": name for name in (*values, *removed)}
        if "#status" in condition:
            named["#status"] = "status"
        parts = []
        if values:
            parts.append("SET " + ", ".join(f"#{name} = :{name}" for name in values))
        if removed:
            parts.append("REMOVE " + ", ".join(f"#{name}" for name in removed))
        given = {f":{name}": value for name, value in values.items()} | tested
        self._table.update_if(key(run_id, RECORD), " ".join(parts), condition, named, given)

    def _entry(self, item: Item) -> InboxEntry:
        stored = item.get("key")
        entry_key = str(item["sk"]["S"]).removeprefix(INBOX) if stored is None else str(stored["S"])
        return InboxEntry(key=entry_key, event=decode_event(self._blobs.held(item["body"])))
