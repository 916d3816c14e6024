"""The price book and the sums made with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from everstep.costs.prices import MILLION, OTHERS, PRICES, StepModel, bill, step_bill

COSTS = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "costs.md"


def test_every_price_names_its_source():
    for price in [*PRICES.values(), *(other.price for other in OTHERS)]:
        assert price.dollars > 0
        assert price.source.startswith("https://")
        assert price.checked.year >= 2026


@pytest.mark.parametrize(
    ("name", "quantity", "dollars"),
    [
        ("dynamodb.write", MILLION, 0.625),
        ("dynamodb.read", 2 * MILLION, 0.25),
        ("sqs.request", 3 * MILLION, 1.20),
        ("lambda.arm64", 1000, 0.0133334),
        ("scheduler.invocation", MILLION, 1.0),
    ],
)
def test_prices_multiply(name, quantity, dollars):
    assert PRICES[name].of(quantity) == pytest.approx(dollars)


def test_a_bill_leaves_out_what_is_zero():
    assert bill({"dynamodb.write": MILLION, "s3.put": 0}) == {"dynamodb.write": 0.625}


def test_the_budgeted_step():
    dollars = step_bill(StepModel())
    assert dollars == {
        "dynamodb.write": pytest.approx(0.625),
        "sqs.request": pytest.approx(1.20),
        "lambda.request": pytest.approx(0.20),
        "lambda.arm64": pytest.approx(0.025 * 0.5 * 13.3334),
    }
    assert sum(dollars.values()) == pytest.approx(2.192, abs=0.001)


def test_what_is_not_in_the_budget_by_default():
    assert step_bill(StepModel(read_units=1))["dynamodb.read"] == pytest.approx(0.125)
    assert step_bill(StepModel(log_bytes=500))["cloudwatch.logs"] == pytest.approx(0.25)
    assert step_bill(StepModel(architecture="x86_64"))["lambda.x86_64"] == pytest.approx(0.208, abs=0.001)


def test_the_others():
    assert {other.name: other.dollars_per_million_steps for other in OTHERS} == {
        "Step Functions Standard": 25.0,
        "Lambda durable functions": 8.0,
        "Temporal Cloud": 50.0,
    }


def test_the_page_on_costs_shows_these_figures():
    text = COSTS.read_text()
    for line, dollars in step_bill(StepModel()).items():
        assert re.search(rf"^\| `{re.escape(line)}` \|.*\| {dollars:.3f} \|$", text, re.MULTILINE), line
    assert f"**{sum(step_bill(StepModel()).values()):.2f}**" in text
    for other in OTHERS:
        assert re.search(rf"^\| {other.name} \|.*\| {other.dollars_per_million_steps:.2f} \|", text, re.MULTILINE)
        assert other.price.source in text
