"""The OpenAPI document: what FastAPI makes of the routes, and what it cannot know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from everstep.web import hooks
from everstep.web.models import Problem
from everstep.web.problems import described
from everstep.webhooks import WEBHOOK_PATH

DESCRIPTION: Final = """\
Start workflows, learn what became of them, control them.

Everything but `/health` and webhooks needs a credential: `Authorization: Bearer TOKEN`, or a signed request where the
stack was deployed so. Every error is a [problem](https://www.rfc-editor.org/rfc/rfc9457), `application/problem+json`.
"""
_UNDESCRIBED: Final = "Successful Response"
"""What FastAPI says where nobody said anything."""
_SCHEMAS: Final = "#/components/schemas/{model}"


def describe(api: FastAPI, *, open_hooks: bool) -> dict[str, Any]:
    """The document, made at the first call."""
    if api.openapi_schema is None:
        document = get_openapi(
            title=api.title, version="1", openapi_version="3.1.0", description=DESCRIPTION, routes=api.routes
        )
        components = document.setdefault("components", {})
        _, problem = models_json_schema([(Problem, "serialization")], ref_template=_SCHEMAS)
        components.setdefault("schemas", {}).update(problem["$defs"])
        for unused in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(unused, None)
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
        for path, method, operation in _operations(document):
            _name_answers(operation, components["schemas"])
            is_open = path == "/health" or path.startswith(WEBHOOK_PATH)
            if is_open or (open_hooks and hooks.is_resume(method.upper(), path)):
                operation["security"] = []
            else:
                operation["responses"]["401"] = described(401)
            if not path.startswith(WEBHOOK_PATH):
                operation["responses"]["422"] = described(422)
            operation["responses"]["500"] = described(500)
            operation["responses"]["503"] = described(503)
        api.openapi_schema = document
    return api.openapi_schema


def _name_answers(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Let answers that nobody has described say what their model is."""
    for answer in operation["responses"].values():
        if answer["description"] == _UNDESCRIBED:
            reference = answer["content"]["application/json"]["schema"]["$ref"]
            answer["description"] = schemas[reference.rpartition("/")[2]]["description"]


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation
