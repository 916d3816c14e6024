"""docs/reference/api.md names every public name, nothing that is gone, and the signatures that the code has."""

from __future__ import annotations

import inspect
import re

import pytest

import everstep
from everstep import testing
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "reference" / "api.md"
TEXT = PAGE.read_text(encoding="utf-8")

# A heading "### `start(workflow, /, *args, **kwargs)`" or a row "| `StoreError` | … |" of the table of errors.
HEADINGS = dict(re.findall(r"^### `(\w+)(.*)`$", TEXT, flags=re.MULTILINE))
ROWS = re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.MULTILINE)

FUNCTIONS = sorted(name for name in everstep.__all__ if inspect.isfunction(getattr(everstep, name)))
CLASSES = [
    "BaseHook",
    "Chunk",
    "HookEvent",
    "HookInfo",
    "Reset",
    "Run",
    "Step",
    "StepInfo",
    "StreamInfo",
    "Webhook",
    "WebhookRequest",
    "WebhookResponse",
    "Workflow",
    "WorkflowInfo",
    "Workflows",
    "Writable",
]
INTERNAL = {"begin", "encode_error", "decode_error", "digest", "options_in"}  # what the core sees of a workflow


def test_every_public_name_is_there_once() -> None:
    assert sorted([*HEADINGS, *ROWS]) == sorted(everstep.__all__)


@pytest.mark.parametrize("name", [*FUNCTIONS, "RetryPolicy"])
def test_signature_is_that_of_the_code(name: str) -> None:
    written = inspect.signature(eval(f"lambda {_arguments(HEADINGS[name])}: None", {"Any": None}))
    real = inspect.signature(getattr(everstep, name))
    assert [(p.name, p.kind, p.default is p.empty) for p in written.parameters.values()] == [
        (p.name, p.kind, p.default is p.empty) for p in real.parameters.values()
    ]


def _arguments(text: str) -> str:
    assert text.startswith("("), text
    assert text.endswith(")"), text
    return text[1:-1]


def test_options_of_declarations_are_those_of_the_code() -> None:
    for func in (everstep.Workflows.workflow, everstep.Workflows.step, everstep.Workflow.with_options):
        options = [p.name for p in inspect.signature(func).parameters.values() if p.kind is p.KEYWORD_ONLY]
        written = re.search(rf"`\.{func.__name__}\(\*, (.+?)\)`", TEXT)
        assert written is not None, func.__name__
        assert re.findall(r"(\w+)=", written[1]) == options


@pytest.mark.parametrize("name", CLASSES)
def test_members_are_named(name: str) -> None:
    section = re.search(rf"^### `{name}\b.*?(?=^##)", TEXT, flags=re.MULTILINE | re.DOTALL)
    assert section is not None
    members = [member for member in vars(getattr(everstep, name)) if not member.startswith("_")]
    missing = [member for member in members if member not in INTERNAL and f".{member}" not in section[0]]
    assert missing == []


def test_statuses_are_named() -> None:
    section = TEXT.partition("### `RunStatus`")[2].partition("\n## ")[0]
    assert [status for status in everstep.RunStatus if f"`{status}`" not in section] == []


def test_test_kit_is_named() -> None:
    section = TEXT.partition("\n## Testing")[2]
    assert [name for name in testing.__all__ if f"`{name}" not in section] == []
