"""The deployed stack: what a user does with SAM, and what a client does over HTTP."""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from tests.aws.e2e.emulator import CREDENTIALS, REGION, Emulator
from tests.aws.e2e.environments import ARCHITECTURE, PYTHON, sam_environment
from tests.aws.e2e.project import do

STACK: Final = "everstep-e2e"
_RUNTIME: Final = {"Runtime": f"python{PYTHON}", "Architecture": ARCHITECTURE}
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
class Sam:
    """The SAM command line, in a project's folder, with the emulator for AWS."""

    project: Path
    emulator: Emulator
    parameters: dict[str, str]

    def validate(self) -> str:
        return self._sam("validate", "--lint")

    def build(self) -> str:
        """For what the emulator runs functions on."""
        return self._sam("build", "--parameter-overrides", *_overrides(_RUNTIME))

    def build_default(self, folder: Path) -> str:
        """For what the template's defaults say, elsewhere."""
        return self._sam("build", "--build-dir", str(folder))

    def deploy(self, **changes: str) -> str:
        parameters = {**_RUNTIME, **self.parameters, **changes}
        return self._sam(
            *("deploy", "--stack-name", STACK, "--resolve-s3", "--capabilities", "CAPABILITY_IAM"),
            *("--no-confirm-changeset", "--no-fail-on-empty-changeset"),
            *("--parameter-overrides", *_overrides(parameters)),
        )

    def delete(self) -> str:
        return self._sam("delete", "--stack-name", STACK, "--no-prompts")

    def _sam(self, *arguments: str) -> str:
        return do(
            [str(sam_environment() / "bin" / "sam"), *arguments],
            cwd=self.project,
            **CREDENTIALS,
            AWS_ENDPOINT_URL=self.emulator.endpoint,
            AWS_DEFAULT_REGION=REGION,
            AWS_CONFIG_FILE="/nonexistent",
            AWS_SHARED_CREDENTIALS_FILE="/nonexistent",
            AWS_EC2_METADATA_DISABLED="true",
            SAM_CLI_TELEMETRY="0",
            __SAM_CLI_APP_DIR=str(self.project / ".sam-cli"),
            EVERSTEP_PYTHON=sys.executable,
            MAKEFLAGS="",
        )


def _overrides(parameters: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in parameters.items()]


@dataclass(kw_only=True)
class Stack:
    """A deployed stack, as seen by its user."""

    emulator: Emulator
    outputs: dict[str, str] = field(default_factory=dict)
    token: str = ""

    def read_outputs(self) -> None:
        (stack,) = self.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
        assert stack["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE"), stack
        self.outputs = {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}
        if "ApiTokenSecret" in self.outputs:
            secret = self.client("secretsmanager").get_secret_value(SecretId=self.outputs["ApiTokenSecret"])
            self.token = secret["SecretString"]

    def client(self, service: str, credentials: Credentials | None = None) -> Any:
        """A client of the account's owner, or of somebody else."""
        who = credentials or Credentials(CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"])
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
        target = f"/_aws/execute-api/{self.outputs['ApiId']}/$default{path}"
        if sign is not None:
            signed = AWSRequest(method, f"{self.emulator.endpoint}{target}", shown, data)
            SigV4Auth(sign, "execute-api", REGION).add_auth(signed)
            shown = dict(signed.headers.items())
        elif token is not None:
            shown["Authorization"] = f"Bearer {token or self.token}"
        connection = http.client.HTTPConnection("127.0.0.1", self.emulator.port, timeout=60)
        try:
            connection.request(method, target, data, shown)
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

    def queue_length(self, url: str) -> int:
        """Messages in a queue, those on their way included."""
        names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
        answer = self.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=names)
        return sum(int(answer["Attributes"][name]) for name in names)
