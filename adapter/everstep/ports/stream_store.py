"""The port for streams: logs that the steps of runs write to and anybody reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRecord:
    """An entry of a stream's log as it is stored.

    Attributes:
        first: its position. The next record begins after the positions that this one takes up, which its reader knows.
        nonce: unique to this record.
        body: opaque; stored and returned as it is.
    """

    first: int
    nonce: str
    body: bytes


class StreamStore(Protocol):
    """The logs of streams, by run and name. Append-only and dense; a stream is there when it has a record.

    All reads are strongly consistent: what was appended before is found.
    """

    def append(self, run_id: str, name: str, record: StreamRecord) -> bool:
        """Store the record if none begins at its position; say whether it is now there as ours.

        This conditional write is the stream's lock. When the write is refused but the stored record carries our nonce
        (a retried request whose first try had succeeded), the answer is True. The caller guarantees that the position
        is the one after the last record it has seen, so that no record can lie across it.
        """
        ...

    def read(self, run_id: str, name: str, *, first: int, limit: int) -> Sequence[StreamRecord]:
        """Up to `limit` records that begin at `first` or later, in order.

        May return fewer than there are, but none only if there are none.
        """
        ...

    def find(self, run_id: str, name: str, position: int | None = None) -> StreamRecord | None:
        """The last record that begins at this position or before, so the one that holds it; without one, the last."""
        ...

    def enter(self, run_id: str, name: str, step: str, position: int) -> int:
        """Note that a step will write at this position or later; the position that was noted for it first.

        The runs of a step are told by it that there was one before, and from where on its records may lie.
        """
        ...

    def names(self, run_id: str) -> Sequence[str]:
        """The names of the run's streams, in the order of the text."""
        ...
