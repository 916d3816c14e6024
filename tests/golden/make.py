"""Keep the histories of this version: `python -m tests.golden.make`. A file that exists is never written again."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from everstep.testing import History, WorkflowEnvironment
from tests.golden.programs import RUNS, app

ROOT = str(Path(__file__).parents[2]).encode()


def without_place(history: History) -> History:
    """The history with the tracebacks of its errors as if the project lay in /app."""

    def moved(each: Any) -> Any:
        return replace(each, error=each.error.replace(ROOT, b"/app")) if getattr(each, "error", None) else each

    turns = [
        replace(turn, events=tuple(map(moved, turn.events)), commands=tuple(map(moved, turn.commands)))
        for turn in history.turns
    ]
    return History(run=moved(history.run), turns=tuple(turns))


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
            without_place(env.history(run)).save(path)
            print(f"kept {path.name}")


if __name__ == "__main__":
    main()
