"""One emulator, one build and one deployment for all tests of this folder.

They take minutes, so they are collected only when they are named: `make e2e`, or ``scripts/e2e -k sleep``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.aws.e2e import environments
from tests.aws.e2e.emulator import Emulator, emulator
from tests.aws.e2e.project import make_project
from tests.aws.e2e.stack import Sam, Stack

HERE: Final = Path(__file__).parent
DELAY_LIMIT: Final = 5
PARAMETERS: Final = {
    "AppModule": "e2e_app",
    "WorkerTimeout": "30",
    "MaxReceives": "3",
    "DelayLimit": str(DELAY_LIMIT),
    "DeletionProtection": "false",
    "RequireTls": "false",  # MiniStack speaks plain HTTP here
    "LogLevel": "DEBUG",
}

_phases: dict[str, float] = {}
_stack_key = pytest.StashKey[Stack]()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    named = [Path(argument.partition("::")[0]).absolute() for argument in config.args]
    return None if any(path == HERE or HERE in path.parents for path in named) else True


@contextmanager
def phase(name: str) -> Iterator[None]:
    begun = time.perf_counter()
    try:
        yield
    finally:
        _phases[name] = time.perf_counter() - begun


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _phases:
        terminalreporter.section("phases")
        for name, seconds in _phases.items():
            terminalreporter.write_line(f"{seconds:7.1f} s  {name}")


@pytest.fixture(scope="session")
def running(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    with phase("environments (when missing)"):
        environments.ministack_environment()
        environments.sam_environment()
    with emulator() as started:
        yield started


@pytest.fixture(scope="session")
def sam(running: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Sam:
    with phase("project and wheel"):
        project = make_project(tmp_path_factory.mktemp("project"))
    sam = Sam(project=project, emulator=running, parameters=PARAMETERS)
    with phase("sam build"):
        sam.build()
    return sam


@pytest.fixture(scope="session")
def stack(sam: Sam, request: pytest.FixtureRequest) -> Stack:
    stack = Stack(emulator=sam.emulator)
    request.config.stash[_stack_key] = stack
    with phase("sam deploy"):
        sam.deploy()
    stack.read_outputs()
    return stack


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    stack = item.config.stash.get(_stack_key, None)
    if report.failed and stack is not None:
        report.sections.append(("logs of the functions", stack.all_logs()))
