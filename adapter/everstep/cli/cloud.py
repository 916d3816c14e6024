"""What the command line asks of AWS beside the store: stacks, functions, who one is. And what it says when AWS refuses.

The store's own calls are those of the ``aws`` backend, which has its own words.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from everstep.cli.store import sam_setting
from everstep.errors import ConfigurationError, StoreBusyError, StoreError

CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 15
INVOKE_SECONDS: Final = 60
"""A cold start, and the import of the app."""

_ALLOWED_AS: Final[Mapping[str, str]] = {"lambda:Invoke": "lambda:InvokeFunction", "s3:HeadBucket": "s3:ListBucket"}
"""What a policy must allow, where it is not named as the operation."""
_DENIED: Final = ("AccessDenied", "AccessDeniedException", "AuthorizationError", "UnauthorizedOperation", "403")
_CREDENTIALS: Final = (
    *("ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "InvalidAccessKeyId", "InvalidClientTokenId"),
    *("InvalidToken", "MissingAuthenticationToken", "RequestExpired", "SignatureDoesNotMatch"),
    *("InvalidSignatureException", "UnrecognizedClientException"),
)
_MISSING: Final = (
    *("404", "NoSuchBucket", "QueueDoesNotExist", "ResourceNotFoundException", "TableNotFoundException"),
    "AWS.SimpleQueueService.NonExistentQueue",
)


class MissingError(ConfigurationError):
    """What was asked for is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A CloudFormation stack.

    Attributes:
        reason: why it is in this status, if AWS says so.
    """

    name: str
    status: str
    reason: str
    changed_at: datetime | None
    outputs: Mapping[str, str]


class Cloud:
    """AWS in one region, with the credentials of this machine."""

    def __init__(self) -> None:
        try:
            import botocore.session
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "botocore":
                raise ConfigurationError("the aws backend needs boto3: pip install 'everstep[aws]'") from error
            raise
        self._session = botocore.session.Session()
        self._clients: dict[str, Any] = {}
        self.region, self._said_by = self._find_region()

    def _find_region(self) -> tuple[str, str]:
        """The region, and what says so."""
        from botocore.exceptions import BotoCoreError

        for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
            if os.environ.get(name):
                return os.environ[name], name
        named = sam_setting("region")
        if named:
            return named, "samconfig.toml"
        try:
            named = self._session.get_config_variable("region")
        except BotoCoreError as error:  # the profile is not there
            raise ConfigurationError(f"AWS settings: {_sentence(error)}") from error
        if not named:
            raise ConfigurationError(
                "no AWS region: set AWS_REGION, such as eu-central-1, or the region of your profile (aws configure)"
            )
        return named, "your AWS profile"

    def call(self, service: str, operation: str, what: str, **parameters: Any) -> dict[str, Any]:
        """Call an operation by its name in AWS's reference. What it streams (a ``Payload``) is read to its end.

        Args:
            what: what is asked about, as messages name it: ``stack 'shop'``.
        """
        from botocore import xform_name
        from botocore.exceptions import BotoCoreError, ClientError

        action = f"{service}:{operation}"
        try:
            answer: dict[str, Any] = getattr(self._client(service), xform_name(operation))(**parameters)
            if "Payload" in answer:
                answer["Payload"] = answer["Payload"].read()
        except ClientError as error:
            raise self._refused(error, action, what) from error
        except BotoCoreError as error:
            raise self._failed(error, action, what) from error
        return answer

    def stack(self, name: str) -> Stack:
        """The stack of this name."""
        what = f"stack {name!r}"
        other = sam_setting("region")
        but = f"; samconfig.toml says {other}" if other not in (None, self.region) else ""
        missing = (
            f"there is no {what} in {self.region} (as {self._said_by} says{but}); check the name, the region and "
            f"AWS_PROFILE, or run 'sam deploy'"
        )
        try:
            found = self.call("cloudformation", "DescribeStacks", what, StackName=name)["Stacks"]
        except StoreError as error:
            if "does not exist" in str(error.__cause__):
                raise MissingError(missing) from error
            raise
        if not found:
            raise MissingError(missing)
        first = found[0]
        return Stack(
            name=str(first["StackName"]),
            status=str(first["StackStatus"]),
            reason=str(first.get("StackStatusReason", "")),
            changed_at=first.get("LastUpdatedTime") or first.get("CreationTime"),
            outputs={each["OutputKey"]: each["OutputValue"] for each in first.get("Outputs", ())},
        )

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError

            config = Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=INVOKE_SECONDS if service == "lambda" else READ_SECONDS,
                retries={"mode": "standard", "total_max_attempts": 2},
            )
            try:
                client = self._session.create_client(service, region_name=self.region, config=config)
            except (BotoCoreError, ValueError) as error:  # a profile or a region that is none
                raise ConfigurationError(f"AWS settings: {_sentence(error)}") from error
            self._clients[service] = client
        return self._clients[service]

    def _refused(self, error: Any, action: str, what: str) -> Exception:
        code = str(error.response.get("Error", {}).get("Code", "")).rpartition("#")[2]
        text = _sentence(error.response.get("Error", {}).get("Message", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _DENIED:
            return StoreError(
                f"AWS refused {action} on {what}; allow {_ALLOWED_AS.get(action, action)} to the user or role of these "
                f"credentials (AWS said: {text or code})"
            )
        if code in _CREDENTIALS:
            return StoreError(
                f"AWS did not accept the credentials ({code}: {text}); renew them, or check AWS_PROFILE, "
                f"AWS_ACCESS_KEY_ID and the clock of this machine"
            )
        if code in _MISSING:
            return MissingError(
                f"there is no {what} in {self.region}; a deploy does not undo what was deleted by hand: make it again, "
                f"under this name and as template.yaml says"
            )
        if "Thrott" in code or status >= 500:
            return StoreBusyError(f"AWS is busy: {action} on {what} was not done ({code}); try again")
        return StoreError(f"{action} on {what} failed ({code}: {text})")

    def _failed(self, error: Exception, action: str, what: str) -> Exception:
        from botocore.exceptions import (
            ConnectionError,  # noqa: A004 - botocore's name for it
            HTTPClientError,
            NoCredentialsError,
            PartialCredentialsError,
        )

        if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
            return ConfigurationError(
                "there are no AWS credentials; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run "
                "'aws configure' (or 'aws sso login')"
            )
        if isinstance(error, (HTTPClientError, ConnectionError)):
            return StoreBusyError(f"{action} on {what}: AWS in {self.region} cannot be reached ({_sentence(error)})")
        return ConfigurationError(f"{action} on {what}: {_sentence(error)}")


def _sentence(said: object) -> str:
    return " ".join(str(said).split()).rstrip(".")
