"""The price book: list prices as data, each with its source and the day it was looked up, and sums made with them.

Prices change: a figure that is computed here says what it was computed with. Free tiers, savings plans, data transfer
and taxes are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType
from typing import Final

REGION: Final = "us-east-1"
CHECKED: Final = date(2026, 11, 22)
MILLION: Final = 1_000_000

_DYNAMODB: Final = "https://aws.amazon.com/dynamodb/pricing/on-demand/"
_SQS: Final = "https://aws.amazon.com/sqs/pricing/"
_LAMBDA: Final = "https://aws.amazon.com/lambda/pricing/"
_EVENTBRIDGE: Final = "https://aws.amazon.com/eventbridge/pricing/"
_S3: Final = "https://aws.amazon.com/s3/pricing/"
_API_GATEWAY: Final = "https://aws.amazon.com/api-gateway/pricing/"
_CLOUDWATCH: Final = "https://aws.amazon.com/cloudwatch/pricing/"
_SECRETS: Final = "https://aws.amazon.com/secrets-manager/pricing/"
_STEP_FUNCTIONS: Final = "https://aws.amazon.com/step-functions/pricing/"
_TEMPORAL: Final = "https://docs.temporal.io/cloud/pricing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Dollars for ``per`` units.

    Attributes:
        source: the vendor's page.
        note: how the figure was checked, where that was not the vendor's page.
    """

    dollars: float
    per: int
    unit: str
    source: str
    checked: date = CHECKED
    note: str = ""

    def of(self, quantity: float) -> float:
        """Dollars for a quantity."""
        return self.dollars * quantity / self.per


PRICES: Final[Mapping[str, Price]] = MappingProxyType(
    {
        "dynamodb.write": Price(dollars=0.625, per=MILLION, unit="write request unit", source=_DYNAMODB),
        "dynamodb.read": Price(dollars=0.125, per=MILLION, unit="read request unit", source=_DYNAMODB),
        "dynamodb.storage": Price(dollars=0.25, per=1, unit="GB and month", source=_DYNAMODB),
        "sqs.request": Price(dollars=0.40, per=MILLION, unit="request of up to 64 KB", source=_SQS),
        "lambda.request": Price(dollars=0.20, per=MILLION, unit="invocation", source=_LAMBDA),
        "lambda.arm64": Price(dollars=0.0000133334, per=1, unit="GB and second", source=_LAMBDA),
        "lambda.x86_64": Price(dollars=0.0000166667, per=1, unit="GB and second", source=_LAMBDA),
        "scheduler.invocation": Price(dollars=1.00, per=MILLION, unit="invocation of a target", source=_EVENTBRIDGE),
        "s3.put": Price(dollars=5.00, per=MILLION, unit="PUT request", source=_S3),
        "s3.get": Price(
            dollars=0.40,
            per=MILLION,
            unit="GET request",
            source=_S3,
            note="read in a stored cost report of a public repository, not on the vendor's page",
        ),
        "apigateway.http": Price(dollars=1.00, per=MILLION, unit="request of up to 512 KB", source=_API_GATEWAY),
        "cloudwatch.logs": Price(
            dollars=0.50, per=1, unit="GB taken in", source=_CLOUDWATCH, note="read in a stored cost report"
        ),
        "cloudwatch.alarm": Price(
            dollars=0.10, per=1, unit="alarm and month", source=_CLOUDWATCH, note="read in a stored cost report"
        ),
        "cloudwatch.metric": Price(
            dollars=0.30, per=1, unit="metric and month", source=_CLOUDWATCH, note="read in a stored issue of 2022"
        ),
        "cloudwatch.dashboard": Price(
            dollars=3.00, per=1, unit="dashboard and month", source=_CLOUDWATCH, note="read in a stored issue of 2022"
        ),
        "secretsmanager.secret": Price(
            dollars=0.40, per=1, unit="secret and month", source=_SECRETS, note="read in a stored README"
        ),
    }
)
"""AWS in `REGION`. Those without a note are from the project's collection of AWS facts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """Another system's list price, and how many of its units a sequential step takes.

    Attributes:
        per_step: billed units for one step that succeeds at its first attempt.
        excludes: what is billed besides.
    """

    name: str
    price: Price
    per_step: float
    counted: str
    excludes: str

    @property
    def dollars_per_million_steps(self) -> float:
        return self.price.of(self.per_step * MILLION)


OTHERS: Final = (
    Other(
        name="Step Functions Standard",
        price=Price(
            dollars=25.0,
            per=MILLION,
            unit="state transition",
            source=_STEP_FUNCTIONS,
            note="read in a stored copy of that page: $0.0250 per 1,000 in US East (N. Virginia)",
        ),
        per_step=1,
        counted="one transition for each state; one more for each retry",
        excludes="the function that a state calls",
    ),
    Other(
        name="Lambda durable functions",
        price=Price(
            dollars=8.0,
            per=MILLION,
            unit="durable operation",
            source=_LAMBDA,
            note="read in stored articles that cite that page",
        ),
        per_step=1,
        counted="one operation for each step; one more for each start and each wait",
        excludes="the function's time, $0.25 per GB written, $0.15 per GB and month kept",
    ),
    Other(
        name="Temporal Cloud",
        price=Price(
            dollars=50.0,
            per=MILLION,
            unit="action",
            source=_TEMPORAL,
            note="read in a stored copy of that page; volume discounts begin at 5 million actions a month",
        ),
        per_step=1,
        counted="one action for each activity started or retried; one more for each workflow, timer and signal",
        excludes="the workers, storage, and the support plan (10 % of usage or more)",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepModel:
    """What a sequential step with a small result takes, from which its price is computed.

    The defaults are the budget of the design. Durations are assumptions until they are measured on AWS.

    Attributes:
        sqs_requests: the message is sent, received and deleted; the last two are calls of Lambda's pollers, which are
            billed like ours.
        overhead_ms: billed milliseconds of an invocation beside the user's own code.
        log_bytes: what an invocation writes to CloudWatch Logs, the lines of Lambda itself and of metrics included.
    """

    write_units: float = 1
    read_units: float = 0
    sqs_requests: float = 3
    invocations: float = 1
    memory_mb: int = 512
    overhead_ms: float = 25
    architecture: str = "arm64"
    log_bytes: float = 0


def step_bill(model: StepModel, prices: Mapping[str, Price] = PRICES) -> dict[str, float]:
    """Dollars per million steps, by what is billed."""
    gigabyte_seconds = model.invocations * model.overhead_ms / 1000 * model.memory_mb / 1024
    quantities = {
        "dynamodb.write": model.write_units,
        "dynamodb.read": model.read_units,
        "sqs.request": model.sqs_requests,
        "lambda.request": model.invocations,
        f"lambda.{model.architecture}": gigabyte_seconds,
        "cloudwatch.logs": model.log_bytes / 1e9,
    }
    return bill({name: quantity * MILLION for name, quantity in quantities.items()}, prices)


def bill(quantities: Mapping[str, float], prices: Mapping[str, Price] = PRICES) -> dict[str, float]:
    """Dollars for quantities of what the price book names; what is zero is left out."""
    return {name: prices[name].of(quantity) for name, quantity in quantities.items() if quantity}
