"""Every ``everstep …`` command in a ```console block exists, with the options it is given."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from tests.docs.pages import blocks, name_of, pages_with

entry = pytest.importorskip("everstep.cli.entry", reason="there is no command line yet")


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """The words after ``everstep`` of each command in the page, with its place."""
    found = []
    for block in blocks(page, "console"):
        text = re.sub(r"\\\n>?", " ", block.text)
        for number, line in enumerate(text.splitlines()):
            if not line.startswith("$ "):
                continue
            for command in _simple_commands(line[2:]):
                if command and Path(command[0]).name == "everstep":
                    found.append((f"{name_of(page)}:{block.line + number}", command[1:]))
    return found


def _simple_commands(line: str) -> list[list[str]]:
    """The words of each command in a line, without variables set before it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("();<>|&"):
            found.append([])
        elif found[-1] or "=" not in word.partition("/")[0]:
            found[-1].append(word)
    return found


def complaint(words: list[str]) -> str | None:
    """What click would say against the words; they are parsed, and nothing is run."""
    command: click.Command = entry.cli
    context = click.Context(command, info_name="everstep")
    helps = {"--help", "-h", "--version"}
    try:
        while isinstance(command, click.Group):
            _, rest, _ = command.make_parser(context).parse_args(args=[word for word in words if word not in helps])
            if not rest:
                return None
            chosen = command.get_command(context, rest[0])
            if chosen is None:
                return f"there is no command {rest[0]!r}"
            context, command, words = click.Context(chosen, info_name=rest[0], parent=context), chosen, rest[1:]
        if helps.isdisjoint(words):
            command.make_context(context.info_name, list(words), parent=context.parent).close()
    except click.ClickException as error:
        return error.format_message()
    return None


@pytest.mark.parametrize("page", pages_with("console"), ids=name_of)
def test_commands_exist(page: Path) -> None:
    wrong = []
    for place, words in commands(page):
        problem = complaint(words)
        if problem is not None:
            wrong.append(f"{place}: everstep {' '.join(words)}: {problem}")
    assert not wrong, "\n".join(wrong)


def test_commands_are_found() -> None:
    assert sum(len(commands(page)) for page in pages_with("console")) > 20


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("run a.py:b --no-such", "no-such"),
        ("fly", "fly"),
        ("inspect planets", "planets"),
        ("run", "Missing argument"),
        ("worker --app x --concurrency many", "many"),
        ("inspect runs --status asleep", "asleep"),
        ("inspect runs --status parked --json", None),
        ("--help", None),
    ],
)
def test_the_check_itself(line: str, problem: str | None) -> None:
    found = complaint(shlex.split(line))
    assert (found is None) if problem is None else (found is not None and problem in found), found
