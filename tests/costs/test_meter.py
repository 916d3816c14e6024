"""The meter counts what real clients do, by AWS's rules."""

from __future__ import annotations

import functools
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from moto import mock_aws

from everstep.costs.meter import INDEXES, CostMeter, message_size, sqs_requests
from everstep.costs.units import Index
from infra.provision import provision
from infra.template import load_template

KB = 1024

# Making a client takes longer than a test: the resources are made by the same clients always. Metered ones are new.
unmetered = functools.cache(
    functools.partial(
        boto3.client, region_name="us-east-1", aws_access_key_id="testing", aws_secret_access_key="testing"
    )
)


def s(text):
    return {"S": text}


def key(number, run="1"):
    return {"pk": s(f"run#{run}"), "sk": s(f"turn#{number}")}


@pytest.fixture
def client(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield functools.cache(functools.partial(boto3.client, region_name="us-east-1"))


@pytest.fixture
def resources(client):
    return provision(unmetered, name="meter")


@pytest.fixture
def meter(client, resources):
    meter = CostMeter()
    meter.attach(client("dynamodb"))
    return meter


@pytest.fixture
def table(client, resources):
    """The calls of a DynamoDB client, on the table."""

    def call(operation, **parameters):
        return getattr(client("dynamodb"), operation)(TableName=resources.table, **parameters)

    return call


def put_new(table, item):
    return table(
        "put_item",
        Item=item,
        ConditionExpression="attribute_not_exists(pk)",
        ReturnValuesOnConditionCheckFailure="ALL_OLD",
    )


# --- writes ----------------------------------------------------------------------------------------


def test_a_small_turn_is_one_unit_and_one_request(meter, table):
    put_new(table, key(1) | {"body": {"B": b"x" * 500}})
    usage = meter.usage()
    assert usage.quantities == {"dynamodb.write": 1}
    assert usage.requests == {"dynamodb:PutItem": 1}
    assert usage.writes_by_run == {"1": 1}


def test_a_refused_put_is_billed_by_what_is_there(meter, table):
    put_new(table, key(1) | {"body": {"B": b"x" * 2500}})
    before = meter.usage()
    with pytest.raises(ClientError, match="ConditionalCheckFailed"):
        put_new(table, key(1) | {"body": {"B": b"x"}})
    used = meter.usage() - before
    assert used.quantities == {"dynamodb.write": 3}
    assert used.details == {"table": 3, "refused": 3}
    assert used.requests == {"dynamodb:PutItem": 1}


def test_a_put_over_a_larger_item_is_billed_by_the_larger(meter, table):
    table("put_item", Item=key(1) | {"body": {"B": b"x" * 3500}})
    before = meter.usage()
    table("put_item", Item=key(1))
    assert (meter.usage() - before).quantities == {"dynamodb.write": 4}


def test_an_update_is_billed_by_the_whole_item(meter, table):
    table("put_item", Item=key(1) | {"body": {"B": b"x" * 1900}})
    before = meter.usage()
    table(
        "update_item",
        Key=key(1),
        UpdateExpression="SET more = :m",
        ExpressionAttributeValues={":m": {"B": b"y" * 200}},
    )
    used = meter.usage() - before
    assert used.quantities == {"dynamodb.write": 3}
    assert used.requests == {"dynamodb:UpdateItem": 1}  # looking the item up is not counted


def test_a_refused_update_is_billed_too(meter, table):
    with pytest.raises(ClientError, match="ConditionalCheckFailed"):
        table(
            "update_item",
            Key=key(1),
            UpdateExpression="SET a = :a",
            ConditionExpression="attribute_exists(pk)",
            ExpressionAttributeValues={":a": s("a")},
        )
    assert meter.usage().details == {"table": 1, "index": 0, "refused": 1}


def test_deletes_are_billed_by_what_was_there(meter, table, client, resources):
    table("put_item", Item=key(1) | {"body": {"B": b"x" * 1500}})
    table("put_item", Item=key(2))
    before = meter.usage()
    table("delete_item", Key=key(1))
    requests = [{"DeleteRequest": {"Key": key(number)}} for number in (2, 3)]
    client("dynamodb").batch_write_item(RequestItems={resources.table: requests})
    used = meter.usage() - before
    assert used.quantities == {"dynamodb.write": 2 + 1 + 1}
    assert used.requests == {"dynamodb:DeleteItem": 1, "dynamodb:BatchWriteItem": 1}


def test_index_entries_are_billed_when_they_change(meter, table):
    record = {"pk": s("run#9"), "sk": s("zrun"), "list_pk": s("2026-11-22#0"), "list_sk": s("1#9")}
    put_new(table, record)
    assert meter.usage().details == {"table": 1, "index": 1}
    before = meter.usage()
    close = "SET done = :d"
    table("update_item", Key=_key_of(record), UpdateExpression=close, ExpressionAttributeValues={":d": s("x")})
    assert (meter.usage() - before).details == {"table": 1}
    before = meter.usage()
    park = "SET parked_pk = :p, parked_sk = :p"
    table("update_item", Key=_key_of(record), UpdateExpression=park, ExpressionAttributeValues={":p": s("x")})
    assert (meter.usage() - before).details == {"table": 1, "index": 1}
    assert meter.usage().writes_by_run == {"9": 5}


def _key_of(item):
    return {name: item[name] for name in ("pk", "sk")}


def test_transactions_cost_twice(meter, client, resources):
    puts = [{"Put": {"TableName": resources.table, "Item": key(number)}} for number in (1, 2)]
    client("dynamodb").transact_write_items(TransactItems=puts)
    assert meter.usage().quantities == {"dynamodb.write": 4}


# --- reads -----------------------------------------------------------------------------------------


def test_a_query_adds_sizes_up_before_it_rounds(meter, table):
    for number in range(10):
        put_new(table, key(number) | {"body": {"B": b"x" * 700}})
    before = meter.usage()
    table(
        "query",
        KeyConditionExpression="pk = :p",
        ExpressionAttributeValues={":p": s("run#1")},
        ConsistentRead=True,
    )
    used = meter.usage() - before
    assert used.quantities == {"dynamodb.read": 2}  # 7.3 KB
    assert used.requests == {"dynamodb:Query": 1}


def test_a_projection_makes_nothing_cheaper(meter, table):
    for number in range(10):
        put_new(table, key(number) | {"body": {"B": b"x" * 700}})
    before = meter.usage()
    table(
        "query",
        KeyConditionExpression="pk = :p",
        ExpressionAttributeValues={":p": s("run#1")},
        ExpressionAttributeNames={"#0": "sk"},
        ProjectionExpression="#0",
    )
    table("get_item", Key=key(1), ProjectionExpression="sk", ConsistentRead=True)
    assert (meter.usage() - before).quantities == {"dynamodb.read": 2 / 2 + 1}


def test_reading_what_is_not_there_costs_a_block(meter, table, client, resources):
    table("get_item", Key=key(1), ConsistentRead=True)
    table("get_item", Key=key(1))
    client("dynamodb").batch_get_item(RequestItems={resources.table: {"Keys": [key(1), key(2)]}})
    assert meter.usage().quantities == {"dynamodb.read": 1 + 0.5 + 2 * 0.5}


# --- queue, timers, payloads -----------------------------------------------------------------------


@pytest.mark.parametrize(("size", "expected"), [(0, 1), (64 * KB, 1), (64 * KB + 1, 2), (256 * KB, 4), (1024 * KB, 16)])
def test_messages_are_billed_by_chunks(size, expected):
    assert sqs_requests(size) == expected


def test_attributes_count_as_payload():
    assert message_size("ä", {"run": {"DataType": "String", "StringValue": "ab"}}) == 2 + 3 + 6 + 2


def test_a_batch_is_one_request_for_each_64_kb_of_all_together(meter, client, resources):
    meter.attach(client("sqs"))
    entries = [{"Id": str(number), "MessageBody": "x" * 20 * KB} for number in range(10)]
    client("sqs").send_message_batch(QueueUrl=resources.queue_url, Entries=entries)
    assert meter.usage().quantities == {"sqs.request": 4}
    assert meter.usage().requests == {"sqs:SendMessageBatch": 1}
    # Each message comes to a worker of its own: ten receives and ten deletes.
    assert meter.usage().polled().quantities == {"sqs.request": 4 + 20}
    assert meter.usage().polled(batch_size=10).quantities == {"sqs.request": 4 + 2}


def test_a_large_message_is_received_in_chunks_too(client, resources):
    meter = CostMeter()
    meter.attach(client("sqs"))
    client("sqs").send_message(QueueUrl=resources.queue_url, MessageBody="x" * 150 * KB)
    assert meter.usage().quantities == {"sqs.request": 3}
    assert meter.usage().polled().quantities == {"sqs.request": 3 + 3 + 1}


def test_schedules_and_objects(meter, client, resources):
    meter.attach(client("scheduler"))
    meter.attach(client("s3"))
    client("scheduler").create_schedule(
        Name="timer",
        GroupName=resources.schedule_group,
        ScheduleExpression="at(2099-01-01T00:00:00)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={"Arn": resources.queue_arn, "RoleArn": resources.scheduler_role_arn, "Input": "{}"},
    )
    client("scheduler").delete_schedule(Name="timer", GroupName=resources.schedule_group)
    client("s3").put_object(Bucket=resources.bucket, Key="wrun_1/x", Body=b"x")
    client("s3").get_object(Bucket=resources.bucket, Key="wrun_1/x")["Body"].read()
    assert meter.usage().quantities == {"scheduler.invocation": 1, "s3.put": 1, "s3.get": 1}


# --- faults ----------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Answers writes with what the test wants, in order (None hangs up), and everything else with nothing found."""

    def __init__(self, answers):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = answers

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        write = self.headers["X-Amz-Target"].endswith("PutItem")
        answer = self.server.answers.pop(0) if write else (200, {})
        if answer is None:
            self.close_connection = True
            return
        status, body = answer
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextmanager
def served(*answers):
    with Server(list(answers)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        made = botocore.session.Session().create_client(
            "dynamodb",
            region_name="us-east-1",
            endpoint_url=server.url,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
            config=Config(retries={"mode": "standard", "total_max_attempts": 2}),
        )
        yield made
        made.close()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "units"),
    [
        ((400, {"__type": "ThrottlingException"}), 1),
        ((500, {"__type": "InternalServerError"}), 1),
        (None, 2),  # it may have been carried out, so it is billed
    ],
)
def test_each_attempt_is_a_request_and_billed_unless_it_was_turned_away(answer, units):
    meter = CostMeter()
    with served(answer, (200, {})) as dynamodb:
        meter.attach(dynamodb)
        dynamodb.put_item(TableName="t", Item=key(1))
    usage = meter.usage()
    assert usage.requests == {"dynamodb:PutItem": 2}
    assert usage.quantities == {"dynamodb.write": units}


