"""Every Python block of README.md and docs/ runs. Blocks of one page share a namespace, in the order of the page.

The info string may say more: ``python no-run`` is compiled only (use it rarely), ``python file=shop.py`` is written to
that file, to be imported by what follows; a file ``test_….py`` is then run by pytest.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from everstep.assembly import connect_sqlite, set_default_connection
from tests.docs.pages import PAGES, ROOT, blocks, module, name_of, pages_with, run_blocks

MOST_NO_RUN = 3


@pytest.mark.parametrize("page", pages_with("python"), ids=name_of)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    connection = connect_sqlite(tmp_path / "runs.db")
    set_default_connection(connection)
    try:
        with module("docs_" + re.sub(r"\W", "_", name_of(page))) as namespace:
            run_blocks(page, namespace)
    finally:
        set_default_connection(None)
        connection.close()
        for block in blocks(page, "python"):
            if block.file is not None:
                sys.modules.pop(block.file.removesuffix(".py"), None)
    files = [block.file for block in blocks(page, "python") if block.file and block.file.startswith("test_")]
    if files:
        _run_pytest(tmp_path, files)


def _run_pytest(folder: Path, files: list[str]) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-W",
            "error",
            "-p",
            "no:cacheprovider",
            "-p",
            "tests.conftest",
            f"--rootdir={folder}",
            *files,
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "adapter"), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_few_blocks_are_not_run() -> None:
    marked = [block.place for page in PAGES for block in blocks(page, "python") if "no-run" in block.marks]
    assert len(marked) <= MOST_NO_RUN, marked


def test_marks_are_known() -> None:
    unknown = [
        f"{block.place}: {mark}"
        for page in PAGES
        for block in blocks(page, "python")
        for mark in block.marks
        if mark != "no-run" and not mark.startswith("file=")
    ]
    assert unknown == []
