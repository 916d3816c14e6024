"""Starts MiniStack in its own virtual environment, with gaps closed. `emulator.py` runs this file as a program.

Each patch is checked before and after: a version of MiniStack that needs it no longer, or that it no longer fits, does
not start. (Another gap, that an HTTP API's OpenAPI ``Body`` makes no routes, does not concern us: the template has
plain API Gateway resources.)
"""

from __future__ import annotations

import functools
import json
import os
import sys
from typing import Any

from ministack.core import iam_actions  # type: ignore[import-not-found]
from ministack.services import dynamodb, scheduler, secretsmanager  # type: ignore[import-not-found]
from ministack.services.cloudformation import provisioners  # type: ignore[import-not-found]


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


def patch_actions() -> None:
    """Batches of SQS have no action of their own, and to read one alias is another action than to list them.

    https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsqs.html
    https://docs.aws.amazon.com/service-authorization/latest/reference/list_awslambda.html
    """
    original = iam_actions.extract_iam_action

    @functools.wraps(original)
    def extract_iam_action(service: str, method: str, path: str, *arguments: Any) -> str | None:
        action: str | None = original(service, method, path, *arguments)
        if action and service == "sqs":
            return action.removesuffix("Batch")
        if action == "lambda:ListAliases" and not path.endswith("/aliases"):
            return "lambda:GetAlias"
        return action

    batch: tuple[Any, ...] = ("sqs", "POST", "/", {"x-amz-target": "AmazonSQS.SendMessageBatch"}, b"{}", {})
    alias: tuple[Any, ...] = ("lambda", "GET", "/2015-03-31/functions/f/aliases/live", {}, b"", {})
    if [original(*batch), original(*alias)] != ["sqs:SendMessageBatch", "lambda:ListAliases"]:
        raise PatchError("the action of a batch or of an alias is not the one that was found in MiniStack 1.5.33")
    if [extract_iam_action(*batch), extract_iam_action(*alias)] != ["sqs:SendMessage", "lambda:GetAlias"]:
        raise PatchError("a batch or an alias still has another action")
    iam_actions.extract_iam_action = extract_iam_action


def patch_table() -> None:
    """A table has the time to live and the point-in-time recovery that its template says, and "false" is false."""
    handlers = provisioners._RESOURCE_HANDLERS["AWS::DynamoDB::Table"]
    create, update = handlers["create"], handlers["update"]

    def create_table(logical_id: str, props: dict[str, Any], stack_name: str) -> Any:
        made = create(logical_id, typed(props), stack_name)
        if made[0] in dynamodb._ttl_settings or made[0] in dynamodb._pitr_settings:
            raise PatchError("a table has what its template says without a patch")
        set_up(made[0], props)
        return made

    def update_table(physical_id: str, old_props: Any, props: dict[str, Any], *rest: Any, **named: Any) -> Any:
        made = update(physical_id, typed(old_props), typed(props), *rest, **named)
        set_up(made[0], props)
        return made

    def typed(props: dict[str, Any]) -> dict[str, Any]:
        protected = props.get("DeletionProtectionEnabled", False)
        return {**props, "DeletionProtectionEnabled": protected in (True, "true")}

    def set_up(name: str, props: dict[str, Any]) -> None:
        for call, property_name in (
            (dynamodb._update_ttl, "TimeToLiveSpecification"),
            (dynamodb._update_continuous_backups, "PointInTimeRecoverySpecification"),
        ):
            if property_name in props:
                status, _, body = call({"TableName": name, property_name: props[property_name]})
                if status != 200:
                    raise PatchError(f"{property_name} of {name}: {body!r}")

    handlers |= {"create": create_table, "update": update_table}


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


def patch_api_endpoint() -> None:
    """An HTTP API's endpoint by its path: ``<id>.execute-api.localhost`` cannot be resolved on every machine."""
    handlers = provisioners._RESOURCE_HANDLERS["AWS::ApiGatewayV2::Api"]
    create = handlers["create"]

    def create_api(logical_id: str, props: dict[str, Any], stack_name: str) -> tuple[str, dict[str, str]]:
        api_id, attributes = create(logical_id, props, stack_name)
        port = os.environ["GATEWAY_PORT"]
        if attributes["ApiEndpoint"] != f"http://{api_id}.execute-api.localhost:{port}":
            raise PatchError("an API's endpoint is not the one that was found in MiniStack 1.5.33")
        path = f"http://{os.environ['BIND_HOST']}:{port}/_aws/execute-api/{api_id}/$default"
        return api_id, {**attributes, "ApiEndpoint": path}

    handlers["create"] = create_api


def main() -> None:
    patch_schedule_interval()
    patch_schedule_resource()
    patch_actions()
    patch_table()
    patch_secret_reference()
    patch_api_endpoint()
    from ministack.app import main as serve  # type: ignore[import-not-found]

    sys.argv[1:] = []
    serve()


if __name__ == "__main__":
    main()
