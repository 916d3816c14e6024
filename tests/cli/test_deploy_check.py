"""`everstep deploy-check`: a row for each check, and what it says when that one thing is wrong."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from everstep.cli.checks import NEEDED, NEEDED_FOR_API
from tests.cli.aws import CREDENTIALS, deployed_stack
from tests.cli.aws_stub import API, DEAD, REGION, STACK, WORKER, WORKER_ALIAS, Refusal, row, stubbed_aws

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "aws-template.md"
NAMES = [
    "credentials",
    "stack",
    "outputs",
    "table",
    "bucket",
    "schedules",
    "worker",
    "worker's queue",
    "queue",
    "dead letters",
    "API",
    "worker starts",
    "round trip",
]


@pytest.fixture
def aws(monkeypatch):
    with stubbed_aws() as stub:
        for name, value in {**CREDENTIALS, "AWS_REGION": REGION, "AWS_ENDPOINT_URL": stub.address}.items():
            monkeypatch.setenv(name, value)
        yield stub


@pytest.fixture
def check(aws, here):
    def run(*words):
        return here("deploy-check", "--stack", STACK, *words)

    return run


# --- all is well -----------------------------------------------------------------------------------


def test_a_deployment_that_is_as_it_should_be(check):
    done = check()
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line[2:16].strip() for line in lines[:-1]] == NAMES
    assert {line[0] for line in lines[:-2]} == {"✓"}
    assert row(done.out, "credentials")[1].endswith(f"user/ada in account 123456789012, region {REGION}")
    assert row(done.out, "worker")[1] == f"{WORKER}, alias live is version 7, python3.13, 512 MB, app app"
    assert row(done.out, "queue")[1].startswith("3 waiting, 2 under way, 1 delayed; visibility timeout 360 s")
    assert row(done.out, "round trip") == (
        "–",
        "not tried",
        "name one of your workflows: --run app:workflow --input JSON",
    )


def test_json(check):
    found = check("--json").json
    assert (found["stack"], found["ok"]) == (STACK, True)
    assert [each["name"] for each in found["checks"]] == NAMES
    assert [each["status"] for each in found["checks"]] == ["ok"] * 12 + ["skipped"]
    assert found["checks"][0]["advice"] is None


def test_each_permission_is_documented(aws, check):
    check()
    page = REFERENCE.read_text()
    allowed = {"lambda:Invoke": "lambda:InvokeFunction", "s3:HeadBucket": "s3:ListBucket"}
    asked = {allowed.get(each, each) for each in aws.asked} - {"sts:GetCallerIdentity"}  # everybody may
    assert len(asked) == 11
    assert {each for each in asked if f"`{each}`" not in page} == set()


# --- one thing is wrong ----------------------------------------------------------------------------

LIVE, NEWEST = (f"lambda:GetFunctionConfiguration {WORKER} {each}" for each in ("live", "$LATEST"))
STACKS, TABLE, TTL, BACKUPS = (
    "cloudformation:DescribeStacks",
    "dynamodb:DescribeTable",
    "dynamodb:DescribeTimeToLive",
    "dynamodb:DescribeContinuousBackups",
)
QUEUE, DEAD_QUEUE = "sqs:GetQueueAttributes work", "sqs:GetQueueAttributes dead"
MAPPINGS, DEAD_MAPPINGS = "lambda:ListEventSourceMappings work", "lambda:ListEventSourceMappings dead"
EXPIRED = Refusal(code="ExpiredToken", message="It has expired.", status=403)
GONE = Refusal(code="ResourceNotFoundException", status=404)
DENIED = Refusal(code="AccessDeniedException", message="user ada is not authorized", status=403)
EVENTS = f"aws cloudformation describe-stack-events --stack-name {STACK}"
MAKE_AGAIN = "a deploy does not undo what was deleted by hand: make it again"
AGAIN = "deploy again: sam build && sam deploy"


def changed(*path, to):
    """A change of an answer: where in it, and to what."""

    def change(answers):
        place = answers
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = to

    return change


def mapping_of(queue, **changes):
    def change(answers):
        answers[f"lambda:ListEventSourceMappings {queue}"]["EventSourceMappings"][0].update(changes)

    return change


FAILING = {
    "no credentials that count": (
        "credentials",
        changed("sts:GetCallerIdentity", to=EXPIRED),
        "AWS did not accept the credentials (ExpiredToken: It has expired)",
        "renew them, or check AWS_PROFILE",
    ),
    "stack under way": (
        "stack",
        changed(STACKS, "StackStatus", to="UPDATE_IN_PROGRESS"),
        f"{STACK} is UPDATE_IN_PROGRESS since 2026-11-22 10:00 UTC",
        "wait until it has ended",
    ),
    "first deploy failed": (
        "stack",
        changed(STACKS, "StackStatus", to="ROLLBACK_COMPLETE"),
        "is ROLLBACK_COMPLETE",
        f"its first deploy failed: delete it (sam delete) and {AGAIN}; why: {EVENTS}",
    ),
    "deploy failed": (
        "stack",
        changed(STACKS, to={"StackStatus": "UPDATE_FAILED", "StackStatusReason": "no such role"}),
        "is UPDATE_FAILED",
        f"{AGAIN}; why: {EVENTS} (no such role)",
    ),
    "stack refused": (
        "stack",
        changed(STACKS, to=Refusal(code="AccessDenied", message="not you", status=403)),
        f"AWS refused cloudformation:DescribeStacks on stack '{STACK}'",
        "allow cloudformation:DescribeStacks to the user or role of these credentials (AWS said: not you)",
    ),
    "no stack": (
        "stack",
        changed(STACKS, to=Refusal(code="ValidationError", message=f"Stack with id {STACK} does not exist")),
        f"there is no stack '{STACK}' in {REGION} (as AWS_REGION says)",
        "check the name, the region and AWS_PROFILE, or run 'sam deploy'",
    ),
    "table missing": ("table", changed(TABLE, to=GONE), f"there is no table 'runs' in {REGION}", MAKE_AGAIN),
    "table being made": (
        "table",
        changed(TABLE, "Table", "TableStatus", to="CREATING"),
        "runs is CREATING, 2 indexes",
        "wait, or deploy again",
    ),
    "index missing": (
        "table",
        changed(TABLE, "Table", "GlobalSecondaryIndexes", 0, "IndexStatus", to="CREATING"),
        "not all of them active",
        "wait",
    ),
    "items do not expire": (
        "table",
        changed(TTL, "TimeToLiveDescription", "TimeToLiveStatus", to="DISABLED"),
        "items do not expire",
        "turn TTL on for the attribute expires_at",
    ),
    "other attribute expires": (
        "table",
        changed(TTL, "TimeToLiveDescription", "AttributeName", to="ttl"),
        "items do not expire",
        "expires_at",
    ),
    "no backups": (
        "table",
        changed(BACKUPS, "ContinuousBackupsDescription", "PointInTimeRecoveryDescription", to={}),
        "no point-in-time recovery",
        "without it lost data is lost",
    ),
    "backups refused": (
        "table",
        changed(BACKUPS, to=DENIED),
        "AWS refused dynamodb:DescribeContinuousBackups on table 'runs'",
        "allow dynamodb:DescribeContinuousBackups",
    ),
    "throttled": (
        "table",
        changed(TABLE, to=Refusal(code="ThrottlingException")),
        "AWS is busy: dynamodb:DescribeTable on table 'runs' was not done",
        "try again",
    ),
    "bucket missing": (
        "bucket",
        changed("s3:HeadBucket", to=Refusal(code="404", status=404)),
        f"there is no bucket 'payloads' in {REGION}",
        MAKE_AGAIN,
    ),
    "bucket refused": (
        "bucket",
        changed("s3:HeadBucket", to=Refusal(code="403", status=403)),
        "AWS refused s3:HeadBucket on bucket 'payloads'",
        "allow s3:ListBucket to",
    ),
    "no group": (
        "schedules",
        changed("scheduler:GetScheduleGroup", to=GONE),
        "there is no schedule group 'schedules'",
        MAKE_AGAIN,
    ),
    "group deleted": (
        "schedules",
        changed("scheduler:GetScheduleGroup", "State", to="DELETING"),
        "schedules is DELETING",
        AGAIN,
    ),
    "no alias": (
        "worker",
        changed(f"lambda:GetAlias {WORKER}", to=GONE),
        f"there is no function '{WORKER}', alias 'live'",
        MAKE_AGAIN,
    ),
    "alias of no version": (
        "worker",
        changed(f"lambda:GetAlias {WORKER}", "FunctionVersion", to="$LATEST"),
        "alias live is version $LATEST",
        "runs under way keep their code",
    ),
    "worker not ready": (
        "worker",
        changed(LIVE, to={"State": "Failed", "StateReason": "no image"}),
        "Failed: no image",
        "wait, or deploy again",
    ),
    "worker behind": (
        "worker",
        changed(NEWEST, "CodeSha256", to="0ther"),
        "which is not what was deployed last (CodeSha256 differ)",
        f"publish a version of {WORKER} and point the alias live at it",
    ),
    "worker's settings": (
        "worker",
        changed(LIVE, "Environment", "Variables", "EVERSTEP_TABLE", to="other"),
        "which is not what was deployed last (Environment differ)",
        "publish a version",
    ),
    "no mapping": (
        "worker's queue",
        changed(MAPPINGS, "EventSourceMappings", to=[]),
        f"the queue does not invoke {WORKER_ALIAS}",
        AGAIN,
    ),
    "mapping of another": (
        "worker's queue",
        mapping_of("work", FunctionArn="arn:of:another"),
        f"the queue does not invoke {WORKER_ALIAS} but arn:of:another",
        AGAIN,
    ),
    "mapping disabled": (
        "worker's queue",
        mapping_of("work", State="Disabled", StateTransitionReason="User initiated"),
        "Disabled, batches of 1 (User initiated)",
        "enable event source mapping mapping-of-work",
    ),
    "no partial responses": (
        "worker's queue",
        mapping_of("work", FunctionResponseTypes=[]),
        "without partial responses",
        "failed messages would be lost: event source mapping mapping-of-work needs ReportBatchItemFailures",
    ),
    "queue missing": (
        "queue",
        changed(QUEUE, to=Refusal(code="QueueDoesNotExist")),
        f"there is no queue 'work' in {REGION}",
        MAKE_AGAIN,
    ),
    "visible too soon": (
        "queue",
        changed(QUEUE, "Attributes", "VisibilityTimeout", to="30"),
        "visibility timeout 30 s, less than the worker's 60 s",
        "handled twice at once",
    ),
    "nowhere for dead letters": (
        "queue",
        changed(QUEUE, "Attributes", "RedrivePolicy", to=""),
        "no dead-letter queue",
        "a poisonous message would circle for ever in work",
    ),
    "dead letters unread": (
        "dead letters",
        changed(DEAD_MAPPINGS, "EventSourceMappings", to=[]),
        "the queue does not invoke arn:aws:lambda",
        AGAIN,
    ),
    "no handler of dead letters": (
        "dead letters",
        changed(f"lambda:GetAlias {DEAD}", to=GONE),
        f"there is no function '{DEAD}', alias 'live'",
        MAKE_AGAIN,
    ),
    "API function missing": (
        "API",
        changed(f"lambda:GetAlias {API}", to=GONE),
        f"there is no function '{API}'",
        MAKE_AGAIN,
    ),
    "API failing": ("API", changed("health", to=500), "/health answers 500", f"the log of {API} says why"),
    "API shut": ("API", changed("health", to=403), "/health answers 403", f"the log of {API} says why"),
    "app not found": (
        "worker starts",
        changed("lambda:Invoke", to={"errorType": "ConfigurationError", "errorMessage": "there is no module 'app'"}),
        "it fails: ConfigurationError: there is no module 'app'",
        "mend app.py or requirements.txt, and deploy again",
    ),
    "no worker of ours": (
        "worker starts",
        changed("lambda:Invoke", to={"hello": "world"}),
        """it answered {"hello": "world"}""",
        "this is not Everstep's worker",
    ),
    "worker refused": (
        "worker starts",
        changed("lambda:Invoke", to=DENIED),
        f"AWS refused lambda:Invoke on function {WORKER_ALIAS}",
        "allow lambda:InvokeFunction to",
    ),
}


@pytest.mark.parametrize("case", FAILING)
def test_what_is_wrong_is_named_with_what_to_do(aws, check, case):
    name, change, text, advice = FAILING[case]
    change(aws.answers)
    done = check()
    assert done.code == 1
    mark, said, advised = row(done.out, name)
    assert mark == "✗"
    assert text in said
    assert advice in advised
    failed = [line[2:16].strip() for line in done.out.splitlines() if line.startswith("✗")]
    assert failed == [name]
    assert done.line.startswith("1 of ")


def test_settings_of_all_versions_that_are_not_the_stack_s(aws, check):
    for qualifier in ("live", "$LATEST"):
        aws.answers[f"lambda:GetFunctionConfiguration {WORKER} {qualifier}"]["Environment"]["Variables"] = {}
    assert "EVERSTEP_TABLE, EVERSTEP_QUEUE_URL" in row(check().out, "worker")[1]


@pytest.mark.parametrize("missing", [*NEEDED, *NEEDED_FOR_API])
def test_an_output_that_is_missing(aws, check, missing):
    del aws.outputs[missing]
    done = check()
    assert done.code == 1
    assert row(done.out, "outputs")[:2] == ("✗", f"there is no {missing}")
    assert "table" not in done.out, "what is not known cannot be looked at"
    assert row(done.out, "round trip")[0] == "–"


def test_json_of_what_is_wrong(aws, check):
    aws.answers["health"] = 500
    done = check("--json")
    assert (done.code, done.err) == (1, "")
    (api,) = [each for each in done.json["checks"] if each["name"] == "API"]
    assert (done.json["ok"], api["status"], api["advice"]) == (False, "failed", f"the log of {API} says why")


def test_without_credentials_nothing_else_is_tried(aws, check, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    done = check()
    assert done.code == 1
    assert row(done.out, "credentials") == (
        "✗",
        "there are no AWS credentials",
        "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run 'aws configure' (or 'aws sso login')",
    )
    assert "stack" not in done.out.replace("the above", "")
    assert aws.asked == []


@pytest.mark.parametrize(
    ("change", "name", "text"),
    [
        (changed(STACKS, "StackStatus", to="UPDATE_ROLLBACK_COMPLETE"), "stack", "is UPDATE_ROLLBACK_COMPLETE"),
        (changed(TABLE, "Table", "DeletionProtectionEnabled", to=False), "table", "deletion protection off"),
        (changed(DEAD_QUEUE, "Attributes", "ApproximateNumberOfMessages", to="2"), "dead letters", "2 waiting"),
        (
            changed(f"lambda:GetAlias {WORKER}", "RoutingConfig", to={"AdditionalVersionWeights": {"8": 0.1}}),
            "worker",
            "part of the work goes to another",
        ),
    ],
)
def test_warnings_do_not_count(aws, check, change, name, text):
    change(aws.answers)
    done = check()
    assert done.code == 0
    mark, said, advice = row(done.out, name)
    assert mark == "!"
    assert text in said
    assert advice != ""


def test_an_api_with_iam_refuses_what_is_not_signed(aws, check):
    aws.outputs["ApiAuth"] = "iam"
    aws.answers["health"] = 403
    done = check()
    assert done.code == 0
    assert "refuses requests that are not signed, as it must" in row(done.out, "API")[1]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "ftp://example.invalid", "nonsense"])
def test_an_api_that_is_nowhere(aws, check, url):
    aws.outputs["ApiUrl"] = url
    assert row(check().out, "API")[0] == "✗"


def test_an_api_that_speaks_no_http(aws, check):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def babble():
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"hello\r\n\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        aws.outputs["ApiUrl"] = f"http://127.0.0.1:{server.getsockname()[1]}"
        mark, text, _ = row(check().out, "API")
        thread.join()
    assert mark == "✗"
    assert "does not answer" in text


# --- the round trip --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A real table and a real queue, and a worker."""
    with deployed_stack(tmp_path_factory.mktemp("deployed")) as stack:
        yield stack


