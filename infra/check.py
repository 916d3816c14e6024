"""Do template, handlers and settings agree? Says what does not, one line each.

python -m infra.check
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

from infra.calls import BACKEND, BackendSource
from infra.template import Scope, Template, Value, load_template, sequence

ROOT: Final = Path(__file__).resolve().parent.parent

FUNCTIONS: Final = {"WorkerFunction": "WorkerRole", "ApiFunction": "ApiRole", "DeadLetterFunction": "DeadLetterRole"}

READERS: Final = ("settings.py", "serverless", "web")
"""Where the functions' code reads variables, under ``adapter/everstep``; and ``handlers``."""

LOCAL_ONLY: Final = frozenset({"EVERSTEP_DB", "EVERSTEP_SYNCHRONOUS", "EVERSTEP_DEBUG"})
"""Variables that mean nothing to a function."""

AWAITED: Final[frozenset[str]] = frozenset()
"""Variables that the template sets before the code that reads them is there."""

VISIBILITY_FACTOR: Final = 6
"""What AWS recommends: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html"""

SHORTEST_REDRIVE: Final = 11
"""The engine itself gives up a step at its eleventh receive, with a better message than the dead-letter handler has."""

USES: Final[Mapping[str, tuple[str, ...]]] = {
    "WorkerFunction": (
        *("runs.create", "runs.load", "runs.append", "runs.mark"),
        *("inbox.deposit", "inbox.remove", "inbox.raise_flag", "inbox.lower_flag"),
        *("hooks.claim", "hooks.find", "hooks.release"),
        *("steps.record", "steps.claim", "steps.failed_attempts", "steps.request_cancel", "steps.cancel_requested"),
        *("inspector.get_run", "inspector.published"),  # the latter for steps that ask other runs
        *("streams.append", "streams.read", "streams.find", "streams.enter"),
        *("queue.send", "queue.discard", "queue.defer", "queue.read_body"),
    ),
    "ApiFunction": (
        *("runs.create", "runs.load", "runs.append", "runs.mark"),  # append: a rerun takes turns over
        *("inbox.deposit", "inbox.raise_flag", "inbox.lower_flag"),  # the flags: a probe of the queue
        *("inspector.get_run", "inspector.list_runs", "inspector.published"),
        *("hooks.find", "steps.failed_attempts", "streams.read", "streams.find", "streams.names", "queue.send"),
    ),
    "DeadLetterFunction": (
        *("runs.create", "runs.load", "runs.mark"),
        *("inbox.deposit", "inbox.raise_flag"),
        *("queue.send", "queue.read_body"),
    ),
}
"""Which methods of the ports each function uses. A test compares this with the modules above the backend."""

BESIDES: Final[Mapping[str, frozenset[str]]] = {
    "WorkerFunction": frozenset(),
    "ApiFunction": frozenset({"secretsmanager:GetSecretValue"}),  # everstep.serverless.tokens, by Powertools
    "DeadLetterFunction": frozenset(),
}
"""Calls that do not go through the backend."""

NEVER: Final[Mapping[str, frozenset[str]]] = {
    "ApiFunction": frozenset({"dynamodb:BatchWriteItem"}),  # it lowers one flag at a time
    "DeadLetterFunction": frozenset({"scheduler:CreateSchedule"}),  # it only wakes runs, which is due at once
}
"""Calls that a method could make and this function does not."""

ACTIONS: Final = {"sqs:SendMessageBatch": "sqs:SendMessage", "s3:HeadObject": "s3:GetObject"}
"""What a policy must allow, where it is not named as the operation."""

LONGEST_DESCRIPTION: Final = 256
"""Of a version."""

NOT_OF_A_VERSION: Final = ("AutoPublishAlias", "AutoPublishAliasAllProperties", "Events")
"""Properties that SAM makes other resources of."""

PLATFORM: Final = frozenset(
    {
        *("logs:CreateLogStream", "logs:PutLogEvents", "xray:PutTelemetryRecords", "xray:PutTraceSegments"),
        *("sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"),
    }
)
"""What Lambda itself does with a function's role."""


def check_all(template: Template, root: Path = ROOT) -> list[str]:
    """Everything that does not agree."""
    return [
        *check_handlers(template, root),
        *check_environment(template, root),
        *check_versions(template),
        *check_queues(template),
        *check_table(template, root),
        *check_permissions(template, root),
    ]


