"""Makes processes in milliseconds: a process that has imported everything, and forks on demand.

Run as ``python nursery.py DATABASE ERRORS LIMITS``; without limits (0), no number of deaths makes a worker give up a
step. Each line on standard input makes one process, whose id is printed. ``worker LEASE_MICROS``: it works until it is
killed, or ends itself on SIGTERM when what it runs is done. ``client NUMBER HOOKS ACKNOWLEDGED``: it sends a payload to
each hook of the one file, whose lines are tokens and run ids, and notes in the other one what was acknowledged. The
nursery has no threads and no connection, so forking it is safe.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

from everstep import HookNotFoundError, StoreBusyError, resume_hook_sync
from everstep.assembly import connect_sqlite, use_connection
from everstep.runtime import execute, guard, worker
from tests.kill.work import note, wf


async def work(database: str, lease: int) -> None:
    connection = connect_sqlite(database)
    working = worker.Worker(connection.engine(wf), lease=lease)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.stop)
    await working.serve()
    connection.close()


def work_on(database: str, lease: str) -> None:
    asyncio.run(work(database, int(lease)))


def send_all(database: str, number: str, hooks: str, acknowledged: str) -> None:
    """One payload to each hook, in an order of its own; some twice, as a client does that got no answer."""
    connection = connect_sqlite(database)
    chance = random.Random(int(number))
    left = [line.split() for line in Path(hooks).read_text().splitlines()]
    chance.shuffle(left)
    with use_connection(connection):
        while left:
            token, run_id = left.pop()
            try:
                for _ in range(chance.choice((1, 1, 2))):
                    resume_hook_sync(token, number, resume_id=f"client-{number}")
                    note(acknowledged, f"{token} {number}")
                time.sleep(0.02)  # not all at once, so that more workers are killed meanwhile
            except HookNotFoundError:  # not open yet; or an earlier life of this client has sent it, and it is closed
                if not connection.get(run_id).closed:
                    left.insert(0, [token, run_id])
                    time.sleep(0.001)
            except StoreBusyError:
                left.insert(0, [token, run_id])
    connection.close()


def be(errors: str, live: Callable[[], None]) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing, said = os.open(os.devnull, os.O_RDWR), os.open(errors, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.dup2(said, 2)
    try:
        live()
    except BaseException as error:
        os.write(2, f"process {os.getpid()} died of {error!r}\n".encode())
        os._exit(1)
    os._exit(0)


def main() -> None:
    database, errors, limits = sys.argv[1:]
    guard.install()
    if limits == "0":  # so that no verdict depends on how much of its work a worker gets done before it is killed
        vars(execute)["MAX_DEATHS"] = vars(worker)["MAX_DEATHS"] = 1_000_000
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead need not be waited for
    print("ready", flush=True)
    for line in sys.stdin:
        kind, *arguments = line.split()
        live = send_all if kind == "client" else work_on
        child = os.fork()
        if child == 0:
            be(errors, partial(live, database, *arguments))
        print(child, flush=True)


if __name__ == "__main__":
    main()