@pytest.fixture
def trip(stack, here, monkeypatch):
    """`deploy-check --run`: what holds data is the stack's, the rest is the stub's."""
    stack.work()
    monkeypatch.setattr("everstep.cli.wait.pause", lambda _seconds: stack.work())
    with stubbed_aws(**stack.all_outputs) as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL", stub.address)
        for service in ("DYNAMODB", "SQS", "S3", "SCHEDULER"):
            monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", stack.endpoint)
        for queue in ("work", "dead"):
            mappings = stub.answers.pop(f"lambda:ListEventSourceMappings {queue}")
            name = stack.all_outputs["QueueUrl" if queue == "work" else "DeadLetterQueueUrl"].rpartition("/")[2]
            stub.answers[f"lambda:ListEventSourceMappings {name}"] = mappings

        def run(*words):
            return here("deploy-check", "--stack", STACK, *words)

        yield run


def test_a_run_goes_through(trip, here):
    done = trip("--run", "shop:greet", "--input", '["Ada"]', "--json")
    assert done.code == 0, done.out
    assert [each["status"] for each in done.json["checks"] if each["status"] not in ("ok", "warning")] == []
    last = done.json["checks"][-1]
    assert last["name"] == "round trip"
    assert last["text"].startswith("greet wrun_")
    assert " completed in " in last["text"]
    listed = here("inspect", "runs", "--stack", STACK, "--attribute", "deploy-check=true", "--json").json["runs"]
    assert [run["run_id"] for run in listed] == [last["text"].split()[1]]
    assert listed[0]["attributes"] == {"deploy-check": "true"}