def check_handlers(template: Template, root: Path) -> Iterator[str]:
    for function in FUNCTIONS:
        path = str(template.properties(function).get("Handler", ""))
        module, _, name = path.rpartition(".")
        file = root / (module.replace(".", "/") + ".py")
        if not file.is_file():
            yield f"{function}: handler {path} is not there ({file.relative_to(root)})"
        elif name not in _names_at_top(file):
            yield f"{function}: {file.relative_to(root)} defines no {name}"


def check_environment(template: Template, root: Path) -> Iterator[str]:
    read = variables_read(root)
    set_somewhere: set[str] = set()
    for function in FUNCTIONS:
        variables = cast("Mapping[str, Any]", template.properties(function)["Environment"])["Variables"]
        set_somewhere |= set(variables)
        if str(variables.get("PYTHONHASHSEED")) != "0":
            yield f"{function}: PYTHONHASHSEED must be 0, or sets of strings do not replay"
    ours = {name for name in set_somewhere if name.startswith("EVERSTEP_")}
    for name in sorted(read - ours - LOCAL_ONLY):
        yield f"the code reads {name}, which the template does not set"
    for name in sorted(ours - read - AWAITED):
        yield f"the template sets {name}, which no code reads"
    for name in sorted(AWAITED & read):
        yield f"the code reads {name} now: take it out of AWAITED in infra/check.py"


def check_versions(template: Template) -> Iterator[str]:
    """A version is published anew exactly when something in the function's properties is: see the template."""
    for function in FUNCTIONS:
        properties = dict(template.properties(function))
        described = set(parameters_in(template, properties.pop("VersionDescription", None)))
        for apart in NOT_OF_A_VERSION:
            properties.pop(apart, None)
        used = set(parameters_in(template, properties))
        for name in sorted(used - described):
            yield f"{function}: a new value of {name} makes no new version: name it in VersionDescription"
        for name in sorted(described - used):
            yield f"{function}: VersionDescription names {name}, which does not change the function"
        longest = sum(longest_value(template, name) + 1 for name in described)
        if longest > LONGEST_DESCRIPTION:
            yield f"{function}: VersionDescription may have {longest} characters, and AWS takes {LONGEST_DESCRIPTION}"


def longest_value(template: Template, parameter: str) -> int:
    """Characters that a value may have; without a limit, as many as CloudFormation lets a parameter have."""
    properties = template.parameters[parameter]
    if "AllowedValues" in properties:
        return max(len(each) for each in _allowed(template, parameter))
    if "MaxValue" in properties:
        return len(str(properties["MaxValue"]))
    return int(str(properties.get("MaxLength", 4096)))


def parameters_in(template: Template, value: Value | Mapping[str, Value]) -> Iterator[str]:
    """Parameters that the value refers to, directly or by a condition."""
    match value:
        case {"Ref": str(name)} if name in template.parameters:
            yield name
        case {"Fn::Sub": str(text)}:
            yield from (name for name in re.findall(r"\$\{([^}!]+)\}", text) if name in template.parameters)
        case {"Fn::If": [str(condition), *branches]}:
            yield from parameters_in(template, template.section("Conditions")[condition])
            yield from parameters_in(template, branches)
        case dict():
            for each in value.values():
                yield from parameters_in(template, each)
        case list():
            for each in value:
                yield from parameters_in(template, each)
        case _:
            pass


def check_queues(template: Template) -> Iterator[str]:
    scope = Scope(template=template)
    for timeout in _allowed(template, "WorkerTimeout"):
        visibility = Scope(template=template, parameters={"WorkerTimeout": timeout}).text(
            template.properties("WorkQueue")["VisibilityTimeout"]
        )
        if int(visibility) < VISIBILITY_FACTOR * int(timeout):
            yield f"WorkQueue: visible again after {visibility} s, with a timeout of {timeout} s"
    dead = int(scope.text(template.properties("DeadLetterQueue")["VisibilityTimeout"]))
    if dead < VISIBILITY_FACTOR * int(scope.text(template.properties("DeadLetterFunction")["Timeout"])):
        yield f"DeadLetterQueue: visible again after {dead} s"
    for queue in ("WorkQueue", "DeadLetterQueue"):
        if template.properties(queue).get("ReceiveMessageWaitTimeSeconds") != 20:
            yield f"{queue}: no long polling"
    redrive = cast("Mapping[str, Any]", template.properties("WorkQueue")["RedrivePolicy"])
    if int(scope.text(redrive["maxReceiveCount"])) <= SHORTEST_REDRIVE:
        yield f"WorkQueue: a message is given up before its {SHORTEST_REDRIVE}th receive, which the engine wants to see"
    for function, queue in (("WorkerFunction", "WorkQueue"), ("DeadLetterFunction", "DeadLetterQueue")):
        source = cast("Mapping[str, Any]", template.properties(function)["Events"])[queue]["Properties"]
        if source.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
            yield f"{function}: answers of {queue} are not read, so a failed message is deleted with its batch"
        if scope.text(source["BatchSize"]) != "1":
            yield f"{function}: the batch size of {queue} is not 1 by default"


