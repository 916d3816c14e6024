"""Any number of steps, tried again at any time, and readers that come and go at any time: all see the same in the end.

A reader keeps a list as the documentation says: a chunk is appended at its index, a reset cuts the list. It loses its
connection at random and goes on after the last id it has. Runs of steps that should be dead still write.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everstep.backends.memory import open_memory
from everstep.core.streams import Piece, Source
from everstep.errors import StoreBusyError, StreamClosedError
from everstep.ports import StreamRecord, StreamStore
from everstep.runtime.stream_log import StreamLog
from everstep.runtime.stream_reading import ChunkData, Reset, StreamReader
from everstep.testing.contracts.samples import run_id

RUN, NAME = run_id(), "main"


@dataclass
class Execution:
    """One run of a step's body, and what it has written."""

    log: StreamLog
    replace: bool
    written: list[bytes] = field(default_factory=list)

    def write(self, chunks: list[bytes]) -> None:
        """As `StreamWriter` does it; to a closed stream nothing."""
        try:
            self._write(chunks)
        except StreamClosedError:
            pass

    def _write(self, chunks: list[bytes]) -> None:
        self.log.open(to_write=bool(chunks))
        nonce = self.log.nonce()
        while not self.log.superseded:
            if self.log.needs_mark:
                self.log.append_mark()
            elif not chunks:
                return
            elif self.log.append_chunks(nonce, [Piece(chunk, False) for chunk in chunks]):
                self.written += chunks
                return

    def close(self) -> None:
        self.write([])
        nonce = self.log.nonce()
        while not self.log.superseded and not self.log.append_close(nonce):
            pass


class Client:
    """What somebody has of a stream who may lose the connection."""

    def __init__(self, store: StreamStore) -> None:
        self._store = store
        self._reader = StreamReader(store, RUN, NAME)
        self._last_id: str | None = None
        self.chunks: list[bytes] = []

    def read(self, most: int) -> int:
        items = self._reader.read(most)
        for item in items:
            self._last_id = item.id
            match item:
                case ChunkData():
                    assert item.index == len(self.chunks)
                    self.chunks.append(item.data)
                case Reset():
                    assert item.index <= len(self.chunks)
                    del self.chunks[item.index :]
        return len(items)

    def reconnect(self) -> None:
        self._reader = StreamReader(self._store, RUN, NAME, after=self._last_id)

    def read_all(self) -> list[bytes]:
        while self.read(3):
            pass
        return self.chunks


WRITE, CLOSE, AGAIN, READ, RECONNECT = range(5)
ACTIONS = st.lists(
    st.tuples(st.sampled_from([WRITE, WRITE, WRITE, CLOSE, AGAIN, READ, READ, RECONNECT]), st.integers(0, 5)),
    max_size=40,
)


@given(actions=ACTIONS)
@settings(deadline=None, max_examples=400)
def test_all_see_the_same_in_the_end(actions: list[tuple[int, int]]) -> None:
    store = open_memory(atomic_units=False).streams
    steps: dict[int, list[Execution]] = {number: [] for number in range(6)}
    numbers = iter(range(10_000))

    def begin(step: int) -> Execution:
        """Even steps replace what they wrote, odd ones do not."""
        replace = step % 2 == 0
        source = Source(step=f"step_{step}", attempt=len(steps[step]) + 1, execution=f"{step}.{len(steps[step])}")
        execution = Execution(StreamLog(store, RUN, NAME, source, replace=replace), replace)
        steps[step].append(execution)
        return execution

    clients = [Client(store) for _ in range(3)]
    for action, which in actions:
        runs = steps[which] or [begin(which)]
        match action:
            case 0:  # mostly the newest run of a step, at times one that should be dead
                execution = runs[-1] if len(actions) % 3 else runs[which % len(runs)]
                execution.write([f"{which}:{next(numbers)}".encode() for _ in range(which % 3 + 1)])
            case 1:
                runs[-1].close()
            case 2:
                begin(which).write([])
            case 3:
                clients[which % 3].read(which + 1)
            case 4:
                clients[which % 3].reconnect()

    for step, runs in steps.items():
        if runs:  # so that it has seen what a dead run wrote meanwhile
            runs[-1].write([f"{step}:{next(numbers)}".encode()])
    fresh = Client(store).read_all()
    for step, runs in steps.items():
        seen = [chunk for chunk in fresh if chunk.startswith(b"%d:" % step)]
        if step % 2 == 0:
            assert seen == (runs[-1].written if runs else [])
        else:
            assert seen == sorted(
                (chunk for run in runs for chunk in run.written), key=lambda chunk: int(chunk.partition(b":")[2])
            )
    for client in clients:
        assert client.read_all() == fresh
    for start in range(-len(fresh) - 2, len(fresh) + 2):
        items = StreamReader(store, RUN, NAME, start=start).read(1000)
        assert [item.data for item in items if isinstance(item, ChunkData)] == fresh[start:]
        assert [item.index for item in items] == list(range(len(fresh)))[start:]


@pytest.mark.parametrize("page", [1, 2, 3, 7])
def test_pages_make_up_the_whole(page: int) -> None:
    store = open_memory(atomic_units=False).streams
    for number in range(4):
        source = Source(step="step_0", attempt=1 + number, execution=f"{number}")
        Execution(StreamLog(store, RUN, NAME, source, replace=number % 2 == 1), True).write(
            [b"%d" % chunk for chunk in range(number * 10, number * 10 + 7)]
        )
    whole = [item.data for item in StreamReader(store, RUN, NAME).read(100) if isinstance(item, ChunkData)]
    pages: list[bytes] = []
    while items := StreamReader(store, RUN, NAME, start=len(pages)).read(page):
        pages += [item.data for item in items if isinstance(item, ChunkData)]
    assert pages == whole


def test_a_reader_that_finds_the_store_busy_is_told_of_a_reset_once(monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_memory(atomic_units=False).streams
    for attempt in (1, 2):
        source = Source(step="step_0", attempt=attempt, execution=f"{attempt}")
        Execution(StreamLog(store, RUN, NAME, source, replace=True), True).write([b"%d" % attempt] * 3)
    reader = StreamReader(store, RUN, NAME, after="2")
    find, calls = store.find, iter(range(9))

    def busy(run_id: str, name: str, position: int | None = None) -> StreamRecord | None:
        if next(calls) != 2:  # the third call: where the chunks after the mark begin
            return find(run_id, name, position)
        raise StoreBusyError("not now")

    monkeypatch.setattr(store, "find", busy)
    with pytest.raises(StoreBusyError):
        reader.read()
    reset, *chunks = reader.read()
    assert reset == Reset(index=0, id="-1.3")
    assert [item.data if isinstance(item, ChunkData) else item for item in chunks] == [b"2"] * 3
