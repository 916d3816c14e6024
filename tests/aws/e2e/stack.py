"""The deployed stack: what a client does over HTTP, and what can be seen beside it."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from everstep.backends.aws.message_body import write_body
from everstep.core.messages import Outgoing
from tests.aws.servers.emulator import CREDENTIALS, REGION, Emulator

STACK: Final = "everstep-e2e"
OWNER: Final = Credentials(CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"])
"""Of the account: they may do everything."""
_FUNCTIONS: Final = ("worker", "api", "deadletter")
_LOG_LINES: Final = 60

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Of an HTTP request."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(kw_only=True)
class Stack:
    """A deployed stack, as seen by its user."""

    emulator: Emulator
    outputs: dict[str, str] = field(default_factory=dict)
    token: str = ""

    def read_outputs(self) -> None:
        (stack,) = self.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
        assert stack["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE"), stack
        self.outputs = {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]} | {"StackName": STACK}
        if "ApiTokenSecret" in self.outputs:
            secret = self.client("secretsmanager").get_secret_value(SecretId=self.outputs["ApiTokenSecret"])
            self.token = secret["SecretString"]

    def client(self, service: str, credentials: Credentials | None = None) -> Any:
        """A client of the account's owner, or of somebody else."""
        who = credentials or OWNER
        return botocore.session.Session().create_client(
            service,
            region_name=REGION,
            endpoint_url=self.emulator.endpoint,
            aws_access_key_id=who.access_key,
            aws_secret_access_key=who.secret_key,
            config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )

    # --- over HTTP -----------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = "",
        sign: Credentials | None = None,
        **headers: str,
    ) -> Answer:
        """One request. The token is the right one, unless another is given, or None for none.

        Args:
            sign: sign it with these, and show no token.
        """
        shown = dict(headers)
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            shown["Content-Type"] = "application/json"
        # By its host name, as on AWS: only there the emulator verifies signatures.
        shown["Host"] = f"{self.outputs['ApiId']}.execute-api.localhost:{self.emulator.port}"
        if sign is not None:
            signed = AWSRequest(method, f"http://{shown['Host']}{path}", shown, data)
            SigV4Auth(sign, "execute-api", REGION).add_auth(signed)
            shown = dict(signed.headers.items())
        elif token is not None:
            shown["Authorization"] = f"Bearer {token or self.token}"
        connection = http.client.HTTPConnection("127.0.0.1", self.emulator.port, timeout=60)
        try:
            connection.request(method, path, data, shown)
            answer = connection.getresponse()
            return Answer(status=answer.status, headers=dict(answer.headers), body=answer.read())
        finally:
            connection.close()

    def start(self, workflow: str, *, sign: Credentials | None = None, **given: Any) -> str:
        """The new run's id."""
        answer = self.request("POST", "/v1/runs", {"workflow": workflow, "input": given}, sign=sign)
        assert answer.status == 201, answer
        run_id: str = answer.json()["run_id"]
        return run_id

    def result(self, run_id: str, *, seconds: float = 60, sign: Credentials | None = None) -> Any:
        """What the run returned."""
        end = time.monotonic() + seconds
        while True:
            answer = self.request("GET", f"/v1/runs/{run_id}/result?wait=5", sign=sign)
            if answer.status == 200:
                outcome = answer.json()
                assert outcome["status"] == "completed", outcome
                return outcome["result"]
            assert answer.status == 202, answer
            if time.monotonic() > end:
                raise AssertionError(f"{run_id} has no result after {seconds:g} s: {answer.json()}")

    # --- beside it -----------------------------------------------------------------------------------

    def logs(self, function: str) -> list[str]:
        """All lines that a function wrote, in order."""
        client = self.client("logs")
        group = f"/aws/lambda/{STACK}-{function}"
        lines: list[str] = []
        for page in client.get_paginator("filter_log_events").paginate(logGroupName=group):
            lines += [event["message"].rstrip() for event in page["events"]]
        return lines

    def records(self, function: str) -> list[JsonObject]:
        """Those that Powertools' logger wrote."""
        found = []
        for line in self.logs(function):
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and "level" in record:
                found.append(record)
        return found

    def metric(self, function: str, name: str) -> float:
        """The sum of all values of a metric, in the embedded metric format."""
        total = 0.0
        for line in self.logs(function):
            if line.startswith("{") and '"CloudWatchMetrics"' in line:
                total += sum(json.loads(line).get(name, ()))
        return total

    def all_logs(self) -> str:
        """The last lines of each function and of the emulator, for a test that failed."""
        parts = []
        for function in _FUNCTIONS:
            try:
                lines = self.logs(function)
            except Exception as error:  # a test has failed already: say what there is to say
                lines = [repr(error)]
            parts += [f"--- {function}", *(line[:2000] for line in lines[-_LOG_LINES:])]
        emulator = self.emulator.log.read_text(errors="replace").splitlines()
        parts += ["--- emulator", *(line[:500] for line in emulator[-_LOG_LINES:])]
        return "\n".join(parts)

    def user(self, name: str, *allowed: JsonObject) -> Credentials:
        """The access key of a new user, who may do nothing but what the statements allow."""
        iam = self.client("iam")
        iam.create_user(UserName=name)
        if allowed:
            policy = json.dumps({"Version": "2012-10-17", "Statement": allowed})
            iam.put_user_policy(UserName=name, PolicyName="allowed", PolicyDocument=policy)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return Credentials(key["AccessKeyId"], key["SecretAccessKey"])

    def put_dead_letter(self, message: Outgoing | str) -> None:
        """Put a message where those go that were received too often."""
        body = message if isinstance(message, str) else write_body(message, _refuse)
        self.client("sqs").send_message(QueueUrl=self.outputs["DeadLetterQueueUrl"], MessageBody=body)

    def queue_length(self, url: str) -> int:
        """Messages in a queue, those on their way included."""
        names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
        answer = self.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)
        return sum(int(answer["Attributes"][name]) for name in names)


def _refuse(_data: bytes) -> str:
    raise AssertionError("the message is too large for the queue")
