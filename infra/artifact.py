"""Put together what a function is deployed with: the installed package, the handlers and the app. No tests, no docs.

    python infra/artifact.py build WorkerFunction .aws-sam/build/WorkerFunction     what infra/Makefile does
    python infra/artifact.py report .aws-sam/build                                  sizes; fails when one is too large

Needs the standard library and pip only, no Docker and no interpreter of the version that Lambda runs: pip takes wheels
for that version and processor. What is installed comes from ``requirements.txt`` (a user's project), or, where there
is none, from this repository.

The AWS SDK is left out, because Lambda's Python runtimes have it (it is more than half of everything else); a line
``boto3`` in ``requirements.txt`` keeps it in, at the version that is pinned there.
"""

from __future__ import annotations

import compileall
import fcntl
import hashlib
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SIZE_LIMIT: Final = 60_000_000
"""Bytes, unzipped. Lambda takes 250 MB; what is over this is probably something that does not belong there."""

PACKAGE: Final = "everstep"
EXTRA: Final = "aws,web"

PLATFORMS: Final = {
    "arm64": ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"),
    "x86_64": ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"),
}
"""Wheels that run on Lambda. Amazon Linux 2023 (Python 3.12 and later) has glibc 2.34, Amazon Linux 2 has 2.26."""

OLD_GLIBC: Final = frozenset({"3.11"})

SDK: Final = ("boto3", "botocore", "s3transfer")
"""The AWS SDK for Python."""

SDK_NEEDS: Final = {"jmespath": "jmespath", "python_dateutil": "dateutil", "six": "six", "urllib3": "urllib3"}
"""Distributions that the SDK needs, and what they install. They are left out too, unless something else needs them."""

NOT_THE_APP: Final = frozenset(
    {
        "adapter",
        "benchmarks",
        "build",
        "conftest.py",
        "dist",
        "docs",
        "handlers",
        "infra",
        "scripts",
        "setup.py",
        "tests",
    }
)
"""Names in a project's folder that are not part of its app."""

JUNK: Final = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "tests", "test_*.py", "conftest.py", "*.md")


class ArtifactError(Exception):
    """The artifact cannot be built, or must not be deployed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the function runs on, such as ``3.13`` and ``arm64``."""

    python: str
    architecture: str


def main(arguments: Sequence[str]) -> int:
    try:
        match arguments:
            case ["build", function, artifacts]:
                build(Path.cwd(), function, Path(artifacts))
            case ["report", folder]:
                report(Path(folder))
            case _:
                raise ArtifactError("usage: artifact.py build FUNCTION FOLDER | artifact.py report FOLDER")
    except ArtifactError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def build(project: Path, function: str, artifacts: Path) -> None:
    """Fill the folder `artifacts`, which `sam build` has made, for one function."""
    target = find_target(function, artifacts)
    installed = install(project, target, artifacts.parent.parent / "everstep")
    shutil.copytree(installed, artifacts, dirs_exist_ok=True)
    shutil.copytree(project / "handlers", artifacts / "handlers", ignore=JUNK, dirs_exist_ok=True)
    for source in app_sources(project):
        if source.is_dir():
            shutil.copytree(source, artifacts / source.name, ignore=JUNK, dirs_exist_ok=True)
        else:
            shutil.copy2(source, artifacts / source.name)
    if target.python == f"{sys.version_info.major}.{sys.version_info.minor}":
        # Lambda cannot write bytecode, so without it every cold start compiles everything.
        compileall.compile_dir(
            artifacts,
            quiet=2,
            force=True,
            stripdir=str(artifacts),
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
    check_size(function, artifacts)


def find_target(function: str, artifacts: Path) -> Target:
    """The runtime and the architecture of the function, parameters of `sam build` included.

    SAM says nothing of them to a Makefile, but writes them to ``build.toml`` before it runs one.
    """
    plan = artifacts.parent.parent / "build.toml"
    try:
        definitions = tomllib.loads(plan.read_text()).get("function_build_definitions", {})
    except FileNotFoundError:
        raise ArtifactError(f"{plan} is missing: this is meant to be run by `sam build`") from None
    for definition in definitions.values():
        if function in definition.get("functions", ()):
            runtime, architecture = definition.get("runtime", ""), definition.get("architecture", "")
            if not re.fullmatch(r"python3\.\d+", runtime) or architecture not in PLATFORMS:
                raise ArtifactError(f"{function} is to run on {runtime!r}, {architecture!r}: not supported")
            return Target(python=runtime.removeprefix("python"), architecture=architecture)
    raise ArtifactError(f"{plan} does not name {function}")


def install(project: Path, target: Target, cache: Path) -> Path:
    """The folder with everything installed. Functions share it; it is made anew when what it depends on changes."""
    folder = cache / f"{target.python}-{target.architecture}"
    stamp = cache / f"{folder.name}.stamp"
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / "lock"):
        wanted = fingerprint(project, target)
        if folder.is_dir() and stamp.is_file() and stamp.read_text() == wanted:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        stamp.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory() as wheels:
            run_pip(install_arguments(project, target, folder, Path(wheels)), project)
        tidy(folder, keep_sdk=wants_sdk(project))
        stamp.write_text(wanted)
    return folder


