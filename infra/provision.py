"""Make the template's table, queues, bucket, schedule group and role on any endpoint, without CloudFormation.

For tests and local trials, so that there is one definition of the resources. Functions, the API, alarms and the
bucket's policy (which demands TLS) are not made.

    python -m infra.provision --name trial --endpoint-url http://127.0.0.1:4566            prints the environment
    python -m infra.provision --name trial --endpoint-url http://127.0.0.1:4566 --destroy
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from infra.template import Scope, Template, Value, load_template, mapping

ClientFactory: TypeAlias = Callable[[str], Any]
"""Makes a boto3 client from a service's name, as a session's ``client`` with an endpoint bound to it does."""

ACCOUNT: Final = "000000000000"

# Every function that runs workflows has the same settings; the worker stands for them.
_SETTINGS_OF: Final = "WorkerFunction"
_PREFIX: Final = "EVERSTEP_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What was made.

    Attributes:
        environment: the variables that begin with ``EVERSTEP_``, as the template sets them for the worker.
    """

    table: str
    queue_url: str
    queue_arn: str
    dead_letter_queue_url: str
    dead_letter_queue_arn: str
    bucket: str
    schedule_group: str
    scheduler_role: str
    scheduler_role_arn: str
    environment: Mapping[str, str]


def provision(
    client: ClientFactory,
    *,
    name: str,
    template: Template | None = None,
    parameters: Mapping[str, str] | None = None,
    region: str = "us-east-1",
    account: str = ACCOUNT,
    plain_table: bool = False,
) -> Resources:
    """Make everything, named after `name` (lower case, digits and hyphens, since a bucket's name is made from it).

    Deletion protection is off unless `parameters` ask for it. `plain_table` leaves out TTL, backups, encryption and
    deletion protection, which some servers (dynalite) do not know.
    """
    template = template or load_template()
    parameters = {"DeletionProtection": "false", **(parameters or {})}
    names = {each: f"{name}-{_hyphens(each)}" for each in template.resources}
    arns = {
        "RunsTable": f"arn:aws:dynamodb:{region}:{account}:table/{names['RunsTable']}",
        "WorkQueue": f"arn:aws:sqs:{region}:{account}:{names['WorkQueue']}",
        "DeadLetterQueue": f"arn:aws:sqs:{region}:{account}:{names['DeadLetterQueue']}",
        "PayloadBucket": f"arn:aws:s3:::{names['PayloadBucket']}",
        "SchedulerRole": f"arn:aws:iam::{account}:role/{names['SchedulerRole']}",
    }
    refs = dict(names)
    attributes = {f"{each}.Arn": arn for each, arn in arns.items()}
    attributes["HttpApi.ApiEndpoint"] = ""  # no API is made
    scope = Scope(
        template=template,
        parameters=parameters,
        pseudo={
            "AWS::Region": region,
            "AWS::AccountId": account,
            "AWS::Partition": "aws",
            "AWS::StackName": name,
        },
        refs=refs,
        attributes=attributes,
    )

    def properties(logical_id: str) -> dict[str, Any]:
        return dict(mapping(scope.resolve(template.properties(logical_id)), logical_id))

    make_table(client("dynamodb"), names["RunsTable"], properties("RunsTable"), plain=plain_table)
    sqs = client("sqs")
    for queue in ("DeadLetterQueue", "WorkQueue"):
        refs[queue], attributes[f"{queue}.Arn"] = make_queue(sqs, names[queue], properties(queue))
    make_bucket(client("s3"), names["PayloadBucket"], properties("PayloadBucket"), region)
    attributes["SchedulerRole.Arn"] = make_role(client("iam"), names["SchedulerRole"], properties("SchedulerRole"))
    client("scheduler").create_schedule_group(Name=names["ScheduleGroup"])
    return Resources(
        table=refs["RunsTable"],
        queue_url=refs["WorkQueue"],
        queue_arn=attributes["WorkQueue.Arn"],
        dead_letter_queue_url=refs["DeadLetterQueue"],
        dead_letter_queue_arn=attributes["DeadLetterQueue.Arn"],
        bucket=refs["PayloadBucket"],
        schedule_group=refs["ScheduleGroup"],
        scheduler_role=refs["SchedulerRole"],
        scheduler_role_arn=attributes["SchedulerRole.Arn"],
        environment=function_environment(scope, _SETTINGS_OF),
    )


def function_environment(scope: Scope, function: str) -> dict[str, str]:
    """The variables of a function that begin with ``EVERSTEP_``, resolved."""
    environment = mapping(scope.template.properties(function).get("Environment", {}), function)
    variables = mapping(environment.get("Variables", {}), function)
    return {key: scope.text(value) for key, value in variables.items() if key.startswith(_PREFIX)}


def destroy(client: ClientFactory, resources: Resources) -> None:
    """Delete what `provision` made. What is gone already is no error."""
    dynamodb, sqs, s3, iam = client("dynamodb"), client("sqs"), client("s3"), client("iam")
    with _gone(dynamodb, "ResourceNotFoundException"):
        table = dynamodb.describe_table(TableName=resources.table)["Table"]
        if table.get("DeletionProtectionEnabled"):
            dynamodb.update_table(TableName=resources.table, DeletionProtectionEnabled=False)
        dynamodb.delete_table(TableName=resources.table)
    for url in (resources.queue_url, resources.dead_letter_queue_url):
        with _gone(sqs, "AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"):
            sqs.delete_queue(QueueUrl=url)
    with _gone(s3, "NoSuchBucket"):
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=resources.bucket):
            for each in page.get("Contents", ()):
                s3.delete_object(Bucket=resources.bucket, Key=each["Key"])
        s3.delete_bucket(Bucket=resources.bucket)
    scheduler = client("scheduler")
    with _gone(scheduler, "ResourceNotFoundException"):
        scheduler.get_schedule_group(Name=resources.schedule_group)  # moto raises KeyError for the next without it
        scheduler.delete_schedule_group(Name=resources.schedule_group)
    with _gone(iam, "NoSuchEntity"):
        for policy in iam.list_role_policies(RoleName=resources.scheduler_role)["PolicyNames"]:
            iam.delete_role_policy(RoleName=resources.scheduler_role, PolicyName=policy)
        iam.delete_role(RoleName=resources.scheduler_role)


