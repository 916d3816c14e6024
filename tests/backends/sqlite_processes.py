"""What other processes do in the tests of the SQLite backend. Each function runs in a process of its own."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from everstep.backends.sqlite import open_sqlite
from everstep.core.history import Turn
from everstep.core.messages import AdvanceRun, Outgoing
from everstep.core.streams import Piece, Source
from everstep.ports import InboxEntry
from everstep.runtime.stream_log import StreamLog
from everstep.testing.contracts.samples import NOW, outgoing, run_id, run_record, turn

_spawn = multiprocessing.get_context("spawn")
FAR = 2**62


def start(function: Callable[..., object], *arguments: Any) -> BaseProcess:
    process = _spawn.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def finish(*processes: BaseProcess, code: int = 0) -> None:
    for process in processes:
        process.join(timeout=30)
        assert process.exitcode == code


def wait_for(path: Path) -> None:
    for _ in range(3000):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear")


def wait_for_start(folder: Path, me: str, others: int) -> None:
    """All processes begin at about the same moment, whatever importing took them."""
    (folder / f"ready-{me}").touch()
    while len(list(folder.glob("ready-*"))) < others:
        time.sleep(0.001)


def create_at_once(folder: str, me: str, others: int) -> None:
    wait_for_start(Path(folder), me, others)
    backend = open_sqlite(Path(folder) / "new" / "runs.db")
    backend.runs.create(run_record(int(me)))
    backend.close()


def race_to_append(folder: str, me: str, others: int, turns: int) -> None:
    backend = open_sqlite(Path(folder) / "runs.db")
    wait_for_start(Path(folder), me, others)
    won = 0
    while (number := len(backend.inspector.history(run_id()))) < turns:
        won += backend.runs.append(run_id(), turn(number, nonce=me))
    (Path(folder) / f"won-{me}").write_text(f"{won}")
    backend.close()


def receive_everything(folder: str, me: str, others: int) -> None:
    backend = open_sqlite(Path(folder) / "runs.db")
    wait_for_start(Path(folder), me, others)
    mine: list[str] = []
    backend.source.register(me, until=FAR)
    while batch := backend.source.receive(me, limit=3, now=NOW):
        mine += [delivery.message_id for delivery in batch]
        backend.source.acknowledge([delivery.message_id for delivery in batch])
    (Path(folder) / f"received-{me}").write_text("\n".join(mine))
    backend.close()


def step_message(number: int) -> Outgoing:
    message = AdvanceRun(run_id=run_id(), cause=f"{number}")
    return Outgoing(
        message_id=f"m{number}", message=message, due=NOW, root_id="root", workflow="order", lease_to="doomed"
    )


def loop_units(folder: str) -> None:
    """Units until killed: turn *n*, inbox entry *n*, message *n* sent and message *n - 1* acknowledged."""
    backend = open_sqlite(Path(folder) / "runs.db")
    backend.source.register("doomed", until=FAR)
    number = 0
    while True:
        with backend.unit():
            assert backend.runs.append(run_id(), _counted(number))
            backend.source.acknowledge([f"m{number - 1}"])
            backend.queue.send([step_message(number)])
            backend.inbox.deposit(run_id(), InboxEntry(key=f"{number}", event=turn().events[0]))
        number += 1
        if number == 20:
            (Path(folder) / "looping").touch()


def _counted(number: int) -> Turn:
    return turn(number, nonce=f"{number}")


def hold_messages(folder: str, worker: str, count: int) -> None:
    """Receive, then hang."""
    backend = open_sqlite(Path(folder) / "runs.db")
    backend.source.register(worker, until=FAR)
    assert len(backend.source.receive(worker, limit=count, now=NOW)) == count
    (Path(folder) / f"holding-{worker}").touch()
    signal.pause()


def write_lock_for(folder: str, seconds: float) -> None:
    backend = open_sqlite(Path(folder) / "runs.db")
    with backend.unit():
        backend.queue.send([outgoing(99)])
        (Path(folder) / "locked").touch()
        time.sleep(seconds)
    backend.close()


def append_pairs(folder: str, count: int) -> None:
    """Two turns a unit, so that a reader must always see an even number of them."""
    backend = open_sqlite(Path(folder) / "runs.db")
    for number in range(0, count, 2):
        with backend.unit():
            backend.runs.append(run_id(), turn(number))
            backend.inbox.deposit(run_id(), InboxEntry(key=f"{number}", event=turn().events[0]))
            backend.runs.append(run_id(), turn(number + 1))
    backend.close()


def write_stream(folder: str, me: str, others: int, batches: int) -> None:
    """Batches of three chunks, at the end of a stream that others write to."""
    backend = open_sqlite(Path(folder) / "runs.db")
    source = Source(step=f"step_{me}", attempt=1, execution=me)
    log = StreamLog(backend.streams, run_id(), "main", source, replace=me == "0")
    wait_for_start(Path(folder), me, others)
    log.open(to_write=True)
    for batch in range(batches):
        nonce = log.nonce()
        while not log.append_chunks(nonce, [Piece(f"[{me},{batch},{n}]".encode(), False) for n in range(3)]):
            pass
    backend.close()
