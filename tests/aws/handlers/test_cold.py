"""A cold start: what is imported, what the settings must say, what is made once."""

from __future__ import annotations

import json

import pytest

from benchmarks.cold_start import CASES, ENVIRONMENT, measure, run
from everstep.app import Workflows
from everstep.errors import ConfigurationError
from everstep.serverless.apps import load_app
from everstep.serverless.cold import Process
from everstep.settings import AwsSettings, read_settings
from tests.aws.handlers.functions import event

FORBIDDEN = {
    "boto3",  # botocore alone does
    "click",
    "fastapi",
    "mangum",
    "multiprocessing",
    "pydantic",  # until a typed value is read
    "pydantic_settings",
    "sqlite3",
    "starlette",
    "uvicorn",
    "aws_xray_sdk",
    "everstep.ai",
    "everstep.backends.sqlite",
    "everstep.cli",
    "everstep.testing",
    "everstep.web",
}


@pytest.mark.parametrize(
    ("case", "most"),
    [
        ("handlers.worker, imported", 380),
        ("handlers.worker, ready", 580),
        ("handlers.deadletter, ready", 580),
    ],
)
def test_the_worker_imports_nothing_it_does_not_need(case, most, tmp_path):
    modules = measure(CASES[case], tmp_path)["modules"]
    assert FORBIDDEN.isdisjoint(modules)
    assert len(modules) <= most, "what is new? See benchmarks/cold_start.py"


def test_the_clients_that_every_run_needs_are_made_while_lambda_starts_the_worker(tmp_path):
    code = """
from handlers.worker import process
print(sorted(vars(process)["connection"].backend.queue._clients._clients))
"""
    assert run(code, tmp_path, AWS_LAMBDA_INITIALIZATION_TYPE="on-demand").stdout == "['dynamodb', 'sqs']\n"


def test_importing_a_handler_makes_nothing_unless_on_lambda(tmp_path):
    code = "import sys; import handlers.worker; print('worker' in vars(handlers.worker.process), 'shop' in sys.modules)"
    assert run(code, tmp_path).stdout == "False False\n"
    assert run(code, tmp_path, AWS_LAMBDA_INITIALIZATION_TYPE="snap-start").stdout == "True True\n"


def test_no_chance_and_no_nonce_is_drawn_before_the_first_message(tmp_path):
    """Functions that are restored from one snapshot would have the same."""
    code = """
import os, random
def drawn(*_args): raise AssertionError("drawn")
import handlers.worker
os.urandom = random.random = random.Random.random = drawn
import everstep.assembly
engine = handlers.worker.process.worker._engine
assert engine._nonce_prefix == ""
assert isinstance(engine.chance.__self__, random.SystemRandom)
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("handler", ["worker", "deadletter"])
def test_a_message_of_somebody_else_is_kept(handler, tmp_path):
    sent = event("sqs")
    sent["Records"][0]["body"] = "not one of ours"
    code = f"""
import json
from handlers.{handler} import handler
class Context:
    aws_request_id = "c6af9ac6"
    def get_remaining_time_in_millis(self): return 30_000
print(json.dumps(handler(json.loads({json.dumps(json.dumps(sent))}), Context())))
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    *logged, answer = done.stdout.splitlines()
    assert json.loads(answer) == {"batchItemFailures": [{"itemIdentifier": sent["Records"][0]["messageId"]}]}
    assert "it is not a message of Everstep" in logged[0]
    assert json.loads(logged[0])["service"] == "shop"


