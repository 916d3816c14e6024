"""What API Gateway says about who sent a request."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any


def signed(scope: MutableMapping[str, Any]) -> bool:
    """Whether the gateway has checked the request's signature and names its sender (``AWS_IAM`` on the route).

    Asked also where the template sets that up: a route that somebody added without it stays closed.

    https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
    """
    found: Any = scope.get("aws.event")
    for name in ("requestContext", "authorizer", "iam", "userArn"):
        found = found.get(name) if isinstance(found, dict) else None
    return isinstance(found, str) and found != ""
