"""Inboxes and wake flags in DynamoDB."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, final

from everstep.backends.aws.blobs import INLINE, S3Blobs
from everstep.backends.aws.items import FLAG, INBOX, Item, inbox_key, key, n, s, valid
from everstep.backends.aws.resources import EXPIRES_AT
from everstep.backends.aws.table import DynamoTable
from everstep.codec.records import encode_event
from everstep.core.history import Micros
from everstep.ports import Clock, InboxEntry

_MINUTE: Final[Micros] = 60_000_000
_OFF: Final = "attribute_not_exists(pk) OR lowered_at <= :now OR raised_at <= :stale"
_DAY: Final = 86_400
_LONGEST_WAIT: Final = 2 * 365
"""Days. Where items expire at all, an entry that nobody consumed does so after this time and the retention."""


@final
class DynamoInbox:
    """Implements `everstep.ports.Inbox`."""

    def __init__(
        self, table: DynamoTable, blobs: S3Blobs, clock: Clock, nonce: Callable[[], str], *, retention_days: int
    ) -> None:
        self._table = table
        self._blobs = blobs
        self._clock = clock
        self._nonce = nonce
        self._retention = retention_days
        self._last: Micros = 0
        self._ordering = threading.Lock()

    def deposit(self, run_id: str, entry: InboxEntry) -> bool:
        """As the port says. One request; 1 WRU for each KB, refused as well.

        Order is by this process's clock, and exact among the deposits of one process. If the same deposit is
        there after the request was repeated, an earlier try of this call has stored it.
        """
        sk = inbox_key(entry.key)
        at = self._moment()
        item = key(run_id, sk) | {"at": n(at)}
        item["body"] = self._blobs.hold(run_id, "inbox", encode_event(entry.event), inline=INLINE)
        if sk != INBOX + entry.key:
            item["key"] = s(valid(entry.key))
        if self._retention:
            item[EXPIRES_AT] = n(at // 1_000_000 + (self._retention + _LONGEST_WAIT) * _DAY)
        refusal = self._table.put_new(item)
        return refusal is None or (refusal.repeated and refusal.item == item)

    def remove(self, run_id: str, keys: Sequence[str]) -> None:
        """As the port says. 1 WRU for each entry; one request for 25 of them."""
        if keys:
            self._table.delete([key(run_id, sk) for sk in dict.fromkeys(inbox_key(entry) for entry in keys)])

    def raise_flag(self, run_id: str, *, now: Micros) -> bool:
        """As the port says. One request, 1 WRU, refused as well.

        A refusal by a flag with our own nonce means that an earlier try of this call raised it. One by a flag that was
        lowered after `now` means that this request is late, or our clock is: it stays off, and the caller sends a
        wake-up that may not be needed.
        """
        nonce = s(self._nonce())
        item = self._flag(run_id, now) | {"raised_at": n(now), "nonce": nonce}
        refusal = self._table.put_if(item, _OFF, {":now": n(now), ":stale": n(now - _MINUTE)})
        return refusal is None or "raised_at" not in refusal.item or refusal.item.get("nonce") == nonce

    def lower_flag(self, run_id: str) -> None:
        """As the port says. One request, 1 WRU, also when it is off.

        The flag remembers when. Were it deleted, a request to raise it that comes late, after its sender has given it
        up and raised the flag with another, would raise it once more; and nobody would send the wake-up for what is
        deposited in the minute after.
        """
        now = self._clock.now()
        self._table.put(self._flag(run_id, now) | {"lowered_at": n(now)})

    def _flag(self, run_id: str, now: Micros) -> Item:
        item = key(run_id, FLAG)
        if self._retention:
            item[EXPIRES_AT] = n(now // 1_000_000 + _DAY)  # it means nothing after minutes
        return item

    def _moment(self) -> Micros:
        """Now, or the microsecond after the last deposit of this process."""
        with self._ordering:
            self._last = max(self._clock.now(), self._last + 1)
            return self._last
