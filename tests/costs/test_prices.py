"""The price book and the sums made with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from everstep.costs.prices import CHECKED, MILLION, OTHERS, PRICES, REGION, StepModel, bill, step_bill

ROOT = Path(__file__).resolve().parents[2]
COSTS = ROOT / "docs" / "explanation" / "costs.md"
README = ROOT / "README.md"


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


# --- what people read ------------------------------------------------------------------------------


def run_of(steps: int) -> float:
    """Dollars per million steps, for a run of so many sequential steps on a warm worker: the budget of a run."""
    model, messages = StepModel(), steps + 1
    quantities = {
        "dynamodb.write": steps + 4,
        "dynamodb.read": 1,
        "sqs.request": 3 * messages,
        "lambda.request": messages,
        "lambda.arm64": messages * model.overhead_ms / 1000 * model.memory_mb / 1024,
    }
    return sum(bill(quantities).values()) * MILLION / steps


def test_the_page_on_costs_shows_these_figures():
    text = COSTS.read_text()
    for line, dollars in step_bill(StepModel()).items():
        assert re.search(rf"^\| `{re.escape(line)}` \|.*\| {dollars:.3f} \|$", text, re.MULTILINE), line
    assert f"**{sum(step_bill(StepModel()).values()):.2f}**" in text
    assert f"${run_of(10):.2f} per million steps with everything a run needs" in text
    assert re.search(rf"^\| 10 sequential steps, warm worker \|.*\| {run_of(10):.2f} \|$", text, re.MULTILINE)


@pytest.mark.parametrize("page", [COSTS, README], ids=lambda page: page.name)
def test_the_tables_beside_others_show_these_figures(page):
    text = page.read_text()
    assert f"{REGION}, " in text
    assert CHECKED.isoformat() in text
    (row,) = re.findall(r"^\| Everstep \| .*$", text, re.MULTILINE)
    assert f"| {sum(step_bill(StepModel()).values()):.2f} ({run_of(10):.2f} with a step's share of a run of ten" in row
    for other in OTHERS:
        (row,) = re.findall(rf"^\| {other.name} \| .*$", text, re.MULTILINE)
        assert f"| {other.dollars_per_million_steps:.2f} | {other.excludes} |" in row
        assert other.price.source in COSTS.read_text()


@pytest.mark.parametrize("page", [COSTS, README], ids=lambda page: page.name)
def test_the_formulas_have_these_prices(page):
    text = page.read_text()
    for name, term in {
        "dynamodb.write": r"\b0\.625 ?· ?W\b",
        "dynamodb.read": r"\b0\.125 ?· ?R\b",
        "sqs.request": r"\b0\.40 +?· ?\(2 · M \+ 1\)|\b0\.40·\(2·M \+ 1\)",
        "lambda.request": r"\+ 0\.20\b",
        "lambda.arm64": r"\b13\.33 ?· ?G ?· ?T\b",
    }.items():
        (found,) = re.findall(term, text)
        number = re.search(r"[\d.]+", found)
        assert number is not None
        assert float(number[0]) == pytest.approx(PRICES[name].of(MILLION), abs=0.004), name


def test_the_formula_of_the_readme_gives_the_figure_of_its_table():
    (formula,) = re.findall(r"^(0\.625·W .*?)  ", README.read_text(), re.MULTILINE)
    model = StepModel()
    values = {"W": 1, "R": 0, "M": 1, "G": model.memory_mb / 1024, "T": model.overhead_ms / 1000}
    assert eval(formula.replace("·", "*"), {}, values) == pytest.approx(sum(step_bill(model).values()), abs=0.001)
