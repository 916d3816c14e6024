"""A stub of AWS on loopback for `everstep deploy-check`: it answers each operation with what a test has put there.

Emulators cannot be brought into most of the states that the checks look for, such as an alias that points nowhere, a
stack that was rolled back, or a function that cannot import its app.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

ACCOUNT: Final = "123456789012"
REGION: Final = "eu-central-1"
STACK: Final = "shop-prod"
WORKER: Final = f"{STACK}-worker"
WORKER_ALIAS: Final = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{WORKER}:live"
DEAD: Final = f"{STACK}-deadletter"
API: Final = f"{STACK}-api"

OUTPUTS: Final[Mapping[str, str]] = {
    "App": "app",
    "Table": "runs",
    "QueueUrl": f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/work",
    "QueueArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:work",
    "DeadLetterQueueUrl": f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/dead",
    "Bucket": "payloads",
    "ScheduleGroup": "schedules",
    "SchedulerRoleArn": f"arn:aws:iam::{ACCOUNT}:role/scheduler",
    "DelayLimit": "900",
    "RetentionDays": "0",
    "WorkerFunction": WORKER,
    "WorkerAlias": WORKER_ALIAS,
    "DeadLetterFunction": DEAD,
    "ApiFunction": API,
    "ApiAuth": "token",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An error of the service, in place of an answer."""

    code: str
    message: str = "no"
    status: int = 400


@dataclass
class Stub:
    """What AWS answers, which a test may change. A `Refusal` is an error.

    Attributes:
        answers: by ``service:Operation``, and where it is asked about several things, by the thing's name too
            (``lambda:GetAlias shop-prod-worker``).
        asked: the operations that were asked for, in order.
    """

    address: str
    outputs: dict[str, str]
    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.answers["sts:GetCallerIdentity"] = {
            "Arn": f"arn:aws:iam::{ACCOUNT}:user/ada",
            "Account": ACCOUNT,
        }
        self.answers["cloudformation:DescribeStacks"] = {"StackStatus": "UPDATE_COMPLETE", "StackStatusReason": ""}
        self.answers["dynamodb:DescribeTable"] = {
            "Table": {
                "TableName": "runs",
                "TableStatus": "ACTIVE",
                "DeletionProtectionEnabled": True,
                "GlobalSecondaryIndexes": [
                    {"IndexName": name, "IndexStatus": "ACTIVE"} for name in ("runs-by-day", "parked-runs")
                ],
            }
        }
        self.answers["dynamodb:DescribeTimeToLive"] = {
            "TimeToLiveDescription": {"TimeToLiveStatus": "ENABLED", "AttributeName": "expires_at"}
        }
        self.answers["dynamodb:DescribeContinuousBackups"] = {
            "ContinuousBackupsDescription": {
                "ContinuousBackupsStatus": "ENABLED",
                "PointInTimeRecoveryDescription": {"PointInTimeRecoveryStatus": "ENABLED"},
            }
        }
        self.answers["s3:HeadBucket"] = {}
        self.answers["scheduler:GetScheduleGroup"] = {"Name": "schedules", "State": "ACTIVE"}
        redrive = {"deadLetterTargetArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:dead", "maxReceiveCount": 12}
        self.answers["sqs:GetQueueAttributes work"] = {
            "Attributes": {
                "ApproximateNumberOfMessages": "3",
                "ApproximateNumberOfMessagesNotVisible": "2",
                "ApproximateNumberOfMessagesDelayed": "1",
                "VisibilityTimeout": "360",
                "RedrivePolicy": json.dumps(redrive),
                "QueueArn": self.outputs["QueueArn"],
            }
        }
        self.answers["sqs:GetQueueAttributes dead"] = {
            "Attributes": {
                "ApproximateNumberOfMessages": "0",
                "ApproximateNumberOfMessagesNotVisible": "0",
                "ApproximateNumberOfMessagesDelayed": "0",
                "QueueArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:dead",
            }
        }
        variables = {
            "EVERSTEP_APP": "app",
            "EVERSTEP_TABLE": self.outputs["Table"],
            "EVERSTEP_QUEUE_URL": self.outputs["QueueUrl"],
            "EVERSTEP_QUEUE_ARN": self.outputs["QueueArn"],
            "EVERSTEP_BUCKET": self.outputs["Bucket"],
            "EVERSTEP_SCHEDULE_GROUP": self.outputs["ScheduleGroup"],
            "EVERSTEP_SCHEDULER_ROLE_ARN": self.outputs["SchedulerRoleArn"],
        }
        for name in (WORKER, DEAD, API):
            self.answers[f"lambda:GetAlias {name}"] = {"Name": "live", "FunctionVersion": "7"}
            for qualifier in ("live", "$LATEST"):
                self.answers[f"lambda:GetFunctionConfiguration {name} {qualifier}"] = {
                    "FunctionName": name,
                    "Runtime": "python3.13",
                    "Handler": "handlers.handler",
                    "MemorySize": 512,
                    "Timeout": 60,
                    "State": "Active",
                    "CodeSha256": "c0de",
                    "Environment": {"Variables": dict(variables)},
                }
        for queue, function in (("work", WORKER), ("dead", DEAD)):
            self.answers[f"lambda:ListEventSourceMappings {queue}"] = {
                "EventSourceMappings": [
                    {
                        "UUID": f"mapping-of-{queue}",
                        "FunctionArn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{function}:live",
                        "State": "Enabled",
                        "BatchSize": 1,
                        "FunctionResponseTypes": ["ReportBatchItemFailures"],
                    }
                ]
            }
        self.answers["lambda:Invoke"] = {"batchItemFailures": []}
        self.answers["health"] = 200

    @property
    def worker(self) -> dict[str, Any]:
        """The configuration of the version that the worker's alias names."""
        found: dict[str, Any] = self.answers[f"lambda:GetFunctionConfiguration {WORKER} live"]
        return found


