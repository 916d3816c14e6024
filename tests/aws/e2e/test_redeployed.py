"""The same stack, deployed again with other parameters. In order: the last test deletes it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from botocore.credentials import Credentials

from tests.aws.e2e.conftest import DELAY_LIMIT, PARAMETERS, phase
from tests.aws.e2e.polling import eventually
from tests.aws.e2e.project import Person, set_parameters
from tests.aws.e2e.stack import STACK, Stack
from tests.aws.servers.emulator import REGION


@dataclass(frozen=True, slots=True, kw_only=True)
class Redeployed:
    """The stack with requests that are signed instead of a token, and an app with a workflow more.

    Attributes:
        asleep: a run that slept meanwhile.
        newcomer: a run of the workflow that the first app did not have.
        caller: may use the API.
    """

    stack: Stack
    asleep: str
    newcomer: str
    caller: Credentials


@pytest.fixture(scope="module")
def redeployed(stack: Stack, operator: Person, owner: Person) -> Redeployed:
    newcomer = operator.everstep(
        "start", "e2e_late:newcomer", "--input", '{"name": "eva"}', "--stack", STACK
    ).out.strip()
    look = ("inspect", "run", newcomer, "--stack", STACK, "--json")
    eventually(lambda: operator.everstep(*look).json()["status"] == "parked", "it is parked", seconds=20)
    asleep = stack.start("sleeps", seconds=DELAY_LIMIT + 20)
    set_parameters(owner.project, {**PARAMETERS, "ApiAuth": "iam", "AppModule": "e2e_late"})
    with phase("make deploy, with other parameters"):
        owner.make("deploy")
    stack.read_outputs()
    arn = f"arn:aws:execute-api:{REGION}:*:{stack.outputs['ApiId']}/*"
    caller = stack.user("caller", {"Effect": "Allow", "Action": "execute-api:Invoke", "Resource": arn})
    return Redeployed(stack=stack, asleep=asleep, newcomer=newcomer, caller=caller)


def test_what_works_is_what_was_deployed(redeployed: Redeployed, operator: Person) -> None:
    """Parameters alone have changed, and still there are new versions, to which the aliases point."""
    done = operator.everstep("deploy-check", "--stack", STACK, "--json")
    checked = {each["name"]: each["text"] for each in done.json()["checks"]}
    assert "alias live is version 2, " in checked["worker"]
    assert checked["worker"].endswith("app e2e_late")
    assert checked["API"].endswith("/health answers, iam needed for the rest")


def test_signed_requests_instead_of_a_token(redeployed: Redeployed) -> None:
    stack, caller = redeployed.stack, redeployed.caller
    path = f"/v1/runs/{redeployed.asleep}"
    assert stack.request("GET", path, token=None).status == 403
    assert stack.request("GET", path).status in (401, 403)  # the emulator leaves it to the function to refuse this
    assert stack.request("GET", path, sign=stack.user("stranger")).status == 403
    assert stack.request("GET", path, sign=Credentials(caller.access_key, "not the right secret")).status == 403
    assert stack.request("GET", path, sign=caller).status == 200
    assert stack.result(stack.start("three_steps", name="sig", sign=caller), sign=caller) == "HELLO SIG!"


def test_a_run_that_slept_meanwhile(redeployed: Redeployed) -> None:
    assert redeployed.stack.result(redeployed.asleep, sign=redeployed.caller) >= DELAY_LIMIT + 20


def test_a_run_that_waited_for_its_workflow(redeployed: Redeployed, operator: Person) -> None:
    done = operator.everstep("resume", redeployed.newcomer, "--stack", STACK, "--wait")
    assert done.out == '"hello eva"\n'


def test_nothing_else_went_wrong(stack: Stack) -> None:
    """In all the runs above: no error in a log but those that were caused."""
    caused = (
        "a dead letter cannot be read",
        "run parked: a message for it cannot be read",
        "run parked: its AdvanceRun message was given up",
        "run parked: workflow 'newcomer' is not registered with this app",
    )
    for function in ("api", "worker", "deadletter"):
        records = stack.records(function)
        assert records
        for record in records:
            assert record["level"] not in ("ERROR", "CRITICAL") or record["message"].startswith(caused), record
        text = "\n".join(stack.logs(function))
        assert "access denied" not in text.lower()
        assert "Traceback" not in text
        assert stack.token not in text


def test_delete(stack: Stack, owner: Person) -> None:
    table = stack.outputs["Table"]
    with phase("sam delete"):
        owner.sam("delete", "--stack-name", STACK, "--no-prompts")
    cloudformation = stack.client("cloudformation")
    with pytest.raises(cloudformation.exceptions.ClientError, match="does not exist"):
        cloudformation.describe_stacks(StackName=STACK)
    assert table not in stack.client("dynamodb").list_tables()["TableNames"]
