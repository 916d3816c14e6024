"""docs/reference/environment.md names every setting."""

from __future__ import annotations

import dataclasses

import pytest

from everstep.settings import PREFIX, AwsSettings, Settings
from tests.docs.pages import ROOT

OTHERWISE = {"aws", "region"}
"""Not a variable of that name: made from several, and AWS_REGION."""
NAMES = [field.name for model in (Settings, AwsSettings) for field in dataclasses.fields(model)]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OTHERWISE])
def test_setting_is_named(name: str) -> None:
    page = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    assert f"`{PREFIX}{name.upper()}`" in page
