"""The API function: HTTP requests from API Gateway. ``Handler: handlers.api.handler``."""

from __future__ import annotations

import asyncio
import os
from functools import cache
from typing import Any

from mangum import Mangum

from everstep.serverless.cold import Process
from everstep.serverless.context import LambdaContext
from everstep.serverless.gateway import as_function, signed
from everstep.serverless.tokens import secret_tokens
from everstep.web.api import create_api

process = Process()


@cache
def http() -> Mangum:
    asyncio.set_event_loop(asyncio.new_event_loop())  # for Mangum; Python 3.14 makes none by itself
    settings, vouched = process.settings, signed if process.settings.api_auth == "iam" else None
    api = create_api(
        process.app,
        process.connection,
        tokens=secret_tokens(settings.api_token_secret),
        vouched=vouched,
        open_hooks=settings.api_open_hooks,
        origins=settings.api_origins,
    )
    return as_function(api)


if "AWS_LAMBDA_INITIALIZATION_TYPE" in os.environ:  # now, while Lambda gives it most processor time
    http()


def handler(event: dict[str, Any], context: LambdaContext) -> Any:
    with process.watch.keys(function_request_id=context.aws_request_id):
        return http()(event, context)  # type: ignore[arg-type]