def make_table(dynamodb: Any, name: str, properties: Mapping[str, Any], *, plain: bool) -> None:
    definition = {
        key: properties[key] for key in ("BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes")
    }
    if not plain:
        definition["DeletionProtectionEnabled"] = _flag(properties["DeletionProtectionEnabled"])
        if _flag(properties["SSESpecification"]["SSEEnabled"]):
            definition["SSESpecification"] = {"Enabled": True, "SSEType": "KMS"}
    dynamodb.create_table(TableName=name, **definition)
    dynamodb.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    if plain:
        return
    dynamodb.update_time_to_live(TableName=name, TimeToLiveSpecification=properties["TimeToLiveSpecification"])
    dynamodb.update_continuous_backups(
        TableName=name, PointInTimeRecoverySpecification=properties["PointInTimeRecoverySpecification"]
    )


def make_queue(sqs: Any, name: str, properties: Mapping[str, Any]) -> tuple[str, str]:
    """The queue's URL and ARN."""
    attributes = {key: _attribute(value) for key, value in properties.items()}
    url: str = sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    arn: str = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    return url, arn


def make_bucket(s3: Any, name: str, properties: Mapping[str, Any], region: str) -> None:
    # us-east-1 is the one region that may not be named.
    place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    s3.create_bucket(Bucket=name, **place)
    rules = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    s3.put_bucket_encryption(
        Bucket=name,
        ServerSideEncryptionConfiguration={
            "Rules": [{"ApplyServerSideEncryptionByDefault": each["ServerSideEncryptionByDefault"]} for each in rules]
        },
    )
    s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=properties["PublicAccessBlockConfiguration"])
    s3.put_bucket_lifecycle_configuration(
        Bucket=name,
        LifecycleConfiguration={
            "Rules": [
                {"ID": each["Id"], "Filter": {"Prefix": ""}, **_without(each, "Id")}
                for each in properties["LifecycleConfiguration"]["Rules"]
            ]
        },
    )


def make_role(iam: Any, name: str, properties: Mapping[str, Any]) -> str:
    """The role's ARN."""
    arn: str = iam.create_role(
        RoleName=name, AssumeRolePolicyDocument=json.dumps(properties["AssumeRolePolicyDocument"])
    )["Role"]["Arn"]
    for policy in properties["Policies"]:
        iam.put_role_policy(
            RoleName=name, PolicyName=policy["PolicyName"], PolicyDocument=json.dumps(policy["PolicyDocument"])
        )
    return arn


def _hyphens(logical_id: str) -> str:
    """``WorkQueue`` as ``work-queue``."""
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in logical_id).lstrip("-")


def _without(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}


def _flag(value: Value) -> bool:
    return value if isinstance(value, bool) else value == "true"


def _attribute(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if isinstance(value, dict) else str(value)


@contextlib.contextmanager
def _gone(client: Any, *codes: str) -> Iterator[None]:
    try:
        yield
    except client.exceptions.ClientError as error:
        if error.response["Error"]["Code"] not in codes:
            raise


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.provision", description="Make the data resources.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--endpoint-url", help="the server; real AWS if it is not given")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--destroy", action="store_true", help="delete what was made under this name")
    options = parser.parse_args(arguments)
    # Imported by name, so that type checking needs neither boto3 nor its stubs.
    boto3: Any = importlib.import_module("boto3")
    client = functools.partial(boto3.client, region_name=options.region, endpoint_url=options.endpoint_url)
    account = client("sts").get_caller_identity()["Account"]
    if options.destroy:
        destroy(client, named(client, options.name, region=options.region, account=account))
        return 0
    made = provision(client, name=options.name, region=options.region, account=account)
    sys.stdout.writelines(f"{key}={value}\n" for key, value in made.environment.items())
    return 0


def named(client: ClientFactory, name: str, *, region: str, account: str) -> Resources:
    """What `provision` made, or would have made, under this name: enough to destroy it."""
    sqs = client("sqs")
    names = {each: f"{name}-{_hyphens(each)}" for each in load_template().resources}

    def url(queue: str) -> str:
        found: list[str] = sqs.list_queues(QueueNamePrefix=names[queue]).get("QueueUrls", [])
        return next((each for each in found if each.endswith(f"/{names[queue]}")), names[queue])

    return Resources(
        table=names["RunsTable"],
        queue_url=url("WorkQueue"),
        queue_arn=f"arn:aws:sqs:{region}:{account}:{names['WorkQueue']}",
        dead_letter_queue_url=url("DeadLetterQueue"),
        dead_letter_queue_arn=f"arn:aws:sqs:{region}:{account}:{names['DeadLetterQueue']}",
        bucket=names["PayloadBucket"],
        schedule_group=names["ScheduleGroup"],
        scheduler_role=names["SchedulerRole"],
        scheduler_role_arn=f"arn:aws:iam::{account}:role/{names['SchedulerRole']}",
        environment={},
    )


if __name__ == "__main__":
    sys.exit(main())
