"""What `deploy-check` looks at. Each check asks AWS about one thing, says how it is, and what to do if it is not right.

The names of resources come from the stack's outputs alone, so what is checked is what clients use.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final, TypeAlias

from everstep.cli.cloud import Cloud, Stack
from everstep.cli.store import OUTPUTS
from everstep.errors import EverstepError

NEEDED: Final = (*OUTPUTS, "DeadLetterQueueUrl", "WorkerFunction", "WorkerAlias", "DeadLetterFunction", "ApiFunction")
NEEDED_FOR_API: Final = ("ApiUrl",)
ALIAS: Final = "live"
EXPIRES_AT: Final = "expires_at"
PARTIAL: Final = "ReportBatchItemFailures"
API_SECONDS: Final = 20
_SAME: Final = ("CodeSha256", "Environment", "Handler", "MemorySize", "Runtime", "Timeout")
"""Of a function's newest configuration and of the version that works."""

_DEPLOY: Final = "deploy again: sam build && sam deploy"
_BY_HAND: Final = "a deploy does not undo what was changed by hand"
_VISIBILITY_FACTOR: Final = 6
"""Of a function's timeout, in the template."""


class Mark(StrEnum):
    """How a check ended. Only `FAILED` counts against the deployment."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What one check found.

    Attributes:
        advice: what to do; empty if there is nothing.
    """

    name: str
    mark: Mark
    text: str
    advice: str = ""


Finding: TypeAlias = tuple[Mark, str, str]
Look: TypeAlias = Callable[[], Finding]


def _ok(text: str) -> Finding:
    return Mark.OK, text, ""


def _warning(text: str, advice: str) -> Finding:
    return Mark.WARNING, text, advice


def _failed(text: str, advice: str) -> Finding:
    return Mark.FAILED, text, advice


def made(name: str, look: Look) -> Check:
    """The check's result. What cannot be looked at has failed: one does not know."""
    try:
        mark, text, advice = look()
    except EverstepError as error:
        return _impossible(name, error)
    return Check(name=name, mark=mark, text=text, advice=advice)


def _impossible(name: str, error: EverstepError) -> Check:
    """The errors of `Cloud` say what is wrong, and after ``; `` what to do."""
    text, _, advice = " ".join(str(error).split()).partition("; ")
    return Check(name=name, mark=Mark.FAILED, text=text, advice=advice)


def checks(cloud: Cloud, name: str) -> Iterator[Check]:
    """All checks but the round trip, one after the other; without credentials or a stack there are no more."""
    first = made("credentials", partial(_credentials, cloud))
    yield first
    if first.mark is Mark.FAILED:
        return
    try:
        stack = cloud.stack(name)
    except EverstepError as error:
        yield _impossible("stack", error)
        return
    yield made("stack", partial(_stack, stack))
    outputs = made("outputs", partial(_outputs, stack))
    yield outputs
    if outputs.mark is Mark.FAILED:
        return
    found = stack.outputs
    looks: tuple[tuple[str, Look], ...] = (
        ("table", partial(_table, cloud, found["Table"])),
        ("bucket", partial(_bucket, cloud, found["Bucket"])),
        ("schedules", partial(_schedules, cloud, found["ScheduleGroup"])),
        ("worker", partial(_function, cloud, found["WorkerFunction"], found)),
        ("worker's queue", partial(_mapping, cloud, found["WorkerAlias"], found["QueueArn"])),
        ("queue", partial(_queue, cloud, found["QueueUrl"], found["WorkerFunction"])),
        ("dead letters", partial(_dead_letters, cloud, found)),
        ("API", partial(_api, cloud, found)),
        ("worker starts", partial(_starts, cloud, found["WorkerAlias"])),
    )
    for each, look in looks:
        yield made(each, look)


# --- who and what ----------------------------------------------------------------------------------


def _credentials(cloud: Cloud) -> Finding:
    who = cloud.call("sts", "GetCallerIdentity", "your account")
    return _ok(f"{who['Arn']} in account {who['Account']}, region {cloud.region}")


