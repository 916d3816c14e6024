"""The provisioner makes what the template says, and takes it away again."""

from __future__ import annotations

import functools
import json

import boto3
import pytest
from moto import mock_aws

from infra import provision as provisioning
from infra.provision import provision
from infra.template import Scope, load_template

REGION = "eu-central-1"


@pytest.fixture
def client(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws():
        yield functools.cache(functools.partial(boto3.client, region_name=REGION))


@pytest.fixture
def made(client):
    return provision(client, name="trial", region=REGION, account="123456789012", parameters={"DelayLimit": "5"})


def test_the_table(client, made):
    dynamodb = client("dynamodb")
    table = dynamodb.describe_table(TableName=made.table)["Table"]
    assert [(key["AttributeName"], key["KeyType"]) for key in table["KeySchema"]] == [("pk", "HASH"), ("sk", "RANGE")]
    assert {
        index["IndexName"]: [key["AttributeName"] for key in index["KeySchema"]]
        for index in table["GlobalSecondaryIndexes"]
    } == {"runs-by-day": ["list_pk", "list_sk"], "parked-runs": ["parked_pk", "parked_sk"]}
    assert {index["Projection"]["ProjectionType"] for index in table["GlobalSecondaryIndexes"]} == {"KEYS_ONLY"}
    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    assert not table["DeletionProtectionEnabled"]
    ttl = dynamodb.describe_time_to_live(TableName=made.table)["TimeToLiveDescription"]
    assert ttl == {"AttributeName": "expires_at", "TimeToLiveStatus": "ENABLED"}
    backups = dynamodb.describe_continuous_backups(TableName=made.table)["ContinuousBackupsDescription"]
    assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"


def test_the_queues(client, made):
    sqs = client("sqs")
    work = sqs.get_queue_attributes(QueueUrl=made.queue_url, AttributeNames=["All"])["Attributes"]
    dead = sqs.get_queue_attributes(QueueUrl=made.dead_letter_queue_url, AttributeNames=["All"])["Attributes"]
    assert work["QueueArn"] == made.queue_arn
    assert work["VisibilityTimeout"] == "360"
    assert work["ReceiveMessageWaitTimeSeconds"] == dead["ReceiveMessageWaitTimeSeconds"] == "20"
    assert work["SqsManagedSseEnabled"] == "true"
    assert json.loads(work["RedrivePolicy"]) == {"deadLetterTargetArn": dead["QueueArn"], "maxReceiveCount": 12}


def test_the_bucket_the_group_and_the_role(client, made):
    s3 = client("s3")
    assert s3.get_bucket_location(Bucket=made.bucket)["LocationConstraint"] == REGION
    assert all(s3.get_public_access_block(Bucket=made.bucket)["PublicAccessBlockConfiguration"].values())
    rules = s3.get_bucket_lifecycle_configuration(Bucket=made.bucket)["Rules"]
    assert [rule["AbortIncompleteMultipartUpload"] for rule in rules] == [{"DaysAfterInitiation": 1}]
    assert all("Expiration" not in rule for rule in rules)
    assert client("scheduler").get_schedule_group(Name=made.schedule_group)["State"] == "ACTIVE"
    policy = client("iam").get_role_policy(RoleName=made.scheduler_role, PolicyName="send-timers")["PolicyDocument"]
    assert policy["Statement"] == [{"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": made.queue_arn}]


def test_the_environment_is_the_workers(made):
    assert made.environment == {
        "EVERSTEP_BACKEND": "aws",
        "EVERSTEP_APP": "app",
        "EVERSTEP_TABLE": made.table,
        "EVERSTEP_QUEUE_URL": made.queue_url,
        "EVERSTEP_QUEUE_ARN": made.queue_arn,
        "EVERSTEP_BUCKET": made.bucket,
        "EVERSTEP_SCHEDULE_GROUP": made.schedule_group,
        "EVERSTEP_SCHEDULER_ROLE_ARN": made.scheduler_role_arn,
        "EVERSTEP_DELAY_LIMIT": "5",
        "EVERSTEP_RETENTION_DAYS": "0",
        "EVERSTEP_PUBLIC_URL": "",  # no API is made
        "EVERSTEP_TRACE": "false",
    }


def test_two_of_them_do_not_meet(client, made):
    other = provision(client, name="other", region=REGION)
    assert other.table != made.table
    assert len(client("dynamodb").list_tables()["TableNames"]) == 2


def test_destroy_takes_everything_away_and_may_be_repeated(client, made):
    client("s3").put_object(Bucket=made.bucket, Key="wrun_1/turn-1", Body=b"x")
    for _ in range(2):
        provisioning.destroy(client, made)
    assert client("dynamodb").list_tables()["TableNames"] == []
    assert "QueueUrls" not in client("sqs").list_queues()
    assert client("s3").list_buckets()["Buckets"] == []
    assert [group["Name"] for group in client("scheduler").list_schedule_groups()["ScheduleGroups"]] == ["default"]
    assert client("iam").list_roles()["Roles"] == []


def test_destroy_lifts_deletion_protection(client):
    protected = provision(client, name="p", region=REGION, parameters={"DeletionProtection": "true"})
    assert client("dynamodb").describe_table(TableName=protected.table)["Table"]["DeletionProtectionEnabled"]
    provisioning.destroy(client, protected)
    assert client("dynamodb").list_tables()["TableNames"] == []


def test_a_plain_table_has_what_every_server_knows(client):
    plain = provision(client, name="plain", region=REGION, plain_table=True)
    ttl = client("dynamodb").describe_time_to_live(TableName=plain.table)["TimeToLiveDescription"]
    assert ttl["TimeToLiveStatus"] == "DISABLED"


def test_the_command_prints_the_environment(client, capsys):
    assert provisioning.main(["--name", "cli", "--region", REGION]) == 0
    assert "EVERSTEP_TABLE=cli-runs-table\n" in capsys.readouterr().out
    assert provisioning.main(["--name", "cli", "--region", REGION, "--destroy"]) == 0
    assert client("dynamodb").list_tables()["TableNames"] == []


def test_visibility_follows_the_timeout():
    template = load_template()
    for timeout, visibility in (("30", "180"), ("900", "5400")):
        scope = Scope(template=template, parameters={"WorkerTimeout": timeout})
        assert scope.text(template.properties("WorkQueue")["VisibilityTimeout"]) == visibility
