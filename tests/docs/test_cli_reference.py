"""docs/reference/cli.md names every command, every option and every kind of record."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import get_args

import click
import pytest

from everstep.cli.entry import COMMANDS, cli
from everstep.core.history import Command, Event
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")


def options(command: click.Command) -> Iterator[str]:
    """The long options that its help shows, and its sub-commands' help."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            chosen = command.get_command(context, name)
            assert chosen is not None
            yield from options(chosen)
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield from (name for name in parameter.opts if name.startswith("--"))


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_listed(name: str) -> None:
    table = PAGE[: PAGE.index("## Exit codes")]
    assert re.search(rf"^\| \[.*`{name}`.*\]\(#", table, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_described(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert [each for each in options(command) if not re.search(rf"`[^`]*{each}\b", PAGE)] == []


@pytest.mark.parametrize("record", [*get_args(Event), *get_args(Command)], ids=lambda record: record.__name__)
def test_record_is_described_with_its_fields(record: type) -> None:
    (row,) = re.findall(rf"^\|[^|]*`{record.__name__}`[^|]*\|.*$", PAGE, re.MULTILINE)
    assert [field.name for field in dataclasses.fields(record) if f"`{field.name}`" not in row] == []