def test_only_what_has_a_price_can_be_metered(client):
    with pytest.raises(ValueError, match="iam"):
        CostMeter().attach(client("iam"))


# --- report ----------------------------------------------------------------------------------------


def test_a_run_of_ten_steps_as_the_design_has_it(meter, table, client, resources):
    """Record, turn 0, ten turns, close: the shape of the budget, written out by hand."""
    meter.attach(client("sqs"))
    before = meter.usage()
    record = {"pk": s("run#1"), "sk": s("zrun"), "list_pk": s("2026-11-22#0"), "list_sk": s("1#1")}
    put_new(table, record)
    for number in range(11):
        put_new(table, key(number) | {"body": {"B": b"x" * 300}})
        client("sqs").send_message_batch(QueueUrl=resources.queue_url, Entries=[{"Id": "0", "MessageBody": "x" * 600}])
    close = "SET done = :d"
    table("update_item", Key=_key_of(record), UpdateExpression=close, ExpressionAttributeValues={":d": s("x")})
    used = (meter.usage() - before).polled().invoked(11, milliseconds=220, memory_mb=512)
    assert used.writes_by_run == {"1": 10 + 4}
    assert used.quantities == {
        "dynamodb.write": 14,
        "sqs.request": 33,
        "lambda.request": 11,
        "lambda.arm64": pytest.approx(0.11),
    }
    dollars = 14 * 0.625 + 33 * 0.4 + 11 * 0.2 + 0.11 * 13.3334
    assert used.dollars_per_million(10) == pytest.approx(dollars / 10)
    lines = used.report(runs=1, steps=10).splitlines()
    assert lines[0].split() == ["in", "all", "per", "run", "per", "step", "$/M", "steps"]
    assert lines[1].split() == ["dynamodb.write", "14", "14", "1.4", "0.875"]


def test_the_indexes_are_those_of_the_template():
    properties = load_template().properties("RunsTable")
    keys = tuple(each["AttributeName"] for each in properties["KeySchema"])
    found = {
        Index(
            name=each["IndexName"],
            keys=tuple(key["AttributeName"] for key in each["KeySchema"]),
            table_keys=keys,
        )
        for each in properties["GlobalSecondaryIndexes"]
    }
    assert found == set(INDEXES)
    assert {each["Projection"]["ProjectionType"] for each in properties["GlobalSecondaryIndexes"]} == {"KEYS_ONLY"}
