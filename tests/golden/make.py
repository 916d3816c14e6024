"""Keep the histories of this version: `python -m tests.golden.make`. A file that exists is never written again."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from tests.golden.programs import RUNS, app

from everstep.testing import WorkflowEnvironment


def main() -> None:
    folder = Path(__file__).parent / ".".join(version("everstep").split(".")[:2])
    folder.mkdir(exist_ok=True)
    for name, (workflow, arguments) in RUNS.items():
        path = folder / f"{name}.json"
        if path.exists():
            continue
        with WorkflowEnvironment(app) as env:
            run = env.start(workflow, *arguments)
            env.run_until_idle()
            env.history(run).save(path)
            print(f"kept {path.name}")


if __name__ == "__main__":
    main()