def _stack(stack: Stack) -> Finding:
    text = f"{stack.name} is {stack.status}"
    if stack.changed_at is not None:
        text += f" since {stack.changed_at:%Y-%m-%d %H:%M} UTC"
    because = f" ({stack.reason})" if stack.reason else ""
    events = f"why: aws cloudformation describe-stack-events --stack-name {stack.name}{because}"
    if stack.status in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"):
        return _ok(text)
    if stack.status == "UPDATE_ROLLBACK_COMPLETE":
        return _warning(text, f"the last deploy failed and what was there before works on; {events}")
    if stack.status.endswith("_IN_PROGRESS"):
        return _failed(text, "wait until it has ended, and check again")
    if stack.status == "ROLLBACK_COMPLETE":
        return _failed(text, f"its first deploy failed: delete it (sam delete) and {_DEPLOY}; {events}")
    return _failed(text, f"{_DEPLOY}; {events}")


def _outputs(stack: Stack) -> Finding:
    missing = [name for name in (*NEEDED, *NEEDED_FOR_API) if not stack.outputs.get(name)]
    if missing:
        return _failed(f"there is no {', '.join(missing)}", f"the template is older or another: {_DEPLOY}")
    return _ok(f"all {len(NEEDED) + len(NEEDED_FOR_API)} that are needed, app {stack.outputs.get('App', 'unknown')}")


# --- data ------------------------------------------------------------------------------------------


def _table(cloud: Cloud, name: str) -> Finding:
    what = f"table {name!r}"
    table = cloud.call("dynamodb", "DescribeTable", what, TableName=name)["Table"]
    life = cloud.call("dynamodb", "DescribeTimeToLive", what, TableName=name)["TimeToLiveDescription"]
    backups = cloud.call("dynamodb", "DescribeContinuousBackups", what, TableName=name)["ContinuousBackupsDescription"]
    recovery = backups.get("PointInTimeRecoveryDescription", {}).get("PointInTimeRecoveryStatus")
    indexes = {each["IndexName"]: each.get("IndexStatus", "ACTIVE") for each in table.get("GlobalSecondaryIndexes", ())}
    text = f"{name} is {table['TableStatus']}, {len(indexes)} indexes"
    if table["TableStatus"] not in ("ACTIVE", "UPDATING"):
        return _failed(text, f"wait, or {_DEPLOY}")
    building = [index for index, status in indexes.items() if status != "ACTIVE"]
    if len(indexes) < 2 or building:
        return _failed(f"{text}, not all of them active", f"wait, or {_DEPLOY}")
    if life.get("TimeToLiveStatus") not in ("ENABLED", "ENABLING") or life.get("AttributeName") != EXPIRES_AT:
        return _failed(f"{text}, items do not expire", f"turn TTL on for the attribute {EXPIRES_AT}, or {_DEPLOY}")
    if recovery != "ENABLED":
        return _failed(f"{text}, no point-in-time recovery", f"turn it on, or {_DEPLOY}: without it lost data is lost")
    text += ", TTL and point-in-time recovery on"
    if not table.get("DeletionProtectionEnabled"):
        return _warning(
            f"{text}, deletion protection off", "deploy with DeletionProtection=true, unless this is a trial"
        )
    return _ok(f"{text}, protected from deletion")


def _bucket(cloud: Cloud, name: str) -> Finding:
    cloud.call("s3", "HeadBucket", f"bucket {name!r}", Bucket=name)
    return _ok(name)


def _schedules(cloud: Cloud, name: str) -> Finding:
    group = cloud.call("scheduler", "GetScheduleGroup", f"schedule group {name!r}", Name=name)
    if group.get("State", "ACTIVE") != "ACTIVE":
        return _failed(f"{name} is {group['State']}", _DEPLOY)
    return _ok(f"group {name}")


