"""Fenced blocks of the Markdown pages, for the tests of this folder."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(page for page in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")) if page.is_file())

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```\s*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block.

    Attributes:
        language: the first word after the fence.
        marks: the words after it: ``no-run``, ``file=shop.py``.
        line: the number of its first line in the page.
    """

    page: Path
    language: str
    marks: tuple[str, ...]
    text: str
    line: int

    @property
    def file(self) -> str | None:
        return next((mark.removeprefix("file=") for mark in self.marks if mark.startswith("file=")), None)

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, language: str) -> list[Block]:
    """The page's blocks of a language, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        kind, *marks = match["info"].split() or [""]
        if kind == language:
            indent = len(match["indent"])
            body = "".join(line[indent:] or "\n" for line in match["body"].splitlines(keepends=True))
            line = text.count("\n", 0, match.start("body")) + 1
            found.append(Block(page=page, language=kind, marks=tuple(marks), text=body, line=line))
    return found


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


def name_of(page: Path) -> str:
    """How a test names a page."""
    return page.relative_to(ROOT).as_posix()


@contextmanager
def module(name: str) -> Iterator[types.ModuleType]:
    """A page's namespace: a module that can be imported, so that annotations and classes find their names."""
    made = types.ModuleType(name)
    sys.modules[name] = made
    try:
        yield made
    finally:
        del sys.modules[name]


def run_blocks(page: Path, namespace: types.ModuleType) -> int:
    """Run a page's Python blocks one after the other; how many were run.

    A block with ``file=NAME`` is written to that file in the current folder, where later blocks import it. One with
    ``no-run`` is only compiled. Errors show the page's line.
    """
    ran = 0
    for block in blocks(page, "python"):
        shifted = "\n" * (block.line - 1) + block.text
        code = compile(shifted, name_of(page), "exec", dont_inherit=True)
        if "no-run" in block.marks:
            continue
        ran += 1
        if block.file is not None:
            Path(block.file).write_text(block.text, encoding="utf-8")
            continue
        exec(code, namespace.__dict__)
    return ran
