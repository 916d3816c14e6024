"""Makes worker processes in milliseconds: a process that has imported everything, and forks a worker on demand.

Run as ``python nursery.py DATABASE ERRORS LIMITS``; without limits (0), no number of deaths makes a worker give up a
step. Each line on standard input, ``LEASE_MICROS``, makes one worker, whose process id is printed. A worker works
until it is killed, or ends itself on SIGTERM when what it runs is done. The nursery has no threads and no connection,
so forking it is safe.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import NoReturn

from everstep.assembly import connect_sqlite
from everstep.runtime import execute, guard, worker
from tests.kill.work import wf


async def work(database: str, lease: int) -> None:
    connection = connect_sqlite(database)
    working = worker.Worker(connection.engine(wf), lease=lease)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.stop)
    await working.serve()
    connection.close()


def be_a_worker(database: str, errors: str, lease: int) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing, said = os.open(os.devnull, os.O_RDWR), os.open(errors, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.dup2(said, 2)
    try:
        asyncio.run(work(database, lease))
    except BaseException as error:
        os.write(2, f"worker {os.getpid()} died of {error!r}\n".encode())
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
        child = os.fork()
        if child == 0:
            be_a_worker(database, errors, int(line))
        print(child, flush=True)


if __name__ == "__main__":
    main()