def _queue(cloud: Cloud, url: str, worker: str) -> Finding:
    found = _attributes(cloud, url)
    name = url.rpartition("/")[2]
    hidden = int(found.get("VisibilityTimeout", "0"))
    timeout = int(
        cloud.call("lambda", "GetFunctionConfiguration", f"function {worker!r}", FunctionName=worker)["Timeout"]
    )
    text = f"{_depth(found)}; visibility timeout {hidden} s"
    if hidden < timeout:
        return _failed(
            f"{text}, less than the worker's {timeout} s",
            f"messages would be handled twice at once: set it to {_VISIBILITY_FACTOR * timeout} s; {_BY_HAND}",
        )
    if not found.get("RedrivePolicy"):
        return _failed(
            f"{text}; no dead-letter queue",
            f"a poisonous message would circle for ever in {name}: give it back its redrive policy; {_BY_HAND}",
        )
    receives = json.loads(found["RedrivePolicy"]).get("maxReceiveCount")
    return _ok(f"{text}, dead letters after {receives} receives")


def _dead_letters(cloud: Cloud, outputs: Mapping[str, str]) -> Finding:
    found = _attributes(cloud, outputs["DeadLetterQueueUrl"])
    mark, text, advice = _function(cloud, outputs["DeadLetterFunction"], outputs)
    if mark is not Mark.FAILED:
        alias = f"{_unqualified(outputs['WorkerAlias'], outputs['DeadLetterFunction'])}:{ALIAS}"
        mark, text, advice = _mapping(cloud, alias, found["QueueArn"])
    if mark is Mark.FAILED:
        return mark, f"{_depth(found)}; {text}", advice
    if any(
        int(found.get(each, "0")) for each in ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
    ):
        return _warning(
            f"{_depth(found)}; {text}",
            f"these should soon be gone; if not, the log of {outputs['DeadLetterFunction']} says why, and 'everstep "
            f"inspect runs --status parked' shows what became of them",
        )
    return _ok(f"{_depth(found)}; {text}")


def _attributes(cloud: Cloud, url: str) -> dict[str, str]:
    name = url.rpartition("/")[2]
    answer = cloud.call("sqs", "GetQueueAttributes", f"queue {name!r}", QueueUrl=url, AttributeNames=["All"])
    found: dict[str, str] = answer.get("Attributes", {})
    return found


def _depth(found: Mapping[str, str]) -> str:
    waiting = found.get("ApproximateNumberOfMessages", "?")
    under_way = found.get("ApproximateNumberOfMessagesNotVisible", "?")
    delayed = found.get("ApproximateNumberOfMessagesDelayed", "?")
    return f"{waiting} waiting, {under_way} under way, {delayed} delayed"


# --- functions -------------------------------------------------------------------------------------


def _function(cloud: Cloud, name: str, outputs: Mapping[str, str]) -> Finding:
    what = f"function {name!r}, alias {ALIAS!r}"
    alias = cloud.call("lambda", "GetAlias", what, FunctionName=name, Name=ALIAS)
    version = str(alias["FunctionVersion"])
    found = cloud.call("lambda", "GetFunctionConfiguration", what, FunctionName=name, Qualifier=ALIAS)
    text = f"{name}, alias {ALIAS} is version {version}, {found.get('Runtime')}, {found.get('MemorySize')} MB"
    if version == "$LATEST":
        return _failed(text, f"the alias must name a version, so that runs under way keep their code: {_DEPLOY}")
    if alias.get("RoutingConfig", {}).get("AdditionalVersionWeights"):
        return _warning(
            f"{text}, and part of the work goes to another", "two versions that differ may park each other's runs"
        )
    state = found.get("State") or "Active"
    if state not in ("Active", "Inactive"):  # inactive: idle for long, and made ready by the next invocation
        return _failed(f"{text}, {state}: {found.get('StateReason', 'no reason given')}", "wait, or deploy again")
    newest = cloud.call("lambda", "GetFunctionConfiguration", f"function {name!r}", FunctionName=name)
    behind = [each for each in _SAME if newest.get(each) != found.get(each)]
    if behind:
        return _failed(
            f"{text}, which is not what was deployed last ({', '.join(behind)} differ)",
            f"publish a version of {name} and point the alias {ALIAS} at it, or {_DEPLOY}",
        )
    variables = found.get("Environment", {}).get("Variables", {})
    wrong = [variable for each, variable in OUTPUTS.items() if variables.get(variable) != outputs[each]]
    if wrong:
        return _failed(
            f"{text}; {', '.join(wrong)} is not what the outputs say",
            f"set it right, publish a version of {name} and point the alias {ALIAS} at it; {_BY_HAND}",
        )
    return _ok(f"{text}, app {variables.get('EVERSTEP_APP')}")