class _Handler(BaseHTTPRequestHandler):
    stub: Stub

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        target = self.headers.get("X-Amz-Target", "")
        path = url.path.strip("/").split("/")
        if "." in target:
            service, operation = target.split(".")
            named = json.loads(body).get("QueueUrl", "").rpartition("/")[2]
            self._json("dynamodb" if service.startswith("DynamoDB") else "sqs", operation, named)
        elif self.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded"):
            self._xml(parse_qs(body)["Action"][0])
        elif path == ["health"]:
            self._send(self.stub.answers["health"], b"{}")
        elif path[0] == "schedule-groups":
            self._json("scheduler", "GetScheduleGroup")
        elif path[:2] == ["2015-03-31", "event-source-mappings"]:
            self._json("lambda", "ListEventSourceMappings", query["EventSourceArn"].rpartition(":")[2])
        elif path[:2] == ["2015-03-31", "functions"]:
            self._lambda(path[2], path[3], query)
        else:
            self._json("s3", "HeadBucket")

    def _lambda(self, function: str, what: str, query: Mapping[str, str]) -> None:
        match what:
            case "aliases":
                self._json("lambda", "GetAlias", function)
            case "configuration":
                self._json("lambda", "GetFunctionConfiguration", f"{function} {query.get('Qualifier', '$LATEST')}")
            case "invocations":
                self._json("lambda", "Invoke")

    def _json(self, service: str, operation: str, named: str = "") -> None:
        name = f"{service}:{operation}"
        self.stub.asked.append(name)
        answer = self.stub.answers.get(f"{name} {named}".strip(), self.stub.answers.get(name))
        headers = {}
        if isinstance(answer, Refusal):
            headers["X-Amzn-ErrorType"] = answer.code
            content = json.dumps({"__type": f"com.amazonaws#{answer.code}", "message": answer.message}).encode()
            self._send(answer.status, content, headers)
            return
        if isinstance(answer, dict) and "errorType" in answer:
            headers["X-Amz-Function-Error"] = "Unhandled"
        self._send(200, json.dumps(answer).encode(), headers)

    def _xml(self, operation: str) -> None:
        name = f"{'sts' if operation == 'GetCallerIdentity' else 'cloudformation'}:{operation}"
        self.stub.asked.append(name)
        answer = self.stub.answers[name]
        if isinstance(answer, Refusal):
            text = f"<Error><Code>{answer.code}</Code><Message>{escape(answer.message)}</Message></Error>"
            self._send(answer.status, f"<ErrorResponse>{text}</ErrorResponse>".encode())
            return
        if operation == "DescribeStacks":
            stack = {"StackName": STACK, "CreationTime": "2026-11-22T10:00:00Z", **answer}
            outputs = "".join(
                f"<member><OutputKey>{key}</OutputKey><OutputValue>{escape(value)}</OutputValue></member>"
                for key, value in self.stub.outputs.items()
            )
            content = f"<Stacks><member>{_elements(stack)}<Outputs>{outputs}</Outputs></member></Stacks>"
        else:
            content = _elements(answer)
        result = f"<{operation}Result>{content}</{operation}Result>"
        self._send(200, f"<{operation}Response>{result}</{operation}Response>".encode())

    def _send(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _elements(values: Mapping[str, Any]) -> str:
    return "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in values.items() if value != "")


@contextmanager
def stubbed_aws(**outputs: str) -> Iterator[Stub]:
    """The stub, where everything is as it should be. `outputs` of the stack may be changed from the beginning."""

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    Handler.stub = Stub(address, {**OUTPUTS, "ApiUrl": address, **outputs})
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield Handler.stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def row(output: str, name: str) -> tuple[str, str, str]:
    """Of `deploy-check`: mark, text and advice of the check with this name."""
    found = re.search(rf"^(\S) {re.escape(name)}  +(.*)(?:\n {{18}}(?:→|->) (.*))?$", output, re.MULTILINE)
    assert found is not None, f"no check {name!r} in:\n{output}"
    return found[1], found[2], found[3] or ""
