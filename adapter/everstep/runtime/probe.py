"""Find out whether somebody works on the queue, by a message that changes nothing.

The message is an advance of a run that is not there, with a wake flag that was raised for it. Whoever handles it lowers
the flag before it reads. So when the flag is down, a worker has received the message and has written to the store.
"""

from __future__ import annotations

from collections.abc import Callable

from everstep.core.ids import ENTROPY_BYTES, new_run_id
from everstep.core.messages import AdvanceRun, outgoing
from everstep.ports import Backend, Clock


def send_probe(backend: Backend, clock: Clock, entropy: Callable[[int], bytes], workflow: str) -> str:
    """Send the message to those who work on runs of this workflow; its name, for `probe_handled`."""
    now = clock.now()
    run_id = new_run_id(now, entropy(ENTROPY_BYTES))
    backend.inbox.raise_flag(run_id, now=now)
    backend.queue.send([outgoing(AdvanceRun(run_id=run_id, cause="probe"), now, run_id, workflow)])
    return run_id


def probe_handled(backend: Backend, clock: Clock, probe: str) -> bool:
    """Whether it was handled. To be asked within a minute: then a flag that is up counts as down.

    It leaves nothing behind when it was.
    """
    if not backend.inbox.raise_flag(probe, now=clock.now()):
        return False
    backend.inbox.lower_flag(probe)
    return True
