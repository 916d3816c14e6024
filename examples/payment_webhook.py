"""A payment whose provider says by HTTP what became of it: a webhook, a signature, a deadline.

python examples/payment_webhook.py          (needs everstep[server])
"""

import asyncio
import hashlib
import hmac
import json
import os
import socket
import threading
import time
import urllib.request

import uvicorn

from everstep import WebhookRequest, Workflows, create_webhook, get_step_metadata, run
from everstep.assembly import current_connection
from everstep.web.api import create_api

wf = Workflows()


@wf.workflow
async def checkout(order: str, cents: int) -> str:
    async with create_webhook() as hook:  # its callers get 202 at once
        await create_payment(order, cents, hook.url)
        try:
            async with asyncio.timeout(3600):  # an hour, and a restart does not begin it anew
                async for request in hook:  # providers repeat themselves, and others may know the URL
                    status = await verified_status(request)
                    if status in ("paid", "refused"):
                        return f"{order} is {status}"
        except TimeoutError:
            pass
    return f"{order} was not paid in time"


@wf.step
def create_payment(order: str, cents: int, callback: str) -> None:
    key = get_step_metadata().step_id  # the same when the step is tried again, so that nobody pays twice
    provider(key, order, cents, callback)


@wf.step
def verified_status(request: WebhookRequest) -> str:
    """What the provider says; of what is not from the provider, "forged"."""
    expected = hmac.new(secret(), request.body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, request.headers.get("x-signature", "")):
        return "forged"
    return str(request.json()["status"])


def secret() -> bytes:
    return os.environ.get("PAYMENT_SECRET", "shared with the provider").encode()


def provider(key: str, order: str, cents: int, callback: str) -> None:
    """Stands in for a payment provider, which sends two requests after a while."""

    def call_back() -> None:
        for status in ("pending", "paid"):
            time.sleep(0.2)
            body = json.dumps({"order": order, "amount": cents, "status": status}).encode()
            signature = hmac.new(secret(), body, hashlib.sha256).hexdigest()
            request = urllib.request.Request(callback, body, {"X-Signature": signature})
            with urllib.request.urlopen(request) as answer:
                print(f"the provider says {status!r} and is answered {answer.status}")

    threading.Thread(target=call_back, daemon=True).start()


if __name__ == "__main__":
    # What 'everstep dev --app examples/payment_webhook.py' does for you, and API Gateway on AWS.
    listening = socket.create_server(("127.0.0.1", 0))
    os.environ["EVERSTEP_PUBLIC_URL"] = f"http://127.0.0.1:{listening.getsockname()[1]}"
    api = create_api(wf, current_connection(), tokens=list)  # no token: only webhooks and /health are open
    server = uvicorn.Server(uvicorn.Config(api, log_level="warning", access_log=False))
    threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True).start()
    print(run(checkout, "order-17", 1250))
