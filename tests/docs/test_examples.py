"""The programs in examples/ run, as a reader would run them, and print what they should."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType

import pytest

from everstep import WorkflowRunFailedError
from everstep.testing import WorkflowEnvironment
from tests.docs.pages import ROOT

EXAMPLES = ROOT / "examples"
LIMIT = 5.0

PRINTED = {
    "create_site": ['"title": "Ada\'s place"', '"pages": 3'],
    "deadline": ["anvil: 9.50, as of yesterday"],
    "fan_out": ["39800"],
    "long_sleeper": ["Welcome! Your trial runs for 2 seconds.", "Your trial has ended.", "ended at 20"],
    "streaming_report": ["[forget the last 5 words]", "The report: Section 1 says", "rivers. (end)", "30 words"],
    "order": ["Receipt(order_id='o1', payment='payment for 12.50", "shipment='shipment of reservation-o1'"],
}


def test_every_example_is_tested() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*.py")) == sorted(PRINTED)


def test_every_example_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [name for name in PRINTED if f"({name}.py)" not in listed] == []


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_example_runs(name: str, tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "adapter")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < LIMIT
    missing = [text for text in PRINTED[name] if text not in done.stdout]
    assert not missing, done.stdout
    assert (tmp_path / ".everstep" / "runs.db").is_file()


@pytest.fixture
def example(request: pytest.FixtureRequest) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{request.param}", EXAMPLES / f"{request.param}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("example", ["long_sleeper"], indirect=True)
def test_two_weeks_take_no_time(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    with WorkflowEnvironment(example.wf) as env:
        start = datetime.fromisoformat("2025-06-15T15:06:40+00:00")  # where the virtual clock begins
        ended = env.run(example.trial, "ada")
    assert timedelta(days=14) <= ended - start < timedelta(days=14, minutes=1)
    assert time.monotonic() - began < LIMIT
    assert [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()] == [
        "Welcome! Your trial runs for 14 days.",
        "Your trial ends in 2 days.",
        "Your trial has ended.",
    ]


@pytest.mark.parametrize("example", ["order"], indirect=True)
def test_an_order_that_fails_is_undone_in_reverse(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    order = example.Order("o2", example.Decimal("12.50"), "nowhere")
    with WorkflowEnvironment(example.wf) as env, pytest.raises(WorkflowRunFailedError) as caught:
        env.run(example.place_order, order)
    assert isinstance(caught.value.__cause__, example.OutOfStockError)
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["released", "refunded"]
