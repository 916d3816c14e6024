"""The worker function: messages of the queue, each handled to its end. ``Handler: handlers.worker.handler``."""

from __future__ import annotations

import os
from typing import Any

from everstep.serverless.cold import Process
from everstep.serverless.context import LambdaContext

process = Process()
if "AWS_LAMBDA_INITIALIZATION_TYPE" in os.environ:  # now, while Lambda gives it most processor time
    _ = process.worker


def handler(event: dict[str, Any], context: LambdaContext) -> Any:
    return process.worker(event, context)
