"""Requests that schemathesis makes up from the OpenAPI document: no 5xx, and no answer that is not in it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.core.failures import AcceptedNegativeData, FailureGroup
from schemathesis.openapi.checks import RejectedPositiveData, UnsupportedMethodResponse

from everstep.backends.memory import open_memory
from everstep.runtime.advance import park
from everstep.web.openapi import describe
from tests.web.site import TOKEN, Site


def _document() -> dict[str, Any]:
    site = Site(open_memory(atomic_units=False))
    try:
        return describe(site.api, open_hooks=False)
    finally:
        site.close()


schema = schemathesis.openapi.from_dict(_document())


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site(open_memory(atomic_units=False), hold=1)
    with site.working():
        yield site
    site.close()


@pytest.fixture(scope="module")
def real(site: Site) -> dict[str, list[str]]:
    """What is really there, to be put in the place of much that is made up."""
    runs = [
        site.start("order", ["anvil"]),
        site.start("refuse"),
        site.start("flaky"),
        site.start("nap"),
        site.start("parent", [3]),
        site.start("report", [3]),
        site.start("again", [2]),
        site.start("waits", {"token": "any", "anything": True}),
    ]
    for number in range(20):
        runs.append(site.start("nap", attributes={"number": str(number)}))
    site.work()
    park(site.env.engine, runs[-1], "poison", "given up")
    webhook = site.start("notified", {"requests": 1000})
    site.work()
    return {"run_id": runs, "token": ["any", site.webhook(webhook).rpartition("/")[2]], "name": ["main"]}


@schema.parametrize()
@hypothesis.settings(max_examples=40, deadline=None)
def test_what_is_made_up(case: schemathesis.Case, site: Site, real: dict[str, list[str]]) -> None:
    for name, found in real.items():
        given = str(case.path_parameters.get(name, ""))
        chosen = zlib.crc32(given.encode("utf-8", "surrogatepass"))
        if given and chosen % 4:
            case.path_parameters[name] = found[chosen // 4 % len(found)]
    try:
        case.call_and_validate(base_url=f"http://127.0.0.1:{site.port}", headers={"Authorization": f"Bearer {TOKEN}"})
    except FailureGroup as group:
        if not all(_is_meant(case, each) for each in group.exceptions):
            raise


def _is_meant(case: schemathesis.Case, failure: BaseException) -> bool:
    """What schemathesis cannot know."""
    match failure:
        case RejectedPositiveData():  # the app has no such workflow, or it takes other arguments
            return True
        case UnsupportedMethodResponse():  # webhooks take any method; a token may end in "/resume", and is looked up
            return case.operation.path.endswith(("/webhook/{token}", "/v1/hooks/{token}/resume"))
        case AcceptedNegativeData():  # a parameter too many, whose value is an empty list, and which is not sent
            known = {each["name"] for each in case.operation.definition.raw.get("parameters", ())}
            more = [value for name, value in (case.query or {}).items() if name not in known]
            return more != [] and all(value in ([], {}) for value in more)
        case _:
            return False
