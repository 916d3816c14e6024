"""A run as a file, and its replay against the present code.

Keep the histories of runs that matter as golden files: a test that replays them tells, before a deploy, whether runs
that are under way would still go on.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from everstep.app import Workflows
from everstep.codec.failures import decode_error
from everstep.codec.records import decode_run, decode_turn, encode_run, encode_turn
from everstep.core.history import CompleteRun, FailRun, Turn
from everstep.core.replay import Replay, RunInfo
from everstep.core.run import RunRecord
from everstep.errors import ConfigurationError, WorkflowNotRegisteredError, WorkflowRunNotFoundError
from everstep.ports import Backend
from everstep.runtime import guard

FORMAT: Final = "everstep-history/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A run record and its turns."""

    run: RunRecord
    turns: Sequence[Turn]

    @classmethod
    def read(cls, backend: Backend, run_id: str) -> History:
        """Read it from a backend; `WorkflowRunNotFoundError` when there is no such run."""
        snapshot = backend.runs.load(run_id)
        if snapshot is None:
            raise WorkflowRunNotFoundError(run_id)
        return cls(run=snapshot.run, turns=tuple(snapshot.turns))

    def save(self, path: str | Path) -> None:
        """Write it as a JSON file, readable where its payloads are."""
        document = {
            "format": FORMAT,
            "run": _to_text(encode_run(self.run)),
            "turns": [_to_text(encode_turn(turn)) for turn in self.turns],
        }
        Path(path).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> History:
        """Read a file that `save` wrote; `ConfigurationError` when it is none."""
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"cannot read a history from {path}: {error}") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ConfigurationError(f"{path} is not a history file of the format {FORMAT!r}")
        return cls(
            run=decode_run(_to_bytes(document["run"])),
            turns=tuple(decode_turn(_to_bytes(turn)) for turn in document["turns"]),
        )


def replay(app: Workflows, history: History) -> Any:
    """Replay a history with the app's present code; what the workflow returned, or None while it is not closed.

    Raises:
        DivergenceError: the code asks for something else than the history holds.
        WorkflowIOError: the body does I/O.
        WorkflowNotRegisteredError: the app has no such workflow.
        Exception: what the workflow raised, if the history ends with its failure.
    """
    guard.install()
    program = app.workflows.get(history.run.workflow)
    if program is None:
        raise WorkflowNotRegisteredError(f"workflow {history.run.workflow!r} is not registered with this app")
    run = history.run
    info = RunInfo(
        run_id=run.run_id,
        workflow=run.workflow,
        input=run.input,
        seed=None if run.origin is None else run.origin.run_id,
        attributes=run.started_with,
    )
    instance = Replay(program, info)
    try:
        instance.apply(*history.turns)
    finally:
        instance.discard()
    match instance.closing:
        case CompleteRun(result=result):
            return program.decode_result(result)
        case FailRun(error=error):
            raise decode_error(error)
        case _:
            return None


def _to_text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(data).decode("ascii")


def _to_bytes(text: str) -> bytes:
    return base64.b64decode(text[7:]) if text.startswith("base64:") else text.encode("utf-8")
