"""The rules of a running microburst: which requests fail, and how; and what it did.

https://github.com/pingedbrain/microburst
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from everstep.backends.aws.clients import READ_TIMEOUT

Rule: TypeAlias = Mapping[str, Any]

_CONTROL: Final = "/_microburst"
_SECONDS: Final = 60


class Proxy:
    """microburst at an endpoint."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def warm_up(self) -> None:
        """Let it load the model of each service, which it does at the first request and which takes seconds."""
        for service in READ_TIMEOUT:
            scope = f"Credential=nobody/20590101/nowhere/{service}/aws4_request"
            self._request("POST", "/", "{}", {"Authorization": f"AWS4-HMAC-SHA256 {scope}"})

    def let_fail(self, *rules: Rule) -> None:
        """From now on these rules hold, and no others. The first one that fits a request decides."""
        self._control("POST", "/rules", rules)

    def clear(self) -> None:
        """No request fails, and none has failed."""
        self.let_fail()
        self._control("DELETE", "/fired")

    def fired(self) -> list[dict[str, Any]]:
        """The requests that a rule was applied to."""
        fired: list[dict[str, Any]] = self._control("GET", "/fired?limit=1000")
        return fired

    def _control(self, method: str, path: str, body: Sequence[Rule] | None = None) -> Any:
        content = None if body is None else json.dumps(body)
        status, answer = self._request(method, _CONTROL + path, content, {"Content-Type": "application/json"})
        assert status == 200, answer
        return json.loads(answer)

    def _request(self, method: str, path: str, body: str | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.endpoint.removeprefix("http://"), timeout=_SECONDS)
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