def test_the_api_without_a_token_is_closed(tmp_path):
    sent = event("http")
    code = f"""
import json
from handlers.api import handler
class Context:
    aws_request_id = "c6af9ac6"
event = json.loads({json.dumps(json.dumps(sent))})
print(json.dumps(handler(event, Context())))
event["rawPath"] = event["requestContext"]["http"]["path"] = "/health"
event["requestContext"]["http"]["method"] = "GET"
print(json.dumps(handler(event, Context())))
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    refused, health = (json.loads(line) for line in done.stdout.splitlines() if "statusCode" in line)
    assert json.loads(done.stdout.splitlines()[0])["message"].startswith("POST /v1/runs 401 in ")
    assert (refused["statusCode"], health["statusCode"]) == (401, 200)
    assert json.loads(refused["body"])["title"] == "Unauthorized"
    assert refused["headers"]["content-type"] == "application/problem+json"


def test_the_api_does_as_its_settings_say(tmp_path):
    sent = event("http")
    sent["rawPath"] = sent["requestContext"]["http"]["path"] = "/v1/hooks/x/resume"
    sent["headers"]["origin"] = "https://shop.example"
    code = f"""
import json
from handlers.api import handler
class Context:
    aws_request_id = "c6af9ac6"
print(json.dumps(handler(json.loads({json.dumps(json.dumps(sent))}), Context())))
"""

    def answer(**environment: str) -> tuple[int, bool]:
        done = run(code, tmp_path, **environment)
        assert done.returncode == 0, done.stderr
        [found] = (json.loads(line) for line in done.stdout.splitlines() if "statusCode" in line)
        return found["statusCode"], "access-control-allow-origin" in found["headers"]

    assert answer() == (401, False)
    assert answer(EVERSTEP_API_OPEN_HOOKS="true") == (400, False), "the body is empty"
    assert answer(EVERSTEP_API_ORIGINS="https://other.example https://shop.example") == (401, True)


# --- settings ----------------------------------------------------------------------------------------


def test_aws_settings():
    settings = read_settings({**ENVIRONMENT, "EVERSTEP_DELAY_LIMIT": "5"})
    assert settings.backend == "aws"
    assert settings.app == "shop"
    assert settings.aws == AwsSettings(
        table="everstep-Table-1",
        queue_url="https://sqs.eu-central-1.amazonaws.com/123456789012/everstep-Queue-1",
        queue_arn="arn:aws:sqs:eu-central-1:123456789012:everstep-Queue-1",
        bucket="everstep-bucket-1",
        schedule_group="everstep",
        scheduler_role_arn="arn:aws:iam::123456789012:role/everstep-SchedulerRole-1",
        region="eu-central-1",
        delay_limit=5,
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"EVERSTEP_TABLE": ""}, "EVERSTEP_BACKEND=aws needs EVERSTEP_TABLE: the template sets it"),
        ({"EVERSTEP_BUCKET": "", "EVERSTEP_QUEUE_URL": ""}, "needs EVERSTEP_QUEUE_URL, EVERSTEP_BUCKET: "),
        ({"AWS_REGION": ""}, "needs AWS_REGION"),
        ({"EVERSTEP_DELAY_LIMIT": "soon"}, "EVERSTEP_DELAY_LIMIT='soon': Input should be a whole number"),
        ({"EVERSTEP_BACKEND": "dynamodb"}, "EVERSTEP_BACKEND='dynamodb': Input should be 'sqlite' or 'aws'"),
        ({"EVERSTEP_PUBLIC_URL": "shop.example"}, "EVERSTEP_PUBLIC_URL='shop.example': Input should be a URL"),
        ({"EVERSTEP_PUBLIC_URL": "https://shop.example/?a=b"}, "without a query"),
        ({"EVERSTEP_API_OPEN_HOOKS": "1"}, "EVERSTEP_API_OPEN_HOOKS='1': Input should be 'true' or 'false'"),
        ({"EVERSTEP_API_ORIGINS": "https://shop.example/"}, "'https://shop.example/' is no origin"),
        ({"EVERSTEP_API_ORIGINS": "https://a.example *"}, "'*' is no origin"),
        ({"EVERSTEP_TRACE": "yes"}, "EVERSTEP_TRACE='yes': Input should be 'true' or 'false'"),
    ],
)
def test_settings_that_are_wrong_are_named(changed, said):
    with pytest.raises(ConfigurationError) as raised:
        read_settings({**ENVIRONMENT, **changed})
    assert said in str(raised.value)


def test_settings_are_those_of_sqlite_by_default():
    settings = read_settings({"PATH": "/bin"})
    assert (settings.backend, settings.aws, str(settings.db)) == ("sqlite", None, ".everstep/runs.db")
    assert read_settings({"everstep_db": "x.db"}).db.name == "x.db"
    assert (settings.public_url, settings.api_open_hooks, settings.api_origins) == ("", False, ())


def test_settings_of_the_api():
    given = {
        "EVERSTEP_PUBLIC_URL": "https://api.shop.example/dev/",
        "EVERSTEP_API_ORIGINS": "https://a.example, http://b:1",
    }
    settings = read_settings(given)
    assert settings.public_url == "https://api.shop.example/dev"
    assert settings.api_origins == ("https://a.example", "http://b:1")


def test_a_function_on_sqlite_is_refused(monkeypatch):
    monkeypatch.setenv("EVERSTEP_BACKEND", "sqlite")
    with pytest.raises(ConfigurationError, match="its file system is not kept"):
        _ = Process().settings


def test_a_step_that_starts_runs_uses_the_connection_of_the_function(tmp_path):
    code = """
