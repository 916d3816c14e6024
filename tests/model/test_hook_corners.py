"""Hooks where it is easy to get stuck, or to be told the wrong thing."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest

from everstep import BaseHook, HookDisposedError, TypeValidationError, resume_hook_sync, sleep
from everstep.core.replay import describe
from everstep.hooks import payload_classes


@dataclass
class Verdict(BaseHook):
    fine: bool


def test_a_disposed_hook_has_no_answer_about_its_token(app, env):
    @app.workflow
    async def body():
        hook = Verdict.wait(token="door")
        await sleep(1)
        hook.dispose()
        with pytest.raises(HookDisposedError):
            await hook.get_conflict()
        return "went on"

    run = env.start(body)
    env.run_until_idle()
    assert env.connection.get(run.run_id).closed  # wait() would wait for ever
    assert run.wait() == "went on"


def test_who_asks_about_the_token_of_a_hook_that_is_disposed_meanwhile_is_told(app, env):
    @app.workflow
    async def body():
        hook = Verdict.wait(token="door")
        asking = asyncio.ensure_future(hook.get_conflict())
        await asyncio.sleep(0)
        hook.dispose()
        with pytest.raises(HookDisposedError):
            await asking
        return "went on"

    run = env.start(body)
    env.run_until_idle()
    assert env.connection.get(run.run_id).closed  # wait() would wait for ever
    assert run.wait() == "went on"


@pytest.mark.parametrize("payload", [{"fine": "perhaps"}, {}, "yes", object(), {"fine": True, "at": object()}])
def test_a_payload_that_does_not_fit_is_refused_as_what_the_sender_gave(app, env, payload):
    @app.workflow
    async def body():
        return (await Verdict.wait(token="door")).fine

    run = env.start(body)
    env.run_until_idle()
    with env:
        with pytest.raises(TypeValidationError) as refused:
            resume_hook_sync("door", payload)
        assert "the payload of hook Verdict" in str(refused.value)
        assert "stored payload" not in str(refused.value)
        resume_hook_sync("door", {"fine": True})
        assert run.wait() is True


def test_messages_show_only_the_beginning_of_a_token_that_nobody_chose(app, env):
    """It is a key, and messages go to logs, and into the problem of a parked run."""

    @app.workflow
    async def body():
        hook = Verdict.wait()
        await sleep(1)
        hook.dispose()
        try:
            await hook
        except HookDisposedError as error:
            return hook.token, str(error)

    run = env.start(body)
    token, message = run.wait()
    assert token not in message
    assert token[:8] in message
    opened = env.history(run).turns[0].commands[0]
    assert token not in describe(opened)


def test_the_class_of_a_payload_is_found_by_name_among_the_modules_that_are_there(monkeypatch):
    def declare(module: str) -> type:
        kind = type("Parcel", (BaseHook,), {"__module__": module})
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
        return kind

    assert payload_classes("Parcel") == ()
    first = declare("first_shop")
    assert payload_classes("Parcel") == (first,)
    again = declare("first_shop")  # a reload
    assert payload_classes("Parcel") == (again,)
    other = declare("other_shop")
    assert payload_classes("Parcel") == (other, again)  # it must fit one of them
    monkeypatch.delitem(sys.modules, "first_shop")
    assert payload_classes("Parcel") == (other,)