def test_a_run_that_fails(trip):
    done = trip("--run", "shop:fails")
    assert done.code == 1
    mark, text, advice = row(done.out, "round trip")
    assert mark == "✗"
    assert text.endswith("failed: ValueError: no such customer")
    assert advice == f"everstep inspect steps {text.split()[1]} --stack {STACK}"


def test_a_run_that_is_parked(trip):
    mark, text, advice = row(trip("--run", "shop:reads").out, "round trip")
    assert (mark, "parked: " in text, "move it into a step" in text) == ("✗", True, True)
    assert advice.startswith("everstep inspect steps wrun_")


def test_nobody_takes_the_run_up(trip, monkeypatch):
    monkeypatch.setattr("everstep.cli.wait.pause", time.sleep)
    done = trip("--run", "shop:greet", "--input", '["Ada"]', "--timeout", "1")
    assert done.code == 1
    mark, text, advice = row(done.out, "round trip")
    assert mark == "✗"
    assert text.endswith("pending after 1 s: no worker took it up")
    assert advice.startswith("the worker's log says why; everstep inspect steps wrun_")


def test_a_run_that_takes_longer(trip):
    done = trip("--run", "shop:naps", "--input", "[60]", "--timeout", "1")
    _, text, advice = row(done.out, "round trip")
    assert text.endswith("running after 1 s")
    assert advice.startswith("if it needs longer, give it more with --timeout; everstep inspect steps")


def test_no_run_is_started_where_the_stack_is_not_there(trip, stack, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    done = trip("--run", "shop:greet", "--input", '["Ada"]', "--json")
    assert done.code == 1
    assert done.json["checks"][-1] == {
        "name": "round trip",
        "status": "skipped",
        "text": "not tried: the above comes first",
        "advice": None,
    }
    assert stack.waiting() == 0
