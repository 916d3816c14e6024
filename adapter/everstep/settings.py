"""The settings a process reads from its environment, in one place.

Read by hand: the import of pydantic-settings alone costs as much as all of Everstep, and every cold start of a function
would pay for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, TypeVar, cast, get_args

from everstep.errors import ConfigurationError

T = TypeVar("T")
Synchronous: TypeAlias = Literal["NORMAL", "FULL"]
BackendName: TypeAlias = Literal["sqlite", "aws"]
ApiAuth: TypeAlias = Literal["token", "iam"]

PREFIX: Final = "EVERSTEP_"
LONGEST_DELAY: Final = 900
"""Seconds that SQS can delay a message."""
_ORIGIN: Final = re.compile(r"https?://[^/\s?#@*]+")
_URL: Final = re.compile(r"https?://[^/\s?#@]+(/[^\s?#]*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsSettings:
    """Where the ``aws`` backend finds what it works on.

    Attributes:
        table: the name of the DynamoDB table (``EVERSTEP_TABLE``).
        queue_url: the queue of messages (``EVERSTEP_QUEUE_URL``).
        queue_arn: the same queue, as schedules name it (``EVERSTEP_QUEUE_ARN``).
        bucket: where payloads are kept that are too large for an item or a message (``EVERSTEP_BUCKET``).
        schedule_group: the group of one-time schedules (``EVERSTEP_SCHEDULE_GROUP``).
        scheduler_role_arn: the role that lets schedules send to the queue (``EVERSTEP_SCHEDULER_ROLE_ARN``).
        region: of all of them (``AWS_REGION``, which Lambda sets, or ``AWS_DEFAULT_REGION``).
        delay_limit: seconds; what is due later becomes a schedule (``EVERSTEP_DELAY_LIMIT``, 1 to 900).
        retention_days: how long a closed run is kept, 0 for ever (``EVERSTEP_RETENTION_DAYS``).
    """

    table: str
    queue_url: str
    queue_arn: str
    bucket: str
    schedule_group: str
    scheduler_role_arn: str
    region: str
    delay_limit: int = LONGEST_DELAY
    retention_days: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What variables that begin with ``EVERSTEP_`` say.

    Attributes:
        backend: ``sqlite`` or ``aws`` (``EVERSTEP_BACKEND``).
        db: the SQLite file of the embedded backend (``EVERSTEP_DB``).
        synchronous: ``NORMAL`` keeps every committed turn when a process is killed, ``FULL`` also when the power fails
            (``EVERSTEP_SYNCHRONOUS``).
        app: the module or file of the app that the functions serve (``EVERSTEP_APP``).
        aws: not None exactly when the backend is ``aws``.
        api_auth: what opens the API: ``token``, a bearer token, or ``iam``, a signature that the gateway has checked
            (``EVERSTEP_API_AUTH``).
        api_token_secret: the name of the Secrets Manager secret that holds the API's tokens
            (``EVERSTEP_API_TOKEN_SECRET``). With ``token`` and without a secret, the API lets nobody in.
        api_open_hooks: whether a hook's token is all it takes to resume it over HTTP (``EVERSTEP_API_OPEN_HOOKS``).
        api_origins: the origins whose pages may use the API from a browser, such as ``https://shop.example``
            (``EVERSTEP_API_ORIGINS``, separated by spaces or commas). None by default.
        public_url: where the API can be reached from outside, for the addresses of webhooks (``EVERSTEP_PUBLIC_URL``).
        trace: whether the functions trace with X-Ray (``EVERSTEP_TRACE``).
    """

    backend: BackendName = "sqlite"
    db: Path = Path(".everstep/runs.db")
    synchronous: Synchronous = "NORMAL"
    app: str | None = None
    aws: AwsSettings | None = None
    api_auth: ApiAuth = "token"
    api_token_secret: str | None = None
    api_open_hooks: bool = False
    api_origins: tuple[str, ...] = ()
    public_url: str = ""
    trace: bool = False


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings, or a `ConfigurationError` that names the variable."""
    read = _Environment(os.environ if environment is None else environment)
    backend = cast("BackendName", read.choice("backend", get_args(BackendName), Settings().backend))
    return Settings(
        backend=backend,
        db=read.value("db", Path, Settings().db),
        synchronous=cast("Synchronous", read.choice("synchronous", get_args(Synchronous), "NORMAL")),
        app=read.value("app", str, None),
        aws=_aws(read) if backend == "aws" else None,
        api_auth=cast("ApiAuth", read.choice("api_auth", get_args(ApiAuth), "token")),
        api_token_secret=read.value("api_token_secret", str, None),
        api_open_hooks=read.flag("api_open_hooks"),
        api_origins=read.value("api_origins", _origins, ()),
        public_url=read.value("public_url", _url, ""),
        trace=read.flag("trace"),
    )


def _aws(read: _Environment) -> AwsSettings:
    needed = ("table", "queue_url", "queue_arn", "bucket", "schedule_group", "scheduler_role_arn")
    missing = [PREFIX + name.upper() for name in needed if not read.text(name)]
    if missing:
        raise ConfigurationError(
            f"{PREFIX}BACKEND=aws needs {', '.join(missing)}: the template sets it on the functions it makes; "
            f"elsewhere, take it from the outputs of the stack"
        )
    region = read.others.get("AWS_REGION") or read.others.get("AWS_DEFAULT_REGION")
    if not region:
        raise ConfigurationError(f"{PREFIX}BACKEND=aws needs AWS_REGION, such as eu-central-1")
    return AwsSettings(
        **{name: read.text(name) for name in needed},
        region=region,
        delay_limit=read.value("delay_limit", _whole_number, LONGEST_DELAY),
        retention_days=read.value("retention_days", _whole_number, 0),
    )


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("Input should be a whole number")
    return int(text)


def _origins(text: str) -> tuple[str, ...]:
    return tuple(_origin(word) for word in text.replace(",", " ").split())


def _origin(text: str) -> str:
    if not _ORIGIN.fullmatch(text):
        raise ValueError(f"{text!r} is no origin: write a scheme and a host, such as https://shop.example, and no path")
    return text


def _url(text: str) -> str:
    if not _URL.fullmatch(text):
        raise ValueError("Input should be a URL, such as https://api.shop.example, without a query")
    return text.rstrip("/")


class _Environment:
    """Variables by the name of the setting, in upper or lower case. One that is empty counts as not set."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.others = variables
        self._ours = {name.upper(): value for name, value in variables.items() if name.upper().startswith(PREFIX)}

    def text(self, name: str) -> str:
        return self._ours.get(PREFIX + name.upper(), "")

    def value(self, name: str, convert: Callable[[str], T], default: T) -> T:
        text = self.text(name)
        try:
            return convert(text) if text else default
        except ValueError as error:
            raise ConfigurationError(f"{PREFIX}{name.upper()}={text!r}: {error}") from None

    def flag(self, name: str) -> bool:
        return self.choice(name, ("true", "false"), "false") == "true"

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        text = self.text(name) or default
        if text not in choices:
            listed = f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"
            raise ConfigurationError(f"{PREFIX}{name.upper()}={text!r}: Input should be {listed}")
        return text