from everstep.assembly import current_connection
from handlers.worker import process
_ = process.worker
print(current_connection() is process.connection)
"""
    assert run(code, tmp_path).stdout == "True\n"


def test_programs_outside_use_the_backend_that_the_settings_choose(tmp_path):
    code = """
from everstep.assembly import current_connection
print(type(current_connection().backend.queue).__name__)
"""
    assert run(code, tmp_path).stdout == "SqsMessageQueue\n"
    assert run(code, tmp_path, EVERSTEP_BACKEND="sqlite").stdout == "SqliteMessageQueue\n"


# --- the app -----------------------------------------------------------------------------------------


@pytest.fixture
def apps(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(f"from everstep import Workflows\n{text}", encoding="utf-8")

    write("one_app", "wf = Workflows()\n@wf.workflow\nasync def greet(): ...\n")
    write("two_apps", "a = Workflows()\nb = Workflows()\n")
    write("no_app", "")
    write("only_a_workflow", "from one_app import greet\n")
    write("needs_more", "import not_installed_here\n")
    write("broken_app", "raise RuntimeError('no database')\n")
    return tmp_path


def test_an_app_is_found(apps):
    found = load_app("one_app")
    assert isinstance(found, Workflows)
    assert load_app("one_app:wf") is load_app("one_app:greet") is load_app("only_a_workflow") is found
    assert load_app(f"{apps}/one_app.py") is load_app(f"{apps}/one_app.py:wf") is found
    assert load_app("two_apps:a") is not load_app("two_apps:b")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "EVERSTEP_APP is not set"),
        ("", "EVERSTEP_APP is not set"),
        ("nowhere", "there is no module 'nowhere'"),
        ("one_app.deeper", "there is no module 'one_app.deeper'"),
        ("nowhere.py", "there is no file 'nowhere.py'"),
        ("two_apps", "has 2 Workflows objects; say which: two_apps:a"),
        ("no_app", "has 0 Workflows objects; an app has a line such as"),
        ("one_app:app", "has no Workflows object 'app', but wf"),
        ("not a module", "there is no module"),
        (":wf", "names no module"),
    ],
)
def test_an_app_is_not_found(apps, text, said):
    with pytest.raises(ConfigurationError) as raised:
        load_app(text)
    assert said in str(raised.value)


def test_what_the_app_raises_is_not_hidden(apps):
    with pytest.raises(ModuleNotFoundError, match="not_installed_here"):
        load_app("needs_more")
    with pytest.raises(RuntimeError, match="no database"):
        load_app("broken_app")
