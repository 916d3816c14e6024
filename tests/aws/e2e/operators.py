"""What somebody must be allowed who uses the command line on a stack: the table in docs/reference/aws-template.md."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tests.aws.e2e.project import ROOT

PAGE: Final = ROOT / "docs" / "reference" / "aws-template.md"
OPERATOR: Final = ("a stack's outputs", "`inspect`", "`start`, `resume`", "`deploy-check`")


def actions(row: str) -> list[str]:
    """What a row of the table names."""
    found = re.search(rf"^\| {re.escape(row)} \| (.*) \|$", PAGE.read_text(), flags=re.MULTILINE)
    assert found, f"{PAGE.name} has no row {row!r}"
    return re.findall(r"`([a-z]\w+:\w+)`", found[1])


def statements(outputs: Mapping[str, str], *rows: str) -> Iterator[dict[str, Any]]:
    """Statements of a policy: the actions of these rows of the table, on resources of the stack."""
    table = outputs["Table"]
    resources = {
        "cloudformation": [f"arn:aws:cloudformation:*:*:stack/{outputs['StackName']}/*"],
        "dynamodb": [f"arn:aws:dynamodb:*:*:table/{table}", f"arn:aws:dynamodb:*:*:table/{table}/index/*"],
        "iam": [outputs["SchedulerRoleArn"]],
        "lambda": [f"arn:aws:lambda:*:*:function:{outputs['StackName']}-*"],
        "s3": [f"arn:aws:s3:::{outputs['Bucket']}", f"arn:aws:s3:::{outputs['Bucket']}/*"],
        "scheduler": [f"arn:aws:scheduler:*:*:schedule*/{outputs['ScheduleGroup']}*"],
        "sqs": [f"arn:aws:sqs:*:*:{outputs[name].rpartition('/')[2]}" for name in ("QueueUrl", "DeadLetterQueueUrl")],
    }
    for action in dict.fromkeys(action for row in rows for action in actions(row)):
        # The one action here that knows no resources.
        where = ["*"] if action == "lambda:ListEventSourceMappings" else resources[action.partition(":")[0]]
        yield {"Effect": "Allow", "Action": action, "Resource": where}
