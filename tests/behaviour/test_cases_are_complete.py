"""Each case has a test, or a reason why there is none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CASES = [
    f"{suite}-{number}"
    for suite, count in ((2, 5), (3, 18), (5, 16), (6, 13), (9, 20))
    for number in range(1, count + 1)
]

NOT_HERE = {
    "2-2": "a wait with a name: timers have no names; an operation is known by its number",
    "5-8": "an invocation for a tenant: isolation of tenants is a feature of AWS Lambda that no backend of ours uses",
}

PARTLY = {
    "3-2": "a nested function leaves nothing in the history that could have a name; a child run has its workflow's",
    "3-11": "the other engine runs the child again where its result is too large to keep; ours is kept, however large",
    "3-17": "there is no logger that is silent in a replay: what a body logs is repeated, what a step logs is not",
    "5-2": "a call has no name of its own; the history has the registered name of the workflow",
    "5-7": "the limit is 64 MiB",
    "6-3": "a loop has no name; each check is recorded under its step's",
    "9-12": "a map in a body leaves no events of its own in any case",
    "9-13": "items have no names; as child runs they can have attributes",
    "9-16": "as 3-11",
    "9-19": "as 9-20",
    "9-20": "the result of a map is stored as a whole where the map is a child run, by the annotation of its result",
}


def covered() -> list[str]:
    folder = Path(__file__).parent
    names = [
        name
        for file in folder.glob("test_*.py")
        for name in re.findall(r"^def test_(\d+_\d+)_", file.read_text(), re.M)
    ]
    return [name.replace("_", "-") for name in names]


def test_every_case_has_one_test_or_a_reason() -> None:
    assert sorted([*covered(), *NOT_HERE]) == sorted(CASES)


@pytest.mark.parametrize("case", sorted(PARTLY))
def test_what_is_tested_in_part_is_tested(case: str) -> None:
    assert case in covered()
