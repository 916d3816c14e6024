"""``everstep init``: write a project of the user's own.

What is deployed comes from Everstep's own template and handlers, so that there is one source of them: in the wheel they
lie beside the other files of a project, in a checkout of the repository at its root.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import click

from everstep.cli.console import style_of, write_data
from everstep.errors import ConfigurationError

PACKAGE: Final = Path(__file__).resolve().parent.parent
PROJECT: Final = PACKAGE / "project"
REPOSITORY: Final = PACKAGE.parent.parent

FILES: Final = {
    "README.md": "README.md.in",
    "app.py": "app.py.in",
    "tests/conftest.py": "conftest.py.in",
    "tests/test_app.py": "test_app.py.in",
    "requirements.txt": "requirements.txt.in",
    "requirements-dev.txt": "requirements-dev.txt.in",
    "Makefile": "Makefile.in",
    ".gitignore": "gitignore.in",
}
"""What is written for users only."""

SHARED: Final = (
    "template.yaml",
    "samconfig.toml",
    "handlers/worker.py",
    "handlers/api.py",
    "handlers/deadletter.py",
    "infra/Makefile",
    "infra/artifact.py",
)
"""What this repository deploys with too."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectFile:
    """A file of a project, by its path in it."""

    path: str
    text: str


@click.command()
@click.argument("folder", metavar="DIR")
@click.option("--name", metavar="NAME", help="Of the project and its stack on AWS. [default: the folder's name]")
def init(folder: str, name: str | None) -> None:
    """Write a new project into DIR: an app, its tests, and all it takes to deploy it with SAM.

    DIR is made. If it exists, it must be empty but for .git: nothing is ever overwritten.

    \b
      everstep init shop && cd shop && make run
    """
    place = Path(folder)
    chosen = _checked_name(place, name)
    files = list(project_files(chosen))  # before anything is written
    _make_empty(place)
    for each in files:
        path = place / each.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(each.text, encoding="utf-8")
    style = style_of(sys.stderr, os.environ)
    print(
        f"{style.paint(style.symbol('done'), 'green')} {place} has {len(files)} files: your workflows go into "
        f"app.py. Next:",
        f"  cd {shlex.quote(str(place))}",
        "  make run",
        "  make test",
        "  sam build && sam deploy --guided",
        sep="\n",
        file=sys.stderr,
    )
    write_data(sys.stdout, str(place))


def project_files(name: str) -> Iterator[ProjectFile]:
    """All files of a project of this name."""
    for path, source in FILES.items():
        yield ProjectFile(path=path, text=_filled(_read(PROJECT / source), name))
    for path in SHARED:
        text = _read(_shared(path))
        if path == "template.yaml":
            text = of_project(text, name)
        elif path == "samconfig.toml":
            text = configured(text, name)
        yield ProjectFile(path=path, text=text)


def of_project(template: str, name: str) -> str:
    """The template with a description of its own, and without what it says about this repository."""
    description = f"Description: {name}, durable workflows with Everstep\n"
    text, found = re.subn(
        r"^Description:.*\n(?:[ ]+.*\n)*\n?(?:#.*\n)*", description, template, count=1, flags=re.MULTILINE
    )
    return _expect(text, found, "template.yaml", "Description")


def configured(samconfig: str, name: str) -> str:
    """SAM's settings with the name of the stack, and without the app of this repository."""
    text, found = re.subn(r'^stack_name = ".*"$', f'stack_name = "{name}"', samconfig, count=1, flags=re.MULTILINE)
    text = _expect(text, found, "samconfig.toml", "stack_name")
    return re.sub(
        r"^parameter_overrides = .*\n", 'parameter_overrides = "AppModule=\\\\"app\\\\""\n', text, flags=re.MULTILINE
    )


def _expect(text: str, found: int, path: str, what: str) -> str:
    if not found:
        raise AssertionError(f"{path} has no {what}")
    return text


def _filled(text: str, name: str) -> str:
    return text.replace("@NAME@", name).replace("@VERSION@", _version())


def _version() -> str:
    try:
        return version("everstep")
    except PackageNotFoundError:
        return "0.1.0"


def _shared(path: str) -> Path:
    shipped = PROJECT / path
    return shipped if shipped.is_file() else REPOSITORY / path


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigurationError(
            f"this installation of Everstep lacks {path.name}, which a project needs: install it again from its wheel"
        ) from None


def _checked_name(place: Path, name: str | None) -> str:
    """The name, which must do as the name of a stack."""
    if name is not None:
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"--name {name!r} cannot be the name of a stack on AWS: letters, digits and hyphens, a letter first, "
                f"at most 100"
            )
        return name
    made = re.sub(r"[^A-Za-z0-9]+", "-", place.resolve().name).strip("-")
    if not _NAME.fullmatch(made):
        raise ConfigurationError(
            f"the folder's name {place.resolve().name!r} cannot name a stack on AWS: give --name NAME"
        )
    return made


def _make_empty(place: Path) -> None:
    if place.exists() and not place.is_dir():
        raise ConfigurationError(f"{place} is a file; give the folder of a new project")
    if place.is_dir():
        there = sorted(each.name for each in place.iterdir() if each.name != ".git")
        if there:
            some = ", ".join(there[:3]) + (" and others" if len(there) > 3 else "")
            raise ConfigurationError(f"{place} is not empty (it has {some}): nothing is overwritten, give a new folder")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{place} cannot be made: {error.strerror}") from error
