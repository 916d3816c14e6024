"""A fault at every kind of call: the result is the one without it, and no outcome is lost or used twice."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import pytest

from everstep.backends.aws import clients
from everstep.testing.oracles import chain_of, examine, outcome
from tests.aws.faults.calls import CALLS, Call, kinds_of
from tests.aws.faults.functions import Functions
from tests.aws.faults.programs import EXPECTED, STREAM, ends_well, wf
from tests.aws.faults.proxy import Rule

PATIENCE: Final = 0.3
"""Seconds without an answer after which a client gives up, in the tests that keep answers from it."""

ONCE: Final = {"sequence": {"fail": 1, "pass": 1}, "times": 4}
"""A call fails at its first try, and the SDK's second one succeeds. Four do."""
THROUGHOUT: Final = {"sequence": {"fail": clients.ATTEMPTS, "pass": 1}, "times": 2 * clients.ATTEMPTS}
"""A call fails at all its tries, and the invocation with it; when its message comes again, it succeeds. Two do."""

_THROTTLING: Final = {
    "dynamodb": {"code": "ProvisionedThroughputExceededException", "status": 400},
    "sqs": {"code": "RequestThrottled", "status": 403},
    "s3": {"code": "SlowDown", "status": 503},
    "scheduler": {"code": "ThrottlingException", "status": 429},
}


def throttled(call: Call) -> Rule:
    return {"error": _THROTTLING[call.service]}


def server_error(_call: Call) -> Rule:
    return {"error": {"code": "InternalServerError", "status": 500}}


def reset(_call: Call) -> Rule:
    return {"reset": True}


def no_answer(_call: Call) -> Rule:
    return {"timeout_ms": 2000 * PATIENCE}


def answer_lost(call: Call) -> Rule:
    if call.operation == "PutObject":  # answers with headers only: promise more, and let it not come
        return {"response": {"set_headers": {"Content-Length": "1"}}}
    return {"response": {"abort_bytes": 0}}


FAULTS: Final[dict[str, tuple[Callable[[Call], Rule], Rule]]] = {
    "throttled once": (throttled, ONCE),
    "throttled": (throttled, THROUGHOUT),
    "server error": (server_error, THROUGHOUT),
    "connection reset": (reset, THROUGHOUT),
    "no answer in time": (no_answer, {"times": 1}),
    "answer lost once": (answer_lost, ONCE),
    "answers lost": (answer_lost, THROUGHOUT),
}
WORST: Final = ("throttled", "answers lost")
"""The SDK has given up, and nothing was done; or all of it was."""
CASES: Final = [
    (name, program, fault)
    for name, call in CALLS.items()
    for program in call.programs
    for fault in (FAULTS if call.hot and program == call.programs[0] else WORST)
]


def examined(functions: Functions, program: str, run_id: str, *, lost: bool = False) -> list[str]:
    """What is wrong with the run and in the store, when no message is left. Lost: answers were, and writes not."""
    unkept = [sk for sk, item in functions.items(run_id).items() if program == "kept" and "expires_at" not in item]
    wrong = [f"{sk} does not expire" for sk in unkept]
    wrong += [f"{message_id} ran again, although its outcome was recorded" for message_id in functions.in_vain]
    wrong += examine(wf, functions.backend, run_id, functions.bodies, disturbed=functions.disturbed)
    if program == "talkative" and (chunks := functions.stream(run_id)) != STREAM:
        wrong.append(f"its stream is {chunks}")
    ended = outcome(chain_of(functions.backend, run_id)[-1].run)
    if not ends_well(program, ended, claim_lost=lost and functions.disturbed):
        wrong.append(f"it ended so: {ended!r:.500}")
    return wrong


@pytest.fixture
def deployed(deploy) -> Callable[..., Functions]:
    def one(program: str, *endpoint: str) -> Functions:
        return deploy(wf, *endpoint, retention_days=30 if program == "kept" else 0)

    return one


@pytest.mark.parametrize("program", EXPECTED)
def test_the_list_of_calls_is_complete(deployed, program):
    functions = deployed(program)
    run_id = functions.start(wf.workflows[program])
    functions.work()
    for operation, parameters in functions.wire.parameters:
        assert len(kinds_of(operation, parameters)) == 1, f"{operation} {parameters}: {kinds_of(operation, parameters)}"
    assert functions.kept == 0
    assert examined(functions, program, run_id) == []


@pytest.mark.parametrize(("name", "program", "fault"), CASES, ids=map("-".join, CASES))
def test_a_fault_changes_no_result(deployed, proxy, monkeypatch, name, program, fault):
    call, (how, how_often) = CALLS[name], FAULTS[fault]
    if how is no_answer or (how is answer_lost and call.operation == "PutObject"):
        monkeypatch.setitem(clients.READ_TIMEOUT, call.service, PATIENCE)
    functions = deployed(program, proxy.endpoint)
    rules = [call.rule({**how(call), **how_often})]
    if call.after is not None:
        before = CALLS[call.after]
        rules.append(before.rule({**reset(before), "times": clients.ATTEMPTS}))
    proxy.let_fail(*rules)
    run_id = functions.start(wf.workflows[program])
    functions.work()
    fired = [each for each in proxy.fired() if (each["service"], each["operation"]) == (call.service, call.operation)]
    proxy.clear()
    assert fired, f"nothing failed: {program!r} makes no such call"
    if how_often is THROUGHOUT and call.hot and name != "delete a schedule":  # which nobody needs to be deleted
        assert functions.kept or functions.refused_starts
    assert examined(functions, program, run_id, lost=how is answer_lost) == [], functions.log()


@pytest.mark.parametrize("seed", range(8))
def test_several_faults_at_once(deployed, proxy, seed):
    chance = random.Random(seed)
    program = chance.choice([name for name in EXPECTED if name != "large"])
    ways = (throttled, reset, answer_lost)
    failing = chance.sample(list(CALLS.values()), 8)
    proxy.let_fail(*(call.rule({**chance.choice(ways)(call), **THROUGHOUT}) for call in failing))
    functions = deployed(program, proxy.endpoint)
    run_id = functions.start(wf.workflows[program])
    functions.work()
    fired = proxy.fired()
    proxy.clear()
    assert fired
    assert examined(functions, program, run_id, lost=True) == [], functions.log()