def check_table(template: Template, root: Path) -> Iterator[str]:
    properties = cast("Mapping[str, Any]", template.properties("RunsTable"))
    keys = [(each["AttributeName"], each["KeyType"]) for each in properties["KeySchema"]]
    if keys != [("pk", "HASH"), ("sk", "RANGE")]:
        yield f"RunsTable: keys {keys}"
    if properties.get("BillingMode") != "PAY_PER_REQUEST":
        yield "RunsTable: not on demand"
    used = _constants(root / BACKEND)
    ttl = properties["TimeToLiveSpecification"]["AttributeName"]
    if ttl not in used:
        yield f"RunsTable: the code sets no {ttl}, which is the attribute of its time to live"
    for index in properties["GlobalSecondaryIndexes"]:
        attributes = [each["AttributeName"] for each in index["KeySchema"]]
        for name in (index["IndexName"], *attributes):
            if name not in used:
                yield f"RunsTable: the code does not mention {name} of index {index['IndexName']}"
        if index["Projection"] != {"ProjectionType": "KEYS_ONLY"}:
            yield f"RunsTable: index {index['IndexName']} holds more than keys"


def check_permissions(template: Template, root: Path) -> Iterator[str]:
    backend = BackendSource(root)
    for function, role in FUNCTIONS.items():
        granted = role_actions(template, role) - PLATFORM
        needed = needed_actions(backend, function)
        for action in sorted(needed - granted):
            yield f"{role}: {function} calls {action}, which is not allowed"
        for action in sorted(granted - needed):
            yield f"{role}: {action} is allowed, and {function} never calls it"
        for statement in role_statements(template, role):
            resource, actions = statement["Resource"], set(cast("list[str]", sequence(statement["Action"], role)))
            if resource == "*" and not all(action.startswith("xray:") for action in actions):
                yield f"{role}: {', '.join(sorted(actions))} on every resource"


def needed_actions(backend: BackendSource, function: str) -> frozenset[str]:
    """What a function calls, as IAM names it."""
    operations = frozenset().union(*(backend.operations(use) for use in USES[function])) | BESIDES[function]
    actions = {ACTIONS.get(each, each) for each in operations - NEVER.get(function, frozenset())}
    if "scheduler:CreateSchedule" in actions:
        actions.add("iam:PassRole")
    return frozenset(actions)


def role_actions(template: Template, role: str) -> frozenset[str]:
    return frozenset(
        str(action) for statement in role_statements(template, role) for action in sequence(statement["Action"], role)
    )


def role_statements(template: Template, role: str) -> Iterator[Mapping[str, Any]]:
    """A role's statements, also those that depend on a condition."""
    for policy in cast("list[Any]", template.properties(role)["Policies"]):
        for statement in policy["PolicyDocument"]["Statement"]:
            yield statement["Fn::If"][1] if "Fn::If" in statement else statement


def variables_read(root: Path) -> frozenset[str]:
    """Variables that begin with ``EVERSTEP_`` and are named in the code, or its docstrings, of those who read them."""
    places = [root / "handlers", *(root / "adapter" / "everstep" / each for each in READERS)]
    files = [file for place in places for file in (place.rglob("*.py") if place.is_dir() else [place])]
    return frozenset(name for file in files for name in re.findall(r"\bEVERSTEP_[A-Z_]*[A-Z]\b", file.read_text()))


def _names_at_top(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        match node:
            case ast.FunctionDef(name=name):
                names.add(name)
            case ast.Assign(targets=targets):
                names |= {each.id for each in targets if isinstance(each, ast.Name)}
            case ast.ImportFrom(names=imported):
                names |= {each.asname or each.name for each in imported}
            case _:
                pass
    return names


def _constants(folder: Path) -> frozenset[str]:
    """Texts that are constants somewhere in the code."""
    return frozenset(
        node.value
        for file in folder.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _allowed(template: Template, parameter: str) -> list[str]:
    return [str(each) for each in sequence(template.parameters[parameter]["AllowedValues"], parameter)]


def main() -> int:
    problems = check_all(load_template())
    sys.stdout.writelines(f"{problem}\n" for problem in problems)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