def install_arguments(project: Path, target: Target, folder: Path, wheels: Path) -> list[str]:
    platforms = PLATFORMS[target.architecture][1 if target.python in OLD_GLIBC else 0 :]
    arguments = [
        *("install", "--only-binary=:all:", "--implementation=cp", f"--python-version={target.python}"),
        *(f"--platform={platform}" for platform in platforms),
        *("--no-compile", "--upgrade", f"--target={folder}"),
    ]
    requirements = project / "requirements.txt"
    if requirements.is_file():
        return [*arguments, f"--requirement={requirements}"]
    if not is_repository(project):
        raise ArtifactError(f"{project} has no requirements.txt: write one with the line {PACKAGE}[{EXTRA}]")
    run_pip(["wheel", "--no-deps", f"--wheel-dir={wheels}", "."], project)
    (wheel,) = wheels.glob("*.whl")
    return [*arguments, f"{wheel}[{EXTRA}]"]


def run_pip(arguments: Sequence[str], project: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, cwd=project, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise ArtifactError(f"pip failed: {' '.join(arguments)}\n{done.stderr.strip()}")


def is_repository(project: Path) -> bool:
    try:
        metadata = tomllib.loads((project / "pyproject.toml").read_text())
    except FileNotFoundError:
        return False
    name = metadata.get("project", {}).get("name")
    return isinstance(name, str) and name == PACKAGE


def wants_sdk(project: Path) -> bool:
    try:
        lines = (project / "requirements.txt").read_text().splitlines()
    except FileNotFoundError:
        return False
    return any(re.match(r"\s*boto3\b(?!-)", line) for line in lines)


def tidy(folder: Path, *, keep_sdk: bool) -> None:
    """Remove what is not needed to run: scripts and the SDK."""
    for name in ("bin", "share", "__pycache__"):
        shutil.rmtree(folder / name, ignore_errors=True)
    if keep_sdk:
        return
    remove(folder, {name: name for name in SDK})
    # Twice: dateutil needs six.
    for _ in range(2):
        needed = set(requirements_of(folder))
        remove(folder, {name: installs for name, installs in SDK_NEEDS.items() if name not in needed})


def remove(folder: Path, distributions: Mapping[str, str]) -> None:
    for name, installs in distributions.items():
        shutil.rmtree(folder / installs, ignore_errors=True)
        (folder / f"{installs}.py").unlink(missing_ok=True)
        for metadata in folder.glob(f"{name}-*.dist-info"):
            shutil.rmtree(metadata)


def requirements_of(folder: Path) -> Iterator[str]:
    """Names of what the installed distributions need; extras, which they may do without, are left out."""
    for metadata in folder.glob("*.dist-info/METADATA"):
        for line in metadata.read_text(errors="replace").splitlines():
            found = re.match(r"Requires-Dist: ([\w.-]+)", line)
            if found and "extra ==" not in line:
                yield re.sub(r"[-.]+", "_", found[1]).lower()


def fingerprint(project: Path, target: Target) -> str:
    """Changes whenever the installed packages may. A version that is not pinned is not looked up again."""
    digest = hashlib.sha256(repr((target, sys.version)).encode())
    requirements = project / "requirements.txt"
    sources = [Path(__file__)]
    if requirements.is_file():
        sources += [requirements, *(project / line for line in local_requirements(requirements))]
    else:
        sources += [project / "pyproject.toml", *sorted((project / "adapter").rglob("*.py"))]
    for source in sources:
        if source.is_file():
            digest.update(str(source).encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()


def local_requirements(requirements: Path) -> Iterator[str]:
    """Wheels that are named by their path."""
    for line in requirements.read_text().splitlines():
        found = re.match(r"\s*([^#\s]+\.whl)(?:\[[\w,-]*\])?\s*(?:#|$)", line)
        if found:
            yield found[1]


def app_sources(project: Path) -> Iterable[Path]:
    """The user's modules and packages, which lie beside the template."""
    for path in sorted(project.iterdir()):
        if path.name in NOT_THE_APP or path.name.startswith((".", "test_")):
            continue
        if path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py"))):
            yield path


def report(folder: Path) -> None:
    """Print the size of each function's artifact, and of its largest parts."""
    functions = sorted(path for path in folder.iterdir() if path.is_dir())
    if not functions:
        raise ArtifactError(f"{folder} holds no artifacts: run `sam build`")
    for function in functions:
        check_size(function.name, function)
        parts = sorted(((size_of(part), part.name) for part in function.iterdir()), reverse=True)
        for size, name in parts[:5]:
            sys.stdout.write(f"  {size / 1e6:8.2f} MB  {name}\n")


def check_size(function: str, artifacts: Path) -> None:
    size = size_of(artifacts)
    sys.stdout.write(f"{function}: {size / 1e6:.2f} MB unzipped (limit {SIZE_LIMIT / 1e6:.0f} MB)\n")
    if size > SIZE_LIMIT:
        raise ArtifactError(f"{function}: the artifact is too large; `artifact.py report` shows its largest parts")


def size_of(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """`sam build --parallel` builds several functions at a time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
