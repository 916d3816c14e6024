"""Template, handlers and settings agree, and the checks see it when they do not."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest

from infra import check
from infra.calls import BackendSource, backend_uses
from infra.template import Template, load_template
from tests.aws.e2e import operators

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def template() -> Template:
    return Template(copy.deepcopy(dict(load_template().sections)))


@pytest.fixture(scope="module")
def backend() -> BackendSource:
    return BackendSource(ROOT)


def test_they_agree(template):
    assert check.check_all(template) == []


# --- what the checks see ---------------------------------------------------------------------------


def statements(template, role):
    return template.resources[role]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]


def test_an_action_that_is_missing(template):
    for each in statements(template, "WorkerRole"):
        if each.get("Sid") == "Runs":
            each["Action"].remove("dynamodb:PutItem")
    assert list(check.check_permissions(template, ROOT)) == [
        "WorkerRole: WorkerFunction calls dynamodb:PutItem, which is not allowed"
    ]


def test_an_action_that_is_never_called(template):
    statements(template, "ApiRole").append({"Action": "dynamodb:DescribeTable", "Resource": "x"})
    assert list(check.check_permissions(template, ROOT)) == [
        "ApiRole: dynamodb:DescribeTable is allowed, and ApiFunction never calls it"
    ]


def test_a_statement_for_every_resource(template):
    statements(template, "DeadLetterRole").append({"Action": ["dynamodb:Query"], "Resource": "*"})
    assert list(check.check_permissions(template, ROOT)) == ["DeadLetterRole: dynamodb:Query on every resource"]


def test_a_handler_that_is_not_there(template):
    template.resources["ApiFunction"]["Properties"]["Handler"] = "handlers.nowhere.handler"
    template.resources["WorkerFunction"]["Properties"]["Handler"] = "handlers.worker.other"
    assert list(check.check_handlers(template, ROOT)) == [
        "WorkerFunction: handlers/worker.py defines no other",
        "ApiFunction: handler handlers.nowhere.handler is not there (handlers/nowhere.py)",
    ]


def test_a_variable_that_is_not_set_and_one_that_is_not_read(template):
    variables = template.sections["Globals"]["Function"]["Environment"]["Variables"]
    del variables["EVERSTEP_TABLE"]
    variables["EVERSTEP_NOBODY"] = "1"
    assert list(check.check_environment(template, ROOT)) == [
        "the code reads EVERSTEP_TABLE, which the template does not set",
        "the template sets EVERSTEP_NOBODY, which no code reads",
    ]


def test_a_hash_seed_that_is_not_fixed(template):
    template.sections["Globals"]["Function"]["Environment"]["Variables"]["PYTHONHASHSEED"] = "random"
    assert len([each for each in check.check_environment(template, ROOT) if "PYTHONHASHSEED" in each]) == 3


def test_parameters_that_make_no_version_and_one_that_changes_nothing(template):
    template.sections["Globals"]["Function"]["Tags"] = {"x": {"Fn::If": ["HasAlarmTopic", 1, {"Ref": "BatchSize"}]}}
    worker, api = (template.resources[name]["Properties"] for name in ("WorkerFunction", "ApiFunction"))
    worker["VersionDescription"] = {"Fn::Sub": worker["VersionDescription"]["Fn::Sub"].replace("${WorkerMemory}", "")}
    api["VersionDescription"] = {"Fn::Sub": api["VersionDescription"]["Fn::Sub"] + "${MaxReceives}"}
    found = list(check.check_versions(template))
    assert [each for each in found if each.startswith("WorkerFunction")] == [
        f"WorkerFunction: a new value of {name} makes no new version: name it in VersionDescription"
        for name in ("AlarmTopicArn", "BatchSize", "WorkerMemory")
    ]
    assert "ApiFunction: VersionDescription names MaxReceives, which does not change the function" in found


def test_a_description_of_a_version_that_may_be_too_long(template):
    del template.sections["Parameters"]["ApiOrigins"]["MaxLength"]
    (found,) = check.check_versions(template)
    assert re.fullmatch(r"ApiFunction: VersionDescription may have 4\d\d\d characters, and AWS takes 256", found)


def test_queues_that_lose_or_repeat_messages(template):
    template.sections["Mappings"]["Visibility"]["900"]["Seconds"] = 900
    template.resources["DeadLetterQueue"]["Properties"]["VisibilityTimeout"] = 60
    template.resources["WorkQueue"]["Properties"]["ReceiveMessageWaitTimeSeconds"] = 0
    template.sections["Parameters"]["MaxReceives"]["Default"] = 3
    source = template.resources["WorkerFunction"]["Properties"]["Events"]["WorkQueue"]["Properties"]
    del source["FunctionResponseTypes"]
    source["BatchSize"] = 10
    assert list(check.check_queues(template)) == [
        "WorkQueue: visible again after 900 s, with a timeout of 900 s",
        "DeadLetterQueue: visible again after 60 s",
        "WorkQueue: no long polling",
        "WorkQueue: a message is given up before its 11th receive, which the engine wants to see",
        "WorkerFunction: answers of WorkQueue are not read, so a failed message is deleted with its batch",
        "WorkerFunction: the batch size of WorkQueue is not 1 by default",
    ]


def test_a_table_that_the_code_does_not_expect(template):
    properties = template.resources["RunsTable"]["Properties"]
    properties["TimeToLiveSpecification"]["AttributeName"] = "ttl_typo"
    properties["GlobalSecondaryIndexes"][0]["IndexName"] = "index-typo"
    properties["GlobalSecondaryIndexes"][1]["Projection"] = {"ProjectionType": "ALL"}
    assert list(check.check_table(template, ROOT)) == [
        "RunsTable: the code sets no ttl_typo, which is the attribute of its time to live",
        "RunsTable: the code does not mention index-typo of index index-typo",
        "RunsTable: index parked-runs holds more than keys",
    ]


def test_the_programs_answer(capsys):
    assert check.main() == 0
    assert capsys.readouterr().out == ""


# --- calls, derived from the code ------------------------------------------------------------------


def test_methods_are_followed_to_the_calls(backend):
    assert backend.operations("runs.append") == {"dynamodb:PutItem", "dynamodb:GetItem", "s3:PutObject"}
    assert backend.operations("queue.discard") == {"scheduler:DeleteSchedule"}
    assert backend.operations("queue.read_body") == {"s3:GetObject"}  # a method given as an argument


def test_every_call_of_the_backend_is_reached_from_a_port(backend):
    reached = {
        operation
        for port in backend.ports
        for method in backend.methods(port)
        for operation in backend.operations(f"{port}.{method}")
    }
    assert reached == backend.all_operations()


def test_a_method_that_is_not_there_is_an_error(backend):
    with pytest.raises(ValueError, match="typo"):
        backend.operations("runs.typo")


def test_what_a_message_leads_to_is_listed_for_the_worker():
    modules = ("advance", "deliver", "execute", "handle", "requests")
    used = backend_uses(ROOT, *(f"runtime/{module}.py" for module in modules))
    assert used <= set(check.USES["WorkerFunction"])


def test_what_the_functions_own_modules_use_is_listed():
    assert backend_uses(ROOT, "serverless/deadletter.py") <= set(check.USES["DeadLetterFunction"])
    every = {use for uses in check.USES.values() for use in uses}
    assert backend_uses(ROOT, "serverless", "web") <= every


def test_what_is_listed_is_used_somewhere(backend):
    """Except for what the assembly calls on the queue by itself, and streams, whose store is handed on."""
    used = backend_uses(ROOT, "runtime", "serverless", "web") | {"queue.defer", "queue.read_body"}
    used |= {f"streams.{method}" for method in backend.methods("streams")}
    assert {use for uses in check.USES.values() for use in uses} <= used


# --- people ----------------------------------------------------------------------------------------


def iam_names(operations):
    return {check.ACTIONS.get(each, each) for each in operations}


@pytest.mark.parametrize(
    ("row", "modules"),
    [("`inspect`", ("cli/inspect.py", "cli/runids.py")), ("`start`, `resume`", ("runtime/start.py", "cli/wait.py"))],
)
def test_the_page_says_what_a_command_needs(backend, row, modules):
    needed = iam_names(operation for use in backend_uses(ROOT, *modules) for operation in backend.operations(use))
    if "scheduler:CreateSchedule" in needed:
        needed.add("iam:PassRole")
    assert set(operators.actions(row)) == needed


def test_the_page_says_what_deploy_check_needs():
    source = (ROOT / "adapter" / "everstep" / "cli" / "checks.py").read_text()
    called = re.findall(r'cloud\.call\(\s*"(\w+)", "(\w+)"', source)
    renamed = {"s3:HeadBucket": "s3:ListBucket", "lambda:Invoke": "lambda:InvokeFunction"}
    names = {f"{service}:{operation}" for service, operation in called} - {"sts:GetCallerIdentity"}  # everybody may
    assert set(operators.actions("`deploy-check`")) == {renamed.get(name, name) for name in names}
