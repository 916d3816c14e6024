"""What the tests of the command line share."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from botocore.loaders import JSONFileLoader

from tests.cli.commands import APP, Done, Folder


@pytest.fixture(scope="session", autouse=True)
def models_read_once() -> Iterator[None]:
    """botocore reads the models of the services anew for each session, which is half of what a command takes here."""
    with pytest.MonkeyPatch.context() as patch:
        read = functools.cache(JSONFileLoader().load_file)
        patch.setattr(JSONFileLoader, "load_file", lambda _self, path: read(path))
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    """An empty folder but for an app; commands run there as processes."""
    folder = Folder(tmp_path)
    yield folder
    folder.close()


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Done]]:
    """Runs a command in this process, which is quicker, in an empty folder but for an app."""
    from everstep.assembly import set_default_connection
    from everstep.cli.entry import main

    (tmp_path / "shop.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loaded = set(sys.modules)

    def run(*words: str) -> Done:
        code = main(words)
        out, err = capfd.readouterr()
        return Done(int(code), out, err)

    yield run
    set_default_connection(None)
    for name in set(sys.modules) - loaded:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
