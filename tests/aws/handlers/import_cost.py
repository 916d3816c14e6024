"""What a cold start of the functions costs before the first message: import time, memory, modules.

``python tests/aws/handlers/import_cost.py`` prints the table; the tests guard the names and the number of modules,
which do not depend on the machine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[3]
REPEATS: Final = 7

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

CASES: Final = {
    "nothing": "pass",
    "everstep": "import everstep",
    "handlers.worker, imported": "import handlers.worker",
    "handlers.worker, ready (app, store)": "import handlers.worker; handlers.worker.process.worker",
    "handlers.worker, two clients made": (
        "import handlers.worker; handlers.worker.process.worker\n"
        "clients = handlers.worker.process.connection.backend.queue._clients\n"
        "clients.client('dynamodb'); clients.client('sqs')"
    ),
    "the same, and boto3 (not used)": (
        "import handlers.worker, boto3; handlers.worker.process.worker\n"
        "clients = handlers.worker.process.connection.backend.queue._clients\n"
        "clients.client('dynamodb'); clients.client('sqs')"
    ),
    "handlers.deadletter, ready": "import handlers.deadletter; handlers.deadletter.process.dead_letters",
    "handlers.api, imported": "import handlers.api",
    "handlers.api, ready": "import handlers.api; handlers.api.http()",
}


def run(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the code as a function with this app would, in a process of its own."""
    (folder / "shop.py").write_text(APP, encoding="utf-8")
    path = os.pathsep.join([str(ROOT), str(ROOT / "adapter"), str(folder)])
    variables = {**ENVIRONMENT, "PATH": os.environ.get("PATH", ""), "PYTHONPATH": path, **environment}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=variables, capture_output=True, text=True, timeout=60, check=False
    )


def measure(code: str, folder: Path) -> dict[str, Any]:
    done = run(MEASURE.format(code=code), folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'':38}{'ms':>6}{'MB':>7}{'modules':>9}")
        for name, code in CASES.items():
            found = [measure(code, Path(folder)) for _ in range(REPEATS)]
            took = statistics.median(each["ms"] for each in found)
            memory = statistics.median(each["mb"] for each in found)
            print(f"{name:38}{took:6.0f}{memory:7.0f}{len(found[0]['modules']):9}")


if __name__ == "__main__":
    main()
