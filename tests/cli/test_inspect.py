"""`everstep inspect`: tables for people, JSON for programs."""

from __future__ import annotations

import json
import re

import pytest

from everstep.cli.render import error_lines, runs_table, turn_lines, value_text
from everstep.cli.runids import _created_between
from everstep.cli.shapes import turn_json
from everstep.cli.styles import Style
from everstep.codec.failures import encode_error
from everstep.core.history import ContinueRun, RunStarted, RunStep, StartTimer, StepFailed, Turn
from everstep.core.run import RunRecord


@pytest.fixture
def runs(here):
    """A failed run, one that waits to be started, and one that has completed: the ids, newest first."""
    ids = [
        here("run", "shop:fails", "--json").json["run_id"],
        here("start", "shop:greet", "-i", '["Bob"]', "--attribute", "who=bob").out.strip(),
        here("run", "shop:greet", "-i", '["Ada", 2]', "--attribute", "who=ada", "--json").json["run_id"],
    ]
    return ids[::-1]


def test_runs_are_listed_newest_first_in_aligned_columns(here, runs):
    lines = here("inspect", "runs").out.splitlines()
    assert lines[0].split() == ["RUN", "WORKFLOW", "STATUS", "CREATED", "TOOK", "NOTE"]
    assert [line.split()[0] for line in lines[1:]] == runs
    for column in ("WORKFLOW", "STATUS", "CREATED", "NOTE"):
        at = lines[0].index(column)
        assert all(line[at - 2 : at] == "  " and line[at] != " " for line in lines[1:] if len(line) > at)
    assert lines[1].endswith("who=ada")
    assert lines[3].endswith("ValueError: no such customer")


def test_runs_are_filtered_and_paged(here, runs):
    def listed(*words):
        return [run["run_id"] for run in here("inspect", "runs", "--json", *words).json["runs"]]

    completed, pending, failed = runs
    assert listed("--workflow", "fails") == [failed]
    assert listed("--status", "pending") == [pending]
    assert listed("--attribute", "who=ada") == [completed]
    assert listed("--since", "1h") == runs
    assert listed("--until", "1h") == []
    assert listed("--since", "2020-01-01", "--until", "2020-01-02T00:00Z") == []
    first = here("inspect", "runs", "--json", "--limit", "2").json
    assert [run["run_id"] for run in first["runs"]] == runs[:2]
    assert listed("--cursor", first["cursor"]) == [failed]
    more = here("inspect", "runs", "--limit", "1")
    assert f"--cursor {here('inspect', 'runs', '--limit', '1', '--json').json['cursor']}" in more.err
    assert "no runs match" in here("inspect", "runs", "--workflow", "x").err


def test_one_run(here, runs):
    completed, pending, failed = runs
    shown = here("inspect", "run", completed).out
    assert re.search(r'^input +\{"name":"Ada","times":2\}$', shown, re.MULTILINE)
    assert re.search(r'^result +\["Hello Ada","Hello Ada"\]$', shown, re.MULTILINE)
    assert "3 turns, 2 steps (2 completed)" in shown
    assert "KeyError: 'key'" in here("inspect", "run", failed).out
    as_json = here("inspect", "run", pending, "--json").json
    assert (as_json["status"], as_json["turns"], as_json["input"]) == ("pending", 0, {"name": "Bob"})


def test_the_beginning_of_an_id_will_do(here, runs):
    assert here("inspect", "run", runs[0][:16], "--json").json["run_id"] in runs
    assert here("inspect", "run", runs[0].removeprefix("wrun_").lower(), "--json").json["run_id"] == runs[0]
    done = here("inspect", "run", runs[0][:10])
    assert done.code == 2
    assert "3 run ids begin with" in done.line


def test_steps_with_every_attempt(here, runs):
    lines = here("inspect", "steps", runs[2]).out.splitlines()
    assert re.match(r" 0  broken  failed +2  .*  \{\} → ValueError: no such customer$", lines[1])
    assert re.match(r"    ↻ attempt 1 failed at [\d:.]+ after \d.*: ValueError: no such customer$", lines[2])
    (step,) = here("inspect", "steps", runs[2], "--json").json["operations"]
    assert (step["kind"], step["state"], step["attempt"]) == ("step", "failed", 2)
    (attempt,) = step["failed_attempts"]
    assert attempt["error"]["message"] == "no such customer"
    assert "no steps yet" in here("inspect", "steps", runs[1]).err


def test_events_turn_by_turn(here, runs):
    text = here("inspect", "events", runs[0]).out
    assert [line for line in text.splitlines() if not line.startswith("turn")] == [
        "  → run started",
        '  ← run step 0 salute {"name":"Ada"}',
        '  → step 0 salute completed: "Hello Ada"',
        '  ← run step 1 salute {"name":"Ada"}',
        '  → step 1 salute completed: "Hello Ada"',
        '  ← complete the run: ["Hello Ada","Hello Ada"]',
    ]
    turns = here("inspect", "events", runs[0], "--json").json["turns"]
    assert [turn["turn"] for turn in turns] == [0, 1, 2]
    assert turns[0]["events"] == [{"type": "RunStarted"}]
    assert turns[1]["events"] == [{"type": "StepCompleted", "op": 0, "attempt": 1, "result": "Hello Ada"}]


def test_help_and_version_need_nothing(here, tmp_path):
    for words in (["--help"], ["run", "--help"], ["inspect"], ["inspect", "runs", "--help"], ["--version"], []):
        done = here(*words)
        assert (done.code, done.err) == (0, "")
    assert "130  stopped by Ctrl-C" in here("--help").out
    assert not (tmp_path / ".everstep").exists()


# --- rendering, without a database -----------------------------------------------------------------

PLAIN = Style(color=False, symbols=False)


def test_a_timer_and_all_endings_have_their_lines():
    error = encode_error(ValueError("no"))
    turn = Turn(
        number=0,
        at=0,
        build="b",
        nonce="n",
        events=(RunStarted(), StepFailed(op=0, attempt=4, error=error)),
        commands=(
            RunStep(op=1, name="a\nb", input=b"{}", digest="d"),
            StartTimer(op=2, due=60_000_000),
            ContinueRun(input=b"{}"),
        ),
    )
    lines = turn_lines([turn], style=PLAIN, width=None)
    assert lines[2:4] == ["  -> step 0 ? failed on attempt 4: ValueError: no", "  <- run step 1 a b {}"]
    assert lines[4].endswith("(in 60.0 s)")
    assert lines[5] == "  <- continue as a new run: {}"
    assert json.dumps(turn_json(turn))


def test_damaged_values_are_shown_not_raised():
    assert value_text(b"\xff\x00{") == "\N{REPLACEMENT CHARACTER}{"
    assert "damaged" in "\n".join(error_lines(b"not json"))


def test_a_narrow_terminal_cuts_the_note_not_the_id():
    run = RunRecord(
        run_id="wrun_" + "0" * 26,
        root_id="",
        workflow="greet",
        input=b"{}",
        created_at=0,
        start_at=0,
        attributes={"note": "x" * 200},
    )
    lines = runs_table([run], now=0, style=PLAIN, width=100)
    assert len(lines[1]) == 100
    assert lines[1].startswith(run.run_id)


def test_the_beginning_of_an_id_is_a_span_of_time():
    first, end = _created_between("01JD3V6Y8Q")
    assert end - first == 1000
    wide_first, wide_end = _created_between("01JD")
    assert wide_first <= first < end <= wide_end
