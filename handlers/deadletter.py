"""The dead-letter function: what the worker could not handle. ``Handler: handlers.deadletter.handler``."""

from __future__ import annotations

from typing import Any

from everstep.serverless.cold import Process
from everstep.serverless.context import LambdaContext

process = Process()


def handler(event: dict[str, Any], context: LambdaContext) -> Any:
    return process.dead_letters(event, context)
