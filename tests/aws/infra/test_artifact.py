"""What is deployed: the parts of the build that need no network."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from infra import artifact
from infra.artifact import ArtifactError, Target
from infra.check import FUNCTIONS
from infra.template import TEMPLATE, load_template

PLAN = """
[function_build_definitions.aaa]
runtime = "python3.13"
architecture = "arm64"
functions = ["WorkerFunction"]

[function_build_definitions.bbb]
runtime = "nodejs22.x"
architecture = "arm64"
functions = ["OtherFunction"]
"""


@pytest.fixture
def artifacts(tmp_path):
    """A folder as `sam build` makes one, beside its plan."""
    (tmp_path / ".aws-sam" / "build" / "WorkerFunction").mkdir(parents=True)
    (tmp_path / ".aws-sam" / "build.toml").write_text(PLAN)
    return tmp_path / ".aws-sam" / "build" / "WorkerFunction"


def test_the_target_is_what_sam_resolved(artifacts):
    assert artifact.find_target("WorkerFunction", artifacts) == Target(python="3.13", architecture="arm64")


@pytest.mark.parametrize("function", ["OtherFunction", "NoFunction"])
def test_another_runtime_or_function_is_refused(artifacts, function):
    with pytest.raises(ArtifactError, match=function):
        artifact.find_target(function, artifacts)


def test_without_sam_there_is_a_clear_error(tmp_path):
    with pytest.raises(ArtifactError, match="sam build"):
        artifact.find_target("WorkerFunction", tmp_path / "a" / "b" / "c")


def test_pip_is_asked_for_the_targets_wheels(tmp_path):
    (tmp_path / "requirements.txt").write_text("everstep[aws]\n")
    arguments = artifact.install_arguments(
        tmp_path, Target(python="3.13", architecture="arm64"), tmp_path / "to", tmp_path / "wheels"
    )
    assert "--only-binary=:all:" in arguments
    assert "--python-version=3.13" in arguments
    assert [each for each in arguments if "platform" in each] == [
        "--platform=manylinux_2_28_aarch64",
        "--platform=manylinux_2_17_aarch64",
        "--platform=manylinux2014_aarch64",
    ]
    old = artifact.install_arguments(tmp_path, Target(python="3.11", architecture="x86_64"), tmp_path, tmp_path)
    assert "--platform=manylinux_2_28_x86_64" not in old  # Amazon Linux 2


def test_a_project_without_requirements_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"requirements\.txt"):
        artifact.install_arguments(tmp_path, Target(python="3.13", architecture="arm64"), tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ("everstep[aws]\n", False),
        ("everstep\nboto3==1.40.0\n", True),
        ("boto3\n", True),
        ("boto3-stubs\n", False),
        ("# boto3\n", False),
    ],
)
def test_the_sdk_is_kept_when_it_is_asked_for(tmp_path, lines, wanted):
    (tmp_path / "requirements.txt").write_text(lines)
    assert artifact.wants_sdk(tmp_path) is wanted


def test_the_sdk_and_scripts_are_left_out(tmp_path):
    for name in (
        *("bin/everstep", "botocore/__init__.py", "boto3-1.0.dist-info/METADATA", "pydantic/main.py"),
        *("six.py", "dateutil/__init__.py", "urllib3/__init__.py", "jmespath/__init__.py"),
        *("python_dateutil-2.9.dist-info/METADATA", "aws_lambda_powertools-3.0.dist-info/METADATA"),
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "python_dateutil-2.9.dist-info" / "METADATA").write_text("Requires-Dist: six>=1.5\n")
    needs = 'Requires-Dist: jmespath>=1.0.1\nRequires-Dist: urllib3; extra == "all"\n'
    (tmp_path / "aws_lambda_powertools-3.0.dist-info" / "METADATA").write_text(needs)
    artifact.tidy(tmp_path, keep_sdk=False)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("pydantic", "jmespath", "aws_lambda_powertools-3.0.dist-info"),
    }


def test_the_app_is_what_lies_beside_the_template(tmp_path):
    for name in (
        *("app.py", "shop/flows.py", "tests/test_app.py", "docs/x.md", "handlers/worker.py", "infra/artifact.py"),
        *(".venv/x.py", "conftest.py", "test_app.py", "README.md", "data/x.json"),
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert [path.name for path in artifact.app_sources(tmp_path)] == ["app.py", "shop"]


def test_a_build_copies_handlers_and_app_and_is_measured(artifacts, tmp_path, monkeypatch, capsys):
    project = tmp_path / "project"
    for name in ("app.py", "handlers/worker.py", "handlers/README.md", "tests/test_app.py"):
        file = project / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x = 1\n")
    (project / "requirements.txt").write_text("everstep[aws]\n")

    def pip(arguments, _project):
        (target,) = (each.removeprefix("--target=") for each in arguments if each.startswith("--target="))
        package = Path(target) / "everstep"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()

    monkeypatch.setattr(artifact, "run_pip", pip)
    artifact.build(project, "WorkerFunction", artifacts)
    files = {str(path.relative_to(artifacts)) for path in artifacts.rglob("*.py")}
    assert files == {"app.py", "handlers/worker.py", "everstep/__init__.py"}
    assert "WorkerFunction: 0.00 MB unzipped (limit 60 MB)" in capsys.readouterr().out
    monkeypatch.setattr(artifact, "run_pip", None)  # the second function finds what the first has installed
    artifact.build(project, "WorkerFunction", artifacts)
    monkeypatch.setattr(artifact, "SIZE_LIMIT", 3)
    with pytest.raises(ArtifactError, match="too large"):
        artifact.build(project, "WorkerFunction", artifacts)


def test_the_makefile_has_a_target_for_each_function():
    makefile = (TEMPLATE.parent / "infra" / "Makefile").read_text()
    for function in FUNCTIONS:
        assert f"build-{function}" in makefile
        assert load_template().resources[function]["Metadata"]["ContextPath"] == "infra"


def test_the_example_settings_of_sam_are_readable():
    settings = tomllib.loads((TEMPLATE.parent / "samconfig.toml").read_text())
    assert settings["default"]["deploy"]["parameters"]["capabilities"] == "CAPABILITY_IAM"
