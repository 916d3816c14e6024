"""The dead-letter function: what used up its receives becomes a failed step or a parked run, never silence."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from everstep import StepInterruptedError, Workflows, sleep
from everstep.core.messages import AdvanceRun
from everstep.core.run import RunStatus
from everstep.errors import StoreBusyError
from everstep.serverless.cold import Process, _NoApp
from everstep.serverless.deadletter import DeadLetterHandler
from tests.aws.handlers.functions import Context, Deployed, event, sqs_event

wf = Workflows()


@wf.workflow
async def careful() -> str:
    try:
        await deadly()
    except StepInterruptedError as error:
        return str(error)
    return "survived"


@wf.workflow
async def careless() -> None:
    await deadly()


@wf.workflow
async def nap() -> str:
    await sleep("1h")
    return "rested"


@wf.step
async def deadly() -> None:
    os.kill(0, 0)


def dies(deployed: Deployed, receives: int):
    """The worker dies with a message: nothing is answered, and at last it goes to the dead-letter queue."""
    [delivery] = deployed.receive()
    return replace(delivery, receives=receives)


def test_a_step_that_kills_its_worker_fails_and_the_workflow_can_catch_it(deploy, capsys):
    deployed = deploy(wf)
    run = deployed.start(careful)
    deployed.invoke(deployed.receive())
    capsys.readouterr()
    assert deployed.bury(dies(deployed, 6))
    assert '"StepFailures":[1.0]' in capsys.readouterr().out
    deployed.work()
    assert json.loads(deployed.connection.get(run.run_id).result).startswith(
        "step 'deadly' was given up: it was delivered as often as the queue allows and never handled to its end."
    )
    line = next(line for line in deployed.logged() if "failed for good" in line["message"])
    assert (line["run_id"], line["step"], line["attempt"], line["receives"]) == (run.run_id, "deadly", 1, 6)


def test_a_workflow_that_does_not_catch_it_fails(deploy):
    deployed = deploy(wf)
    run = deployed.start(careless)
    deployed.invoke(deployed.receive())
    assert deployed.bury(dies(deployed, 6))
    deployed.work()
    assert deployed.connection.get(run.run_id).status is RunStatus.FAILED


def test_a_step_whose_outcome_came_first_keeps_it(deploy):
    app = Workflows()

    @app.step
    async def quick() -> str:
        return "done"

    @app.workflow
    async def body() -> str:
        return await quick()

    deployed = deploy(app)
    run = deployed.start(body)
    deployed.invoke(deployed.receive())
    [step] = deployed.receive()
    deployed.invoke([step])
    assert deployed.connection.get(run.run_id).closed
    assert deployed.bury(replace(step, receives=6))  # the worker died after it had recorded everything
    deployed.work()
    assert deployed.connection.get(run.run_id).result == b'"done"'
    assert "dead letter dropped: its run is completed" in deployed.lines.getvalue()


def test_an_outcome_that_was_not_told_of_is_told_of_now(deploy):
    app = Workflows()

    @app.step
    async def quick() -> str:
        return "done"

    @app.workflow
    async def body() -> list[str]:
        import asyncio

        return list(await asyncio.gather(quick(), quick()))

    deployed = deploy(app)
    run = deployed.start(body)
    deployed.invoke(deployed.receive())
    first, second = deployed.receive()
    send, sent = deployed.backend.queue.send, []
    deployed.backend.queue.send = lambda messages: sent.extend(messages)  # the wake-up is lost with the worker
    deployed.invoke([first])
    deployed.backend.queue.send = send
    assert sent
    assert deployed.bury(replace(first, receives=6))
    deployed.invoke([second])
    deployed.work()
    assert deployed.connection.get(run.run_id).result == b'["done","done"]'


@pytest.mark.parametrize("kind", ["StartRun", "FireTimer"])
def test_other_messages_park_their_run_and_resume_asks_again(deploy, kind):
    deployed = deploy(wf)
    run = deployed.start(nap)
    if kind == "FireTimer":
        deployed.invoke(deployed.receive())
    assert deployed.bury(dies(deployed, 6))
    record = deployed.connection.get(run.run_id)
    assert record.shown_status is RunStatus.PARKED
    assert record.problem.code == "poison"
    assert record.problem.message.startswith(f"its {kind} message was given up: it was delivered as often as")
    assert next(line for line in deployed.logged() if line["level"] == "ERROR")["run_id"] == run.run_id
    deployed.connection.resume(run.run_id)
    deployed.work()
    assert deployed.connection.get(run.run_id).result == b'"rested"'


def test_a_start_whose_record_was_never_written_is_kept_as_a_parked_run(deploy):
    deployed = deploy(wf)
    deployed.start(nap)
    [start] = deployed.receive()
    other = deploy(wf)  # where there is no record
    assert other.bury(replace(start, receives=6))
    assert other.connection.get(start.message.run.run_id).shown_status is RunStatus.PARKED


def test_a_run_is_not_there(deploy):
    deployed = deploy(wf)
    run = deployed.start(nap)
    [start] = deployed.receive()
    other = deploy(wf)
    lost = replace(start, message_id=f"advance/{run.run_id}/x", message=AdvanceRun(run_id=run.run_id, cause="x"))
    assert other.bury(lost)
    line = other.logged()[-1]
    assert (line["message"], line["level"]) == ("dead letter dropped: its run is not there", "WARNING")
    assert line["run_id"] == run.run_id


def test_what_cannot_be_read_parks_the_run_its_id_names(deploy):
    deployed = deploy(wf)
    run = deployed.start(nap)
    deployed.invoke(deployed.receive())
    sent = sqs_event(deployed.receive(), "deadletter")
    record = sent["Records"][0]
    record["body"] = json.dumps({**json.loads(record["body"]), "message": "AAAA"})
    assert deployed.dead_letters(sent, Context()) == {"batchItemFailures": []}
    problem = deployed.connection.get(run.run_id).problem
    assert problem.code == "unreadable"
    assert problem.message.startswith("a message for it cannot be read: ")


@pytest.mark.parametrize("message_id", ["step/wrun_01JAAAAAAAAAAAAAAAAAAAAAAA/0/1", "step/../etc/1", "?", ""])
def test_what_can_be_told_of_no_run_is_kept_and_logged_at_error(deploy, message_id):
    deployed = deploy(wf)
    sent = event("deadletter")
    record = sent["Records"][0]
    record["body"] = json.dumps({"id": message_id, "due": 0, "root_id": "", "workflow": "", "message": "AAAA"})
    answer = deployed.dead_letters(sent, Context())
    assert answer == {"batchItemFailures": [{"itemIdentifier": record["messageId"]}]}
    line = next(line for line in deployed.logged() if line["level"] == "ERROR")
    assert "a dead letter cannot be read, and no run can be told that it belongs to" in line["message"]


def test_while_the_store_is_busy_a_dead_letter_is_kept(deploy):
    deployed = deploy(wf)
    deployed.start(careful)
    deployed.invoke(deployed.receive())
    buried = dies(deployed, 6)

    def busy(*_args):
        raise StoreBusyError("throttled")

    deposit, deployed.backend.inbox.deposit = deployed.backend.inbox.deposit, busy
    assert not deployed.bury(buried)
    deployed.backend.inbox.deposit = deposit
    assert deployed.bury(buried)


def test_poison_through_the_whole_chain(deploy):
    """A message that no worker can handle: received as often as allowed, then buried, then the workflow goes on."""
    deployed = deploy(wf, max_receives=3)
    run = deployed.start(careful)
    load = deployed.backend.steps.failed_attempts
    original = deployed.engine.registry.steps["deadly"].decode_call

    def broken(_data):
        raise MemoryError("too large to be decoded here")

    deployed.engine.registry.steps["deadly"].decode_call = broken
    try:
        deployed.work()
    finally:
        deployed.engine.registry.steps["deadly"].decode_call = original
    assert load(run.run_id) == []
    assert "was given up" in deployed.connection.get(run.run_id).result.decode()
    kept = [line for line in deployed.logged() if line["message"].startswith("message kept")]
    assert [line.get("receives", 1) for line in kept] == [1, 2, 3]
    assert all(line["level"] == "ERROR" and "MemoryError" in line["exception"] for line in kept)


def test_it_works_while_the_app_cannot_be_imported(deploy, monkeypatch):
    deployed = deploy(wf)
    run = deployed.start(careful)
    deployed.invoke(deployed.receive())
    process = Process()
    process.__dict__.update(watch=deployed.watch, connection=deployed.connection, deliveries=deployed.deliveries)

    def broken(_self):
        raise ImportError("no module named 'shop'")

    monkeypatch.setattr(Process.app, "func", broken)
    handler = process.dead_letters
    try:
        assert isinstance(handler, DeadLetterHandler)
        assert isinstance(handler._engine.registry, _NoApp)
        [step] = deployed.receive()
        assert handler(sqs_event([step], "deadletter"), Context()) == {"batchItemFailures": []}
    finally:
        handler.close()
    deployed.backend.source.acknowledge([step.message_id])
    assert "the app cannot be imported" in deployed.lines.getvalue()
    deployed.work()
    assert "was given up" in deployed.connection.get(run.run_id).result.decode()
