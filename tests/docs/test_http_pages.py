"""What the pages about HTTP say works against an API that is really served."""

from __future__ import annotations

import pytest

from everstep.backends.memory import open_memory
from tests.docs.pages import ROOT, module, run_blocks
from tests.web.site import TOKEN, Site


@pytest.mark.parametrize("live", [True, False], ids=["live", "held"])
def test_the_reader_of_the_how_to_reads_a_stream(live: bool) -> None:
    site = Site(open_memory(atomic_units=True), live=live)
    try:
        run_id = site.start("report", [30, 0.005])
        with module("docs_use_the_http_api") as namespace, site.working():
            run_blocks(ROOT / "docs" / "how-to" / "use-the-http-api.md", namespace)
            chunks = list(vars(namespace)["follow"](f"127.0.0.1:{site.port}", run_id, TOKEN))
    finally:
        site.close()
    assert [chunk["line"] for chunk in chunks] == list(range(30))