def _mapping(cloud: Cloud, alias: str, queue: str) -> Finding:
    what = f"the event source mappings of {alias}"
    found = cloud.call("lambda", "ListEventSourceMappings", what, EventSourceArn=queue)
    all_mappings = found.get("EventSourceMappings", [])
    mappings = [each for each in all_mappings if each.get("FunctionArn") == alias]
    if not mappings:
        elsewhere = ", ".join(each.get("FunctionArn", "?") for each in all_mappings)
        text = f"the queue does not invoke {alias}" + (f" but {elsewhere}" if elsewhere else "")
        return _failed(text, _DEPLOY)
    mapping = mappings[0]
    text = f"{mapping.get('State')}, batches of {mapping.get('BatchSize')}"
    if mapping.get("State") != "Enabled":
        reason = mapping.get("StateTransitionReason") or "no reason given"
        return _failed(f"{text} ({reason})", f"nothing is worked on: enable event source mapping {mapping.get('UUID')}")
    if PARTIAL not in (mapping.get("FunctionResponseTypes") or ()):
        return _failed(
            f"{text}, without partial responses",
            f"failed messages would be lost: event source mapping {mapping.get('UUID')} needs {PARTIAL}; {_BY_HAND}",
        )
    return _ok(f"{text}, partial responses")


def _unqualified(alias: str, function: str) -> str:
    """The ARN of another function beside the one of this alias."""
    return ":".join([*alias.split(":")[:6], function])


def _starts(cloud: Cloud, alias: str) -> Finding:
    """Invoke the worker without a message: it starts, reads its settings, imports the app, and answers."""
    answer = cloud.call(
        "lambda", "Invoke", f"function {alias}", FunctionName=alias, Payload=json.dumps({"Records": []}).encode()
    )
    payload = answer.get("Payload", b"").decode("utf-8", "replace")
    if not answer.get("FunctionError"):
        if "batchItemFailures" in payload:
            return _ok("it starts, and its app can be imported")
        return _failed(f"it answered {_short(payload)}", f"this is not Everstep's worker: {_DEPLOY}")
    try:
        error = json.loads(payload)
        text = f"{error.get('errorType', 'Error')}: {error.get('errorMessage', payload)}"
    except (ValueError, AttributeError):
        text = payload or "an error without a message"
    return _failed(
        f"it fails: {_short(text)}", "mend app.py or requirements.txt, and deploy again; its log has the traceback"
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:299] + "…"


def _api(cloud: Cloud, outputs: Mapping[str, str]) -> Finding:
    mark, text, advice = _function(cloud, outputs["ApiFunction"], outputs)
    if mark is Mark.FAILED:
        return mark, text, advice
    url = outputs["ApiUrl"].rstrip("/") + "/health"
    if not url.startswith(("https://", "http://")):
        return _failed(f"output ApiUrl is {outputs['ApiUrl']!r}, which is no URL", _DEPLOY)
    log = f"the log of {outputs['ApiFunction']} says why"
    try:
        with urllib.request.urlopen(url, timeout=API_SECONDS) as answer:
            answer.read()
        return _ok(f"{url} answers, {outputs.get('ApiAuth', 'token')} needed for the rest")
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 403 and outputs.get("ApiAuth") == "iam":
            return _ok(f"{url} refuses requests that are not signed, as it must")
        return _failed(f"{url} answers {error.code} {error.reason}", log)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        return _failed(f"{url} does not answer ({reason})", f"if this machine can reach it, {log}")
