"""The one place where errors of AWS become ours."""

from __future__ import annotations

from typing import Any, Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)

from everstep.errors import ConfigurationError, EverstepError, SerializationError, StoreBusyError, StoreError

FOREIGN: Final = (BotoCoreError, ClientError, UnicodeError)
"""What botocore raises: its own, and the text codec's for what is not Unicode."""

CONDITION_FAILED: Final = "ConditionalCheckFailedException"

_BUSY: Final = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "InternalServerException",
        "KMSThrottlingException",
        "KmsThrottled",
        "LimitExceededException",
        "OverLimit",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "ReplicatedWriteConflictException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestTimeout",
        "ServiceQuotaExceededException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottledException",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionConflictException",
    }
)
_DENIED: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AllAccessDisabled",
        "AuthorizationError",
        "KMSAccessDeniedException",
        "KmsAccessDenied",
        "NotAuthorized",
        "UnauthorizedOperation",
    }
)
_CREDENTIALS: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "InvalidToken",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_MISSING: Final = frozenset(
    {
        "NoSuchBucket",
        "NonExistentQueue",
        "QueueDoesNotExist",
        "ResourceNotFoundException",
        "TableNotFoundException",
    }
)
_TOO_LARGE: Final = frozenset(
    {
        "BatchRequestTooLong",
        "EntityTooLarge",
        "ItemCollectionSizeLimitExceededException",
        "MaxMessageLengthExceeded",
        "RequestEntityTooLargeException",
        "RequestTooLarge",
    }
)
_TOO_LARGE_TEXT: Final = ("Item size", "item size", "must be shorter than", "Maximum allowed size")

_KINDS: Final = {"dynamodb": "table", "sqs": "queue", "s3": "bucket", "scheduler": "schedule group"}
_ACTIONS: Final = {
    "sqs:SendMessageBatch": "sqs:SendMessage",  # what a policy must allow, where it is not named as the operation
    "s3:HeadObject": "s3:GetObject",
}


_UNANSWERED: Final = (HTTPClientError, IncompleteReadError, ConnectTimeoutError, EndpointConnectionError)
"""Timeouts, refused and lost connections, answers cut short: what was asked for may or may not have happened."""


class RefusedError(Exception):
    """A conditional write was refused. Stays within this backend.

    Attributes:
        item: what was found instead, if the service said so.
        repeated: an earlier try of the same request may have succeeded, its answer lost.
    """

    def __init__(self, item: dict[str, dict[str, Any]] | None, *, repeated: bool) -> None:
        super().__init__(item)
        self.item = item
        self.repeated = repeated


def code_of(error: ClientError) -> str:
    """The error code, without what services put before it: ``com.amazonaws.…#`` or ``AWS.SimpleQueueService.``."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code.rpartition("#")[2].rpartition(".")[2]


def code_behind(error: BaseException) -> str | None:
    """The error code of AWS behind an error of ours."""
    cause = error.__cause__
    return code_of(cause) if isinstance(cause, ClientError) else None


def translated(error: Exception, *, service: str, operation: str, resource: str) -> EverstepError:
    """The error of ours that says the same. The caller raises it ``from`` the original.

    Args:
        resource: name of the table, queue, bucket or schedule group that was asked.
    """
    action = _ACTIONS.get(f"{service}:{operation}", f"{service}:{operation}")
    what = f"{_KINDS.get(service, 'resource')} {resource!r}"
    if isinstance(error, UnicodeError):
        return SerializationError(f"a text that is not valid Unicode cannot be stored in {what}: {error}")
    if isinstance(error, ClientError):
        return _of_service(error, action, what)
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return ConfigurationError(
            f"no AWS credentials for {action} on {what} ({error}). On Lambda the function's role gives them; elsewhere "
            f"set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    if isinstance(error, NoRegionError):
        return ConfigurationError(f"no AWS region for {action} on {what}: name the region of the stack.")
    if isinstance(error, _UNANSWERED):
        return StoreBusyError(
            f"{what} did not answer {action} ({type(error).__name__}: {error}). The call may or may not have had its "
            f"effect; the same call may succeed later. If it never does, check network, region and endpoint."
        )
    return StoreError(f"{action} on {what} failed ({type(error).__name__}: {error})")


def _of_service(error: ClientError, action: str, what: str) -> EverstepError:
    code = code_of(error)
    text = str(error.response.get("Error", {}).get("Message", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    said = f"{code}: {text}" if text else code
    if code in _DENIED:
        return StoreError(
            f"AWS refused {action} on {what}: access denied. Allow {action} on it in the policy of this function's "
            f"role or user (and the use of its key, if it is encrypted with one of yours). AWS said: {text}"
        )
    if code in _CREDENTIALS:
        return StoreError(
            f"AWS did not accept the credentials for {action} on {what} ({said}). Renew them, or check AWS_PROFILE, "
            f"AWS_ACCESS_KEY_ID and the clock of this machine."
        )
    if code in _MISSING:
        return ConfigurationError(
            f"there is no {what} in this region and account ({code}). Deploy the stack, or check the name, the region "
            f"and the credentials against the stack's outputs."
        )
    if code in _TOO_LARGE or status == 413 or any(part in text for part in _TOO_LARGE_TEXT):
        return SerializationError(
            f"a record is too large for {what} ({said}). Store the data elsewhere in a step, and pass a reference."
        )
    if code in _BUSY or status == 429 or status >= 500:
        return StoreBusyError(f"{what} is busy: {action} was not done ({said}). The same call may succeed later.")
    return StoreError(f"{action} on {what} failed ({said})")
