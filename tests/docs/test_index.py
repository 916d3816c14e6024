"""docs/README.md leads to every page."""

from __future__ import annotations

import re

from tests.docs.pages import PAGES, ROOT

DOCS = ROOT / "docs"
LISTED_ELSEWHERE = {DOCS / "errors": "index.md", DOCS / "decisions": "README.md"}


def test_every_page_is_listed() -> None:
    listed = set(re.findall(r"\]\(([\w/-]+\.md)\)", (DOCS / "README.md").read_text(encoding="utf-8")))
    for folder, index in LISTED_ELSEWHERE.items():
        assert f"{folder.name}/{index}" in listed
    pages = {page.relative_to(DOCS).as_posix() for page in PAGES if page.is_relative_to(DOCS)}
    own = {page for page in pages if DOCS / page.partition("/")[0] not in LISTED_ELSEWHERE}
    assert own - {"README.md"} <= listed
