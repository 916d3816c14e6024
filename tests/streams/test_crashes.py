"""A worker dies at every call of its store, in turn, while a run's steps write to streams.

Whatever it was about to do: chunks that are replaceable are read exactly once, those that are kept at least once and
in order, indexes have no gaps, and a reader that was there all the time ends with what one finds who comes later.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from everstep import RetryPolicy, Workflows, get_step_metadata, get_writable
from everstep.ports import Backend
from everstep.runtime.stream_reading import ChunkData, Reset, StreamReader
from tests.simulation.crashing import Store, Trial
from tests.simulation.test_crash_at_every_call import STRIDE, crash_points

wf = Workflows()
quickly = RetryPolicy(first_delay=1, cap=1)


@wf.step(max_retries=9, retry=quickly)
async def tell(name: str, attempts: int) -> int:
    """The attempt that counts writes as many chunks as attempts it took, in batches of two."""
    attempt = get_step_metadata().attempt
    outs = get_writable(type=str, namespace="replaced", on_retry="discard"), get_writable(type=str, namespace="kept")
    for out in outs:
        for number in range(attempts * 2):
            await out.write(f"{name}{number}")
            if number % 2:
                await out.drain()
    if attempt < attempts:
        raise ConnectionError("not yet")
    return attempts


@wf.step(max_retries=9)
async def close() -> int:
    async with get_writable(type=str, namespace="replaced", on_retry="discard") as out:
        await out.write("end")
    return 1


@wf.workflow
async def report() -> int:
    first = await tell("a", 1)
    both = await asyncio.gather(tell("b", 2), tell("c", 1))
    return first + sum(both) + await close()


EXPECTED = {"a": 2, "b": 4, "c": 2}


class Client:
    """A reader that is there all the time. It takes no part in the death of a process."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._reader = StreamReader(store.backend.streams, run_id, "replaced")
        self.chunks: list[bytes] = []

    def read(self) -> bool:
        self._reader.streams = self._store.backend.streams  # after a death the file is opened anew
        for item in self._reader.read(1000):
            if isinstance(item, Reset):
                del self.chunks[item.index :]
            else:
                assert item.index == len(self.chunks)
                self.chunks.append(item.data)
        return False


def read_all(backend: Backend, run_id: str, name: str) -> list[bytes]:
    items = StreamReader(backend.streams, run_id, name).read(1000)
    assert [item.index for item in items] == list(range(len(items)))
    return [item.data for item in items if isinstance(item, ChunkData)]


def check(backend: Backend, run_id: str, *, disturbed: bool) -> None:
    run = backend.inspector.get_run(run_id)
    assert run is not None
    assert (run.status, run.result) == ("completed", b"5"), run
    replaced, kept = read_all(backend, run_id, "replaced"), read_all(backend, run_id, "kept")
    assert replaced[-1] == b'"end"'
    for name, count in EXPECTED.items():
        whole = [f'"{name}{number}"'.encode() for number in range(count)]
        assert [chunk for chunk in replaced if chunk[1:2] == name.encode()] == whole
        mine = [chunk for chunk in kept if chunk[1:2] == name.encode()]
        assert mine[-count:] == whole
        if not disturbed:
            assert len(mine) == count * (2 if name == "b" else 1)
    assert len(replaced) == sum(EXPECTED.values()) + 1


@pytest.mark.parametrize("kind", ["memory", "atomic", "sqlite", "worker"])
def test_death_at_every_call(kind: str, tmp_path: Path) -> None:
    store = Store(kind, tmp_path)
    smooth = Trial(store, None, app=wf)
    run_id = smooth.go(report)
    check(store.backend, run_id, disturbed=False)
    deaths = 0
    for point in crash_points(smooth.process.calls, stride=STRIDE[kind], offset=0):
        trial = Trial(store, point, app=wf)
        run_id = trial.start(report)
        client = Client(store, run_id)
        trial.work_off(client.read)
        check(store.backend, run_id, disturbed=True)
        client.read()
        assert client.chunks == read_all(store.backend, run_id, "replaced"), point
        deaths += trial.crashes
    assert deaths > 10
    store.backend.close()
