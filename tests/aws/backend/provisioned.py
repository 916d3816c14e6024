"""The resources of the tests. To be replaced by `infra.provision`, which makes them from the template."""

from __future__ import annotations

import functools
import itertools
from typing import Any, Final

import botocore.session

from everstep.backends.aws import AwsResources
from everstep.backends.aws.clients import AwsClients
from everstep.backends.aws.resources import PARKED_RUNS, RUNS_BY_DAY
from tests.aws.backend.servers import REGION

ACCOUNT: Final = "123456789012"
_numbers = itertools.count()


@functools.cache
def session() -> botocore.session.Session:
    """One for all tests: it keeps the services' models, which take 50 ms to load."""
    return botocore.session.Session()


def new_resources(endpoint: str | None, *, only_table: bool = False, **changes: Any) -> AwsResources:
    """New, empty ones, under new names."""
    name = f"everstep-{next(_numbers)}"
    resources = AwsResources(
        table=name,
        queue_url=f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{name}",
        queue_arn=f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}",
        bucket=name,
        schedule_group=name,
        scheduler_role_arn=f"arn:aws:iam::{ACCOUNT}:role/{name}",
        region=REGION,
        endpoint_url=endpoint,
    )
    values = {field: getattr(resources, field) for field in AwsResources.__slots__} | changes
    clients = AwsClients(resources, session())
    make_table(clients.client("dynamodb"), name)
    if not only_table:
        sqs = clients.client("sqs")
        values["queue_url"] = sqs.create_queue(QueueName=name)["QueueUrl"]
        answer = sqs.get_queue_attributes(QueueUrl=values["queue_url"], AttributeNames=["QueueArn"])
        values["queue_arn"] = answer["Attributes"]["QueueArn"]
        clients.client("s3").create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        clients.client("scheduler").create_schedule_group(Name=name)
    clients.close()
    return AwsResources(**values)


def make_table(dynamodb: Any, name: str) -> None:
    attributes = ("pk", "sk", "list_pk", "list_sk", "parked_pk", "parked_sk")
    dynamodb.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": each, "AttributeType": "S"} for each in attributes],
        KeySchema=_keys("pk", "sk"),
        GlobalSecondaryIndexes=[
            {"IndexName": index, "KeySchema": _keys(*keys), "Projection": {"ProjectionType": "KEYS_ONLY"}}
            for index, keys in ((RUNS_BY_DAY, ("list_pk", "list_sk")), (PARKED_RUNS, ("parked_pk", "parked_sk")))
        ],
    )


def _keys(partition: str, sort: str) -> list[dict[str, str]]:
    return [{"AttributeName": partition, "KeyType": "HASH"}, {"AttributeName": sort, "KeyType": "RANGE"}]
