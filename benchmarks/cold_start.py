"""Measure what a cold start of the functions takes before the first message: `make bench-cold`.

Each case is a process of its own, as a function with this app would be started; the median of several is shown. Time
is from the first import on, so Python's own start is left out. Tests guard the names and the number of the modules,
which do not depend on the machine (tests/aws/handlers/test_cold.py).
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
REPEATS: Final = 9

ENVIRONMENT: Final = {
    "AWS_ACCESS_KEY_ID": "AKIAEXAMPLEEXAMPLEEX",
    "AWS_SECRET_ACCESS_KEY": "example",
    "AWS_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",  # nobody listens there: no measurement and no test calls AWS
    "EVERSTEP_BACKEND": "aws",
    "EVERSTEP_APP": "shop",
    "EVERSTEP_TABLE": "everstep-Table-1",
    "EVERSTEP_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/everstep-Queue-1",
    "EVERSTEP_QUEUE_ARN": "arn:aws:sqs:eu-central-1:123456789012:everstep-Queue-1",
    "EVERSTEP_BUCKET": "everstep-bucket-1",
    "EVERSTEP_SCHEDULE_GROUP": "everstep",
    "EVERSTEP_SCHEDULER_ROLE_ARN": "arn:aws:iam::123456789012:role/everstep-SchedulerRole-1",
    "POWERTOOLS_SERVICE_NAME": "shop",
    "POWERTOOLS_METRICS_NAMESPACE": "Everstep",
    "PYTHONHASHSEED": "0",
}
"""What the template and Lambda set on the functions."""

APP: Final = """
from everstep import Workflows

wf = Workflows()

@wf.workflow
async def greet(name: str) -> str:
    return await salute(name)

@wf.step
async def salute(name: str) -> str:
    return f"hello {name}"
"""

MEASURE: Final = """
import sys, time
begun = time.perf_counter()
{code}
took = time.perf_counter() - begun
import json, resource
print(json.dumps({{
    "ms": took * 1000,
    "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "modules": sorted(sys.modules),
}}))
"""

BOTOCORE: Final = "import botocore.session; session = botocore.session.Session()"
TWO: Final = (
    "; session.{make}('dynamodb', region_name='eu-central-1'); session.{make}('sqs', region_name='eu-central-1')"
)
WORKER: Final = "import handlers.worker; process = handlers.worker.process; process.worker"

CASES: Final[Mapping[str, str]] = {
    "nothing": "pass",
    "everstep": "import everstep",
    "botocore": "import botocore.session",
    "botocore, two clients": BOTOCORE + TWO.format(make="create_client"),
    "boto3, two clients": "import boto3 as session" + TWO.format(make="client"),
    "boto3, two resources": "import boto3 as session" + TWO.format(make="resource"),
    "handlers.worker, imported": "import handlers.worker",
    "handlers.worker, ready": WORKER,
    "  and a first typed value": f"{WORKER}; process.app.workflows['greet'].encode_json(['Ada'])",
    "  and boto3": f"{WORKER}; import boto3",
    "handlers.deadletter, ready": "import handlers.deadletter; handlers.deadletter.process.dead_letters",
    "handlers.api, ready": "import handlers.api; handlers.api.http()",
}
"""A function is ready when its app is imported and the clients of DynamoDB and SQS are made. The first value of a type
imports pydantic, which is part of the first message and not of the start."""


def run(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the code as a function with this app would, in a process of its own."""
    (folder / "shop.py").write_text(APP, encoding="utf-8")
    path = os.pathsep.join([str(ROOT), str(ROOT / "adapter"), str(folder)])
    variables = {**ENVIRONMENT, "PATH": os.environ.get("PATH", ""), "PYTHONPATH": path, **environment}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=variables, capture_output=True, text=True, timeout=60, check=False
    )


def measure(code: str, folder: Path) -> dict[str, Any]:
    """Milliseconds, peak memory in MB, and the modules."""
    done = run(MEASURE.format(code=code), folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    versions = ", ".join(f"{name} {version(name)}" for name in ("botocore", "pydantic", "aws-lambda-powertools"))
    print(f"Python {platform.python_version()}, {versions}, {os.cpu_count()} cores, {platform.machine()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In turns, so that what disturbs the machine for a moment disturbs all cases alike.
        rounds = [{case: measure(code, folder) for case, code in CASES.items()} for _ in range(REPEATS)]
    middle = {case: statistics.median(each[case]["ms"] for each in rounds) for case in CASES}
    print(f"{'':36}{'ms':>6}{'(least)':>9}{'ratio':>7}{'MB':>6}{'modules':>9}")
    for case in CASES:
        least = min(each[case]["ms"] for each in rounds)
        memory = statistics.median(each[case]["mb"] for each in rounds)
        ratio = middle[case] / middle["handlers.worker, ready"]
        modules = len(rounds[0][case]["modules"])
        print(f"{case:36}{middle[case]:6.0f}{least:9.0f}{ratio:7.2f}{memory:6.0f}{modules:9}")


if __name__ == "__main__":
    main()
