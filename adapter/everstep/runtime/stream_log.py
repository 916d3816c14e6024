"""The log of one stream, as somebody who writes to it knows it.

The log is its own lock (`everstep.core.streams`): an entry is stored at the position after the last one known. Refused?
Then somebody else wrote: read on to the new end, and try there. So writers in any number of processes append in one
order, without gaps, and each knows all that stands before its own entries.

That is also how a step that is run again replaces its chunks: it reads what earlier runs of the same step call wrote,
and stores a mark that takes it out. Two runs of one call overlap where a message was delivered twice, or a function
went on after its attempt was given up. Then the run of the later attempt counts; within one attempt the one that
notices the other first, unless the outcome of the other is recorded already. The other one finds itself *superseded*,
and what it still writes is dropped.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Final, assert_never, final

from everstep.codec.stream_records import decode_entry, encode_entry
from everstep.core.streams import (
    Chunks,
    Closed,
    Discarded,
    Entry,
    Piece,
    Range,
    Source,
    View,
    closed_by,
    size_of,
    view_at,
)
from everstep.errors import StreamClosedError
from everstep.ports import StreamRecord, StreamStore

logger: Final = logging.getLogger("everstep.streams")

_RECORDS_AT_ONCE: Final = 100


def load_view(store: StreamStore, run_id: str, name: str, number: int) -> View | None:
    """The view of this number; None if there is none."""
    if number == 0:
        return View()
    record = store.find(run_id, name, number)
    entry = None if record is None or record.first != number else decode_entry(record.body)
    return View(number=number, gaps=entry.gaps) if isinstance(entry, Discarded) else None


@final
class StreamLog:
    """One run of a step, at the end of a stream's log. Used by one thread at a time.

    After a `StoreBusyError` the call that raised it must be the next one, so that it is not in doubt whether its
    entry was stored.

    Args:
        replace: take out what earlier runs of the step wrote, and let later ones do so with what this one writes.
        is_late: whether the step's outcome is recorded already; asked before anything is taken out.
    """

    def __init__(
        self,
        store: StreamStore,
        run_id: str,
        name: str,
        source: Source,
        *,
        replace: bool,
        is_late: Callable[[], bool] = lambda: False,
    ) -> None:
        self.run_id = run_id
        self.name = name
        self.superseded = False
        self.streams = store
        self._source = source
        self._replace = replace
        self._is_late = is_late
        self._opened = False
        self._position = 0
        self._view: View | None = View()
        self._view_number = 0
        self._stale: list[Range] = []
        self._closed_by: Source | None = None
        self._closed_at = 0
        self._reopen = False
        self._own: int | None = None
        self._nonces = itertools.count()
        self._mark_nonce: str | None = None

    def nonce(self) -> str:
        """For a new entry."""
        return f"{self._source.execution}.{next(self._nonces)}"

    @property
    def needs_mark(self) -> bool:
        """Whether something is to be taken out before anything is appended."""
        return bool(self._stale) or self._reopen

    def open(self, *, to_write: bool) -> None:
        """Find the end, and what is to be taken out. Where nothing is to be written, nothing may be noted either."""
        if self._opened:
            return
        last = self.streams.find(self.run_id, self.name)
        if last is not None:
            self._view = None
            self._learn(last.first, decode_entry(last.body))
        if self._replace and (to_write or last is not None):
            first = self.streams.enter(self.run_id, self.name, self._source.step, self._position)
            if first < self._position:
                self._position = first
                self._catch_up()
        self._opened = last is not None or to_write

    def append_chunks(self, nonce: str, pieces: Sequence[Piece]) -> bool:
        """Store them at the end; say whether it was the end. If not, the new one is known now: decide anew."""
        if self._closed_by is not None:
            self._catch_up()  # who closed it may have opened it again
            if self._closed_by is None or self.needs_mark:
                return False
            if self._closed_by.step != self._source.step:
                raise StreamClosedError(self.run_id, self.name)
            self._reopen = True  # a run of this very step closed it
            return False
        entry = Chunks(source=self._source, replaceable=self._replace, view=self._view_number, pieces=tuple(pieces))
        return self._append(nonce, entry)

    def append_mark(self) -> bool:
        """Take out what is stale; not if it belongs to the outcome that counts."""
        if self._mark_nonce is None and self._is_late():
            self._give_way()
            return False
        if self._view is None:
            self._view = load_view(self.streams, self.run_id, self.name, self._view_number) or View()
        if self._mark_nonce is None:
            self._mark_nonce = self.nonce()
        more = [*self._stale, (self._position, self._position + 1)]
        if self._closed_by is not None:
            more.append((self._closed_at, self._closed_at + 1))  # the closing mark; this one takes its place
        mark = Discarded(
            source=self._source,
            gaps=self._view.gaps_and(more),
            closed_by=None if self._reopen else self._closed_by,
        )
        done = self._append(self._mark_nonce, mark)
        if done:
            self._mark_nonce = None
        return done

    def append_close(self, nonce: str) -> bool:
        """Close the stream; it may be closed already."""
        return self._closed_by is not None or self._append(nonce, Closed(source=self._source, view=self._view_number))

    # --- what is there -----------------------------------------------------------------------------

    def _append(self, nonce: str, entry: Entry) -> bool:
        position = self._position
        record = StreamRecord(first=position, nonce=nonce, body=encode_entry(entry))
        if not self.streams.append(self.run_id, self.name, record):
            self._catch_up()
            return False
        if isinstance(entry, Chunks) and self._own is None:
            self._own = position
        self._learn(position, entry)
        return True

    def _catch_up(self) -> None:
        while records := self.streams.read(self.run_id, self.name, first=self._position, limit=_RECORDS_AT_ONCE):
            for record in records:
                self._learn(record.first, decode_entry(record.body))

    def _learn(self, first: int, entry: Entry) -> None:
        end = first + size_of(entry)
        match entry:
            case Chunks(source=source, replaceable=replaceable):
                if replaceable and self._replaces(source):
                    self._stale.append((first, end))
            case Discarded(gaps=gaps):
                view = self._view = View(number=first, gaps=gaps)
                self._stale = [stale for stale in self._stale if view.counts(stale[0])]
                if self._own is not None and not view.counts(self._own):
                    self._give_way()
            case Closed():
                pass
            case _:
                assert_never(entry)
        self._closed_by, self._closed_at = closed_by(entry), first
        self._reopen = self._closed_by is not None and self._replaces(self._closed_by)
        if self._view_number != (number := view_at(entry, first)):
            self._view_number = number
            if self._view is not None and self._view.number != number:
                self._view = None
        self._position = end

    def _replaces(self, source: Source) -> bool:
        """Whether we take out what this source wrote: another run of our step call, and not of a later attempt."""
        mine = self._source
        if not self._replace or source.step != mine.step or source.execution == mine.execution:
            return False
        if source.attempt > mine.attempt:
            self._give_way()
            return False
        return True

    def _give_way(self) -> None:
        if not self.superseded:
            self.superseded = True
            logger.warning(
                "what attempt %d of %s still writes to stream %r is dropped: another run of the step counts, or the "
                "workflow's run has ended",
                self._source.attempt,
                self._source.step,
                self.name,
            )
