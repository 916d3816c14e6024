"""History is for ever: what a released version recorded must replay with the present code, and read back the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from everstep.codec.records import encode_run, encode_turn
from everstep.core.history import CancelRun, CompleteRun, ContinueRun, FailRun
from everstep.testing import History, replay
from tests.golden.programs import RUNS, app

FILES = sorted(Path(__file__).parent.glob("[0-9]*/*.json"))


def test_every_program_has_a_history():
    assert {path.stem for path in FILES} >= set(RUNS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_kept_history_replays(path):
    history = History.load(path)
    closing = history.turns[-1].commands[-1]
    match closing:
        case CompleteRun(result=result):
            program = app.workflows[history.run.workflow]
            assert program.encode_result(replay(app, history)) == result
        case ContinueRun() | CancelRun():
            assert replay(app, history) is None
        case FailRun():
            with pytest.raises(ValueError, match="the workflow's own"):
                replay(app, history)
        case _:
            raise AssertionError(f"{path} is not the history of a run that ended")


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_kept_history_is_written_as_it_was(path, tmp_path):
    """The format of version 1 does not drift: what is read is written with the same bytes."""
    history = History.load(path)
    history.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert encode_run(history.run)
    assert all(encode_turn(turn) for turn in history.turns)
