"""The repository as a whole: pages that belong to errors, links, indexes, and what must not be in any file."""

from __future__ import annotations

import inspect
import os
import re
import socket
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

from everstep import errors

ROOT = Path(__file__).resolve().parent.parent
ERROR_PAGES = ROOT / "docs" / "errors"
DECISIONS = ROOT / "docs" / "decisions"
FRAGMENT_KINDS = {"added", "changed", "deprecated", "removed", "fixed", "security"}

ERROR_CLASSES = sorted(
    (
        error
        for _, error in inspect.getmembers(errors, inspect.isclass)
        if issubclass(error, errors.EverstepError) and error.__module__ == errors.__name__
    ),
    key=lambda error: error.__name__,
)


@cache
def repository_files() -> list[Path]:
    """The files that are or would be committed; where there is no git (an unpacked archive), all but hidden ones."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        files = [path for path in ROOT.rglob("*") if not _hidden_or_made(path.relative_to(ROOT))]
    return sorted(path for path in files if path.is_file())


def _hidden_or_made(path: Path) -> bool:
    if path.parts[0] in {".ci", ".github"}:
        return False
    return any(part.startswith(".") or part in {"__pycache__", "build", "dist"} for part in path.parts)


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def markdown_files() -> list[Path]:
    return [path for path in repository_files() if path.suffix == ".md"]


def prose_of(path: Path) -> str:
    """The text of a Markdown file without its code."""
    without_blocks = re.sub(r"^(```|~~~).*?^\1", "", text_of(path), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", without_blocks)


def links_of(path: Path) -> list[str]:
    """The targets of a Markdown file's links that lead to another place in this repository."""
    prose = prose_of(path)
    inline = re.findall(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)", prose)
    defined = re.findall(r"^\s*\[[^\]]+\]:\s*(\S+)", prose, flags=re.MULTILINE)
    return [link for link in inline + defined if not re.match(r"[a-z][a-z0-9+.-]*:", link, flags=re.IGNORECASE)]


def anchors_of(path: Path) -> set[str]:
    """The names by which a Markdown file's headings can be linked to."""
    without_blocks = re.sub(r"^(```|~~~).*?^\1", "", text_of(path), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+\s+(.+?)\s*#*$", without_blocks, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- errors and their pages ------------------------------------------------------------------------


@pytest.mark.parametrize("error", ERROR_CLASSES, ids=lambda error: error.__name__)
def test_error_has_a_page_that_names_it(error: type[errors.EverstepError]) -> None:
    page = ERROR_PAGES / f"{error.page}.md"
    assert page.is_file(), f"{error.__name__}.page is {error.page!r}: write docs/errors/{error.page}.md"
    assert f"`{error.__name__}`" in text_of(page), f"docs/errors/{error.page}.md does not name `{error.__name__}`"


def test_every_error_page_belongs_to_an_error() -> None:
    pages = {path.stem for path in ERROR_PAGES.glob("*.md")}
    assert pages == {error.page for error in ERROR_CLASSES}


def test_index_of_error_pages_is_complete() -> None:
    listed = set(links_of(ERROR_PAGES / "index.md"))
    assert {f"{error.page}.md" for error in ERROR_CLASSES} - {"index.md"} <= listed


@pytest.mark.parametrize("error", ERROR_CLASSES, ids=lambda error: error.__name__)
def test_error_is_in_the_drawn_tree(error: type[errors.EverstepError]) -> None:
    assert re.search(rf"\b{error.__name__}\b", errors.__doc__ or ""), f"draw {error.__name__} in the tree of errors.py"


# --- links and indexes -----------------------------------------------------------------------------


def test_relative_links_resolve() -> None:
    broken = []
    for path in markdown_files():
        for link in links_of(path):
            target, _, anchor = link.partition("#")
            found = (path.parent / target) if target else path
            if not found.exists() or not found.resolve().is_relative_to(ROOT):
                broken.append(f"{path.relative_to(ROOT)}: {link}")
            elif anchor and found.suffix == ".md" and anchor not in anchors_of(found):
                broken.append(f"{path.relative_to(ROOT)}: {link} (no such heading)")
    assert not broken, "\n".join(broken)


def test_decisions_are_numbered_and_listed() -> None:
    records = sorted(path.name for path in DECISIONS.glob("*.md") if path.name != "README.md")
    assert [name for name in records if not re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", name)] == []
    numbers = [name[:4] for name in records]
    assert len(numbers) == len(set(numbers)), "two decisions have the same number"
    assert set(records) <= set(links_of(DECISIONS / "README.md")), "docs/decisions/README.md does not list them all"


def test_changelog_fragments_are_named_by_issue_and_kind() -> None:
    names = [path.name for path in (ROOT / "changelog.d").iterdir() if path.name != "README.md"]
    wrong = [
        name
        for name in names
        if not (found := re.fullmatch(r"[\w-]+\.([a-z]+)(\.\d+)?\.md", name)) or found[1] not in FRAGMENT_KINDS
    ]
    assert wrong == []


# --- what must not be in any file ------------------------------------------------------------------

# A letter in brackets keeps each expression from finding itself.
MACHINE_PATHS = re.compile(r"(?<![\w.~$})>-])/(?:[r]oot|[h]ome|[U]sers|[w]ork|[o]pt)/\w[\w.-]*")
REGISTRIES = re.compile(
    r"pypi\.[o]rg|pythonhosted\.[o]rg|registry\.[n]pmjs|--(?:extra-)?index-[u]rl|index-[u]rl\s*=|--find-[l]inks",
    flags=re.IGNORECASE,
)
LOCK_FILES = re.compile(r".*\.lock|requirements.*\.txt|pylock.*\.toml|constraints.*\.txt|package-lock\.json")


def test_no_file_names_a_path_of_a_machine_or_a_registry() -> None:
    found = []
    for path in repository_files():
        for number, line in enumerate(text_of(path).splitlines(), start=1):
            if hit := MACHINE_PATHS.search(line) or REGISTRIES.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {hit[0]}")
    assert not found, "\n".join(found)


def test_no_lock_files() -> None:
    assert [path.name for path in repository_files() if LOCK_FILES.fullmatch(path.name)] == []


# --- packaging and the guard of these tests --------------------------------------------------------


def test_package_is_marked_as_typed() -> None:
    assert (ROOT / "adapter" / "everstep" / "py.typed").is_file()


def test_pytest_is_not_a_dependency_of_the_package() -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in project["dependencies"]}
    assert names.isdisjoint({"pytest", "hypothesis"})


@pytest.mark.parametrize("script", [".ci/run", "scripts/check", "scripts/e2e", "scripts/test-all"])
def test_scripts_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)


@pytest.mark.parametrize("host", ["192.0.2.1", "example.invalid", "0.0.0.0", "2001:db8::1"])
def test_network_is_closed(host: str) -> None:
    with pytest.raises(AssertionError, match="loopback"):
        socket.create_connection((host, 80), timeout=1)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock, pytest.raises(AssertionError, match="loopback"):
        sock.sendto(b"", (host, 80))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_is_open(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection((host, server.getsockname()[1]), timeout=5).close()
