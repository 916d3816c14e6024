"""Starts MiniStack in its own virtual environment, with four gaps closed. `emulator.py` runs this file as a program.

Each patch is checked before and after: a version of MiniStack that needs it no longer, or that it no longer fits, does
not start. (A fifth gap, that an HTTP API's OpenAPI ``Body`` makes no routes, does not concern us: the template has
plain API Gateway resources.)
"""

from __future__ import annotations

import functools
import json
import sys
from importlib.metadata import version
from typing import Any

from ministack.core import iam_actions  # type: ignore[import-not-found]
from ministack.services import scheduler, secretsmanager  # type: ignore[import-not-found]
from ministack.services.cloudformation import provisioners  # type: ignore[import-not-found]

VERSION = "1.5.33"


class PatchError(Exception):
    """A patch is not needed any more, or does not work."""


def patch_schedule_interval() -> None:
    """Look for due schedules each second, not every ten."""
    if getattr(scheduler, "_SCHEDULE_TICK_INTERVAL", None) != 10:
        raise PatchError("the interval of schedules is not the 10 s that were found in MiniStack 1.5.33")
    if "_SCHEDULE_TICK_INTERVAL" not in scheduler._ticker_loop.__code__.co_names:
        raise PatchError("the loop that fires schedules does not use the interval")
    scheduler._SCHEDULE_TICK_INTERVAL = 1


def patch_schedule_resource() -> None:
    """Authorize a schedule by the group it is in. MiniStack takes the group ``default`` for all."""
    original = iam_actions.extract_resource_arn

    @functools.wraps(original)
    def extract_resource_arn(
        service: str,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
        query_params: dict[str, Any],
        region: str,
        account_id: str,
    ) -> str:
        arn: str = original(service, method, path, headers, body, query_params, region, account_id)
        if service == "scheduler":
            return arn.replace(":schedule/default/", f":schedule/{_group(body, query_params)}/")
        return arn

    for created in (True, False):
        if _asked(original, created) != "arn:aws:scheduler:r:1:schedule/default/x":
            raise PatchError("a schedule's ARN is not the one that was found in MiniStack 1.5.33")
        if _asked(extract_resource_arn, created) != "arn:aws:scheduler:r:1:schedule/g/x":
            raise PatchError("a schedule's ARN still names another group")
    iam_actions.extract_resource_arn = extract_resource_arn


def _group(body: bytes, query_params: dict[str, Any]) -> str:
    """CreateSchedule names it in the body, DeleteSchedule and GetSchedule in the query."""
    named = query_params.get("groupName")
    if isinstance(named, list):
        named = named[0] if named else None
    if not named and body:
        named = json.loads(body).get("GroupName")
    return named or "default"


def _asked(function: Any, created: bool) -> Any:
    method, body, query = ("POST", b'{"GroupName": "g"}', {}) if created else ("DELETE", b"", {"groupName": ["g"]})
    return function("scheduler", method, "/schedules/x", {}, body, query, "r", "1")


def patch_batch_actions() -> None:
    """Batches of SQS are allowed by the action for a single message; there is no action of their own.

    https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsqs.html
    """
    original = iam_actions.extract_iam_action

    @functools.wraps(original)
    def extract_iam_action(service: str, *arguments: Any) -> str | None:
        action: str | None = original(service, *arguments)
        return action.removesuffix("Batch") if action and service == "sqs" else action

    asked: tuple[Any, ...] = ("sqs", "POST", "/", {"x-amz-target": "AmazonSQS.SendMessageBatch"}, b"{}", {})
    if original(*asked) != "sqs:SendMessageBatch":
        raise PatchError("a batch's action is not the one that was found in MiniStack 1.5.33")
    if extract_iam_action(*asked) != "sqs:SendMessage":
        raise PatchError("a batch still has an action of its own")
    iam_actions.extract_iam_action = extract_iam_action


def patch_secret_reference() -> None:
    """``!Ref`` of a secret is its ARN. MiniStack takes its name, which no policy's ``Resource`` matches."""
    handlers = provisioners._RESOURCE_HANDLERS["AWS::SecretsManager::Secret"]
    create, update, delete = handlers["create"], handlers["update"], handlers["delete"]

    def create_secret(logical_id: str, props: dict[str, Any], stack_name: str) -> tuple[str, dict[str, str]]:
        name, attributes = create(logical_id, props, stack_name)
        if name == attributes.get("Arn"):
            raise PatchError("!Ref of a secret is its ARN without a patch")
        return attributes["Arn"], attributes

    def update_secret(physical_id: str, *arguments: Any) -> Any:
        return update(_secret_name(physical_id), *arguments)

    def delete_secret(physical_id: str, props: dict[str, Any]) -> Any:
        return delete(_secret_name(physical_id), props)

    handlers |= {"create": create_secret, "update": update_secret, "delete": delete_secret}


def _secret_name(arn: str) -> str:
    return secretsmanager._resolve(arn)[0] or arn


def main() -> None:
    if (found := version("ministack")) != VERSION:
        raise PatchError(f"this is MiniStack {found}; the patches are for {VERSION}")
    patch_schedule_interval()
    patch_schedule_resource()
    patch_batch_actions()
    patch_secret_reference()
    from ministack.app import main as serve  # type: ignore[import-not-found]

    sys.argv[1:] = []
    serve()


if __name__ == "__main__":
    main()
