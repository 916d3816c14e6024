"""The OpenAPI document, and a page that shows it and lets one try it.

The page loads nothing from elsewhere. A browser has no token when it comes; so it gets the page with the refusal, types
the token in, and the page fetches the document with it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any, Final

from fastapi import APIRouter
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Scope

DOCS_PATH: Final = "/docs"
DOCUMENT_PATH: Final = "/openapi.json"


def routes(document: Callable[[], dict[str, Any]]) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get(DOCUMENT_PATH)
    def openapi() -> Response:
        return JSONResponse(document())

    @router.get(DOCS_PATH)
    def docs() -> Response:
        return _docs(200)

    return router


def sign_in(scope: Scope) -> Response | None:
    """For people who come to the page with a browser."""
    wants_html = "text/html" in Headers(scope=scope).get("accept", "")
    if scope["path"] != DOCS_PATH or scope["method"] != "GET" or not wants_html:
        return None
    return _docs(401)


def _docs(status: int) -> Response:
    headers = {
        "Content-Security-Policy": _policy(),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="everstep"'
    return HTMLResponse(_page(), status, headers)


@cache
def _page() -> str:
    return files("everstep.web").joinpath("docs.html").read_text(encoding="utf-8")


@cache
def _policy() -> str:
    """Nothing but what is in the page may run, and it may speak to its own server only."""
    hashes = {kind: _hash(kind) for kind in ("script", "style")}
    return (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; connect-src 'self'; "
        f"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(tag: str) -> str:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", _page(), re.DOTALL)
    content = found[1] if found is not None else ""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
