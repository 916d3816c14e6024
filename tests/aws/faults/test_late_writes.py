"""Writes that take effect late: after their sender has given them up, repeated them, and gone on.

A timeout says nothing about a request: it may still be on its way. Here it arrives when so many later ones have.
"""

from __future__ import annotations

from typing import Any, Final

import pytest
from botocore.exceptions import ReadTimeoutError

from everstep.testing.oracles import chain_of, examine, outcome
from tests.aws.backend.wire import SERVICES
from tests.aws.faults.calls import CALLS, Call
from tests.aws.faults.functions import Functions
from tests.aws.faults.programs import EXPECTED, wf

WRITES: Final = [name for name, call in CALLS.items() if call.writes and call.after is None]


class Late:
    """Holds the first request of a kind back until `after` others have been sent since."""

    def __init__(self, functions: Functions, call: Call, after: int) -> None:
        self.functions = functions
        self.call = call
        self.left = after
        self.held: Any = None
        self.arrived = False
        self._next = False
        for service in SERVICES:
            events = functions.clients.client(service).meta.events  # type: ignore[arg-type]
            events.register_first(f"provide-client-params.{service}.*", self._asked)
            events.register_first(f"before-send.{service}.*", self._sent)

    def arrive(self) -> None:
        """It takes effect now, if it has not yet."""
        if not self.arrived:
            self.arrived = True
            self.held.reset_stream()
            answer = self.functions.clients.client(self.call.service)._endpoint.http_session.send(self.held)
            assert answer.status_code < 500, answer.content
            self.functions.queue.sent = self.functions.queue.scheduled = True

    def _asked(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        self._next = self.held is None and self.call.made(model.name, params)

    def _sent(self, request: Any, **_: Any) -> None:
        if self._next:
            self._next, self.held = False, request
            raise ReadTimeoutError(endpoint_url=request.url)
        if self.held is not None:
            if self.left == 0:
                self.arrive()
            self.left -= 1


@pytest.mark.parametrize("after", [1, 13])
@pytest.mark.parametrize("name", WRITES)
def test_a_late_write_changes_no_result(deploy, name, after):
    call = CALLS[name]
    program = call.programs[0]
    functions = deploy(wf, retention_days=30 if program == "kept" else 0)
    late = Late(functions, call, after)
    run_id = functions.start(wf.workflows[program])
    functions.work()
    assert late.held is not None, f"{program!r} makes no such call"
    late.arrive()  # at the end, if the run has made no more requests than that
    functions.work()
    # An outcome that was deposited again after the run had closed stays in its inbox: nobody is woken for it.
    wrong = examine(wf, functions.backend, run_id, functions.bodies, disturbed=functions.disturbed, late=True)
    assert wrong == [], functions.log()
    assert outcome(chain_of(functions.backend, run_id)[-1].run) == ("completed", EXPECTED[program])
