"""One emulator, one project and one deployment for all tests of this folder, in the order of their files.

They take minutes, so they are collected only when they are named: `make e2e`, or ``scripts/e2e -k sleep``.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.aws.e2e.operators import OPERATOR, statements
from tests.aws.e2e.project import Person, make_project
from tests.aws.e2e.stack import OWNER, STACK, Stack
from tests.aws.servers import environments
from tests.aws.servers.emulator import Emulator, emulator

HERE: Final = Path(__file__).parent
DELAY_LIMIT: Final = 5
PARAMETERS: Final = {
    # What the emulator runs functions on.
    "Runtime": f"python{environments.PYTHON}",
    "Architecture": {"x86_64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}[platform.machine()],
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
def running() -> Iterator[Emulator]:
    with phase("emulator and SAM (installed when missing)"):
        environments.ministack()
        environments.sam()
    with emulator(access_control=True) as started:
        yield started


@pytest.fixture(scope="session")
def owner(running: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """The owner of the account, in the project's folder."""
    with phase("wheel and project"):
        project = make_project(tmp_path_factory.mktemp("project"), STACK, PARAMETERS)
    owner = Person(project=project, emulator=running, credentials=OWNER)
    with phase("the project's environment"):
        owner.make(".venv/ready")
    return owner


@pytest.fixture(scope="session")
def built(owner: Person) -> Person:
    """The owner, when the functions are built."""
    with phase("make build"):
        owner.make("build")
    return owner


@pytest.fixture(scope="session")
def stack(built: Person, request: pytest.FixtureRequest) -> Stack:
    stack = Stack(emulator=built.emulator)
    request.config.stash[_stack_key] = stack
    with phase("make deploy"):
        built.make("deploy")
    stack.read_outputs()
    return stack


@pytest.fixture(scope="session")
def operator(owner: Person, stack: Stack) -> Person:
    """Somebody who may do what the documentation says that the command line needs, and nothing else."""
    credentials = stack.user("operator", *statements(stack.outputs, *OPERATOR))
    return Person(project=owner.project, emulator=owner.emulator, credentials=credentials)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    stack = item.config.stash.get(_stack_key, None)
    if report.failed and stack is not None:
        report.sections.append(("logs of the functions", stack.all_logs()))
