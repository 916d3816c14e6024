"""The resources of the tests, as the template has them."""

from __future__ import annotations

import functools
import itertools
from typing import Any, Final

import botocore.session

from everstep.backends.aws import AwsResources
from infra.provision import ClientFactory, make_table, provision
from infra.template import Scope, Template, load_template, mapping
from tests.aws.servers.emulator import REGION

ACCOUNT: Final = "123456789012"
_numbers = itertools.count()


@functools.cache
def session() -> botocore.session.Session:
    """One for all tests: it keeps the services' models, which take 50 ms to load."""
    return botocore.session.Session()


@functools.cache
def _template() -> Template:
    return load_template()


def make_plain_table(dynamodb: Any, name: str) -> None:
    """The table with its indexes alone, which is quicker, and all that dynalite knows."""
    properties = mapping(Scope(template=_template()).resolve(_template().properties("RunsTable")), "RunsTable")
    make_table(dynamodb, name, properties, plain=True)


def new_resources(
    endpoint: str | None, *, only_table: bool = False, client: ClientFactory | None = None, **changes: Any
) -> AwsResources:
    """New, empty ones, under new names.

    Args:
        endpoint: of the server; None is moto.
        only_table: nothing but the table is made, and that plain.
        client: makes the clients it is done with. Who does it often can keep them: making one takes milliseconds.
    """
    name = f"everstep-{next(_numbers)}"
    client = client or functools.partial(session().create_client, region_name=REGION, endpoint_url=endpoint)
    if only_table:
        make_plain_table(client("dynamodb"), name)
        names = {
            "table": name,
            "queue_url": f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{name}",
            "queue_arn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}",
            "bucket": name,
            "schedule_group": name,
            "scheduler_role_arn": f"arn:aws:iam::{ACCOUNT}:role/{name}",
        }
    else:
        made = provision(client, name=name, template=_template(), region=REGION, account=ACCOUNT)
        fields = ("table", "queue_url", "queue_arn", "bucket", "schedule_group", "scheduler_role_arn")
        names = {field: getattr(made, field) for field in fields}
    return AwsResources(**{**names, "region": REGION, "endpoint_url": endpoint, **changes})
