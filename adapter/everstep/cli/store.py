"""Which store a command works on: its options, else the environment, else the project's ``samconfig.toml``."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeAlias, TypeVar, cast

import click

from everstep.errors import ConfigurationError

if TYPE_CHECKING:
    from everstep.runtime.connection import Connection
    from everstep.settings import AwsSettings, Synchronous

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
BackendName: TypeAlias = Literal["sqlite", "aws"]

OUTPUTS: Final[Mapping[str, str]] = {
    "Table": "EVERSTEP_TABLE",
    "QueueUrl": "EVERSTEP_QUEUE_URL",
    "QueueArn": "EVERSTEP_QUEUE_ARN",
    "Bucket": "EVERSTEP_BUCKET",
    "ScheduleGroup": "EVERSTEP_SCHEDULE_GROUP",
    "SchedulerRoleArn": "EVERSTEP_SCHEDULER_ROLE_ARN",
}
"""Outputs of the stack that a client needs, and the settings they are."""
_STACK: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,127}|arn:[\w:/-]+")
OPTIONAL_OUTPUTS: Final[Mapping[str, str]] = {
    "DelayLimit": "EVERSTEP_DELAY_LIMIT",
    "RetentionDays": "EVERSTEP_RETENTION_DAYS",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """What a command was given; None where it was given nothing."""

    backend: BackendName | None = None
    stack: str | None = None
    db: str | None = None
    synchronous: Synchronous | None = None

    @property
    def again(self) -> tuple[str, ...]:
        """The options that make another command work on the same store."""
        given = (("--backend", self.backend), ("--stack", self.stack), ("--db", self.db))
        return tuple(word for option, value in given if value is not None for word in (option, value))


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteStore:
    """A database file."""

    path: Path
    synchronous: Synchronous
    public_url: str = ""

    @property
    def place(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsStore:
    """The resources of a stack. Without a name they came from the environment."""

    settings: AwsSettings
    stack: str | None

    @property
    def place(self) -> str:
        return f"table {self.settings.table!r}" if self.stack is None else f"stack {self.stack!r}"


Store: TypeAlias = SqliteStore | AwsStore


def store_options(command: Decorated) -> Decorated:
    """``--backend``, ``--stack``, ``--db`` and ``--synchronous``, which the command gets as one argument, `store`."""
    return _with_store(command, local=False)


def local_store_options(command: Decorated) -> Decorated:
    """As `store_options`, for commands that work here: the help does not offer AWS, which they refuse with a reason."""
    return _with_store(command, local=True)


def _with_store(command: Decorated, *, local: bool) -> Decorated:
    @functools.wraps(command)
    def with_store(*args: Any, backend: Any, stack: str | None, db: str | None, synchronous: Any, **rest: Any) -> Any:
        return command(*args, store=StoreOptions(backend=backend, stack=stack, db=db, synchronous=synchronous), **rest)

    for option in (
        click.option(
            "--synchronous",
            type=click.Choice(["NORMAL", "FULL"]),
            help="FULL keeps every step even when the power fails. [default: EVERSTEP_SYNCHRONOUS, or NORMAL]",
        ),
        click.option("--db", metavar="FILE", help="The database. [default: EVERSTEP_DB, or .everstep/runs.db]"),
        _stack_option("what EVERSTEP_TABLE … say, or samconfig.toml", hidden=local),
        click.option(
            "--backend",
            type=click.Choice(["sqlite", "aws"]),
            hidden=local,
            help="Where runs are. [default: EVERSTEP_BACKEND, or sqlite; --stack means aws, --db sqlite]",
        ),
    ):
        with_store = option(with_store)
    return cast("Decorated", with_store)


def stack_option(command: Decorated) -> Decorated:
    """``--stack``, for commands that are about a stack as a whole."""
    return _stack_option("stack_name in samconfig.toml", hidden=False)(command)


def _stack_option(default: str, *, hidden: bool) -> Callable[[Decorated], Decorated]:
    return click.option(
        "--stack",
        metavar="NAME",
        hidden=hidden,
        callback=_checked_stack,
        help=f"The stack on AWS. [default: {default}]",
    )


def _checked_stack(_ctx: click.Context, _parameter: click.Parameter, name: str | None) -> str | None:
    if name is not None and not _STACK.fullmatch(name):
        raise ConfigurationError(
            f"--stack {name!r} cannot be the name of a stack: letters, digits and hyphens, a letter first, at most 128"
        )
    return name


# --- choosing --------------------------------------------------------------------------------------


def backend_of(options: StoreOptions) -> BackendName:
    """The backend's name. Asks nothing of AWS."""
    sqlite = "--db" if options.db is not None else "--synchronous" if options.synchronous is not None else None
    if options.stack is not None and options.backend == "sqlite":
        raise ConfigurationError("--stack is of the aws backend, and --backend says sqlite: leave one of them out")
    if sqlite is not None and (options.stack is not None or options.backend == "aws"):
        other = "--stack" if options.stack is not None else "--backend aws"
        raise ConfigurationError(f"{sqlite} is of the sqlite backend, and {other} of aws: leave one of them out")
    if options.backend is not None:
        return options.backend
    if options.stack is not None:
        return "aws"
    if options.db is not None:
        return "sqlite"
    text = _variable("EVERSTEP_BACKEND")
    if text != "aws":
        from everstep.settings import read_settings

        read_settings({"EVERSTEP_BACKEND": text})  # refuses what is not the name of a backend
        return "sqlite"
    if sqlite is not None:
        raise ConfigurationError(
            f"{sqlite} is of the sqlite backend, and EVERSTEP_BACKEND says aws: add --backend sqlite, or leave it out"
        )
    return "aws"


def refuse_aws(options: StoreOptions, why: str) -> None:
    """For commands that run bodies and steps in this process."""
    if backend_of(options) != "aws":
        return
    if options.backend is None and options.stack is None:
        why += "; or give --backend sqlite, for EVERSTEP_BACKEND says aws"
    raise ConfigurationError(f"on aws the deployed functions do the work: {why}")


def choose_store(options: StoreOptions) -> Store:
    """The store. Of a stack that is named its outputs are read, which is one request to CloudFormation."""
    from everstep.settings import read_settings

    if backend_of(options) == "sqlite":
        ours = {"EVERSTEP_BACKEND": "sqlite"}
        if options.db is not None:
            ours["EVERSTEP_DB"] = options.db
        if options.synchronous is not None:
            ours["EVERSTEP_SYNCHRONOUS"] = options.synchronous
        settings = read_settings(_environment_with(ours))
        db = settings.db if options.db is None else Path(options.db)
        return SqliteStore(path=db, synchronous=settings.synchronous, public_url=settings.public_url)
    stack = find_stack(options.stack)
    from everstep.cli.cloud import Cloud

    cloud = Cloud()
    ours = {"EVERSTEP_BACKEND": "aws", "AWS_REGION": cloud.region}
    if stack is not None:
        ours |= settings_of(stack, cloud)
    aws = read_settings(_environment_with(ours)).aws
    if aws is None:
        raise AssertionError("the aws backend has no settings")
    return AwsStore(settings=aws, stack=stack)


def find_stack(given: str | None) -> str | None:
    """The stack's name: as given, else as ``samconfig.toml`` says, unless the environment names the resources."""
    if given is not None:
        return given
    if _variable("EVERSTEP_TABLE"):
        return None
    return sam_setting("stack_name") or refuse_without_stack()


def named_stack(given: str | None) -> str:
    """As `find_stack`, for commands that are about a stack as a whole."""
    return given or sam_setting("stack_name") or refuse_without_stack()


def refuse_without_stack() -> NoReturn:
    raise ConfigurationError(
        "say which stack on AWS: --stack NAME (there is no stack_name in samconfig.toml here); or set EVERSTEP_TABLE "
        "and the other variables that 'everstep env --stack NAME' prints"
    )


def settings_of(stack: str, cloud: Any) -> dict[str, str]:
    """The settings of a client of this stack, as variables."""
    found = cloud.stack(stack)
    missing = [name for name in OUTPUTS if not found.outputs.get(name)]
    if missing:
        raise ConfigurationError(
            f"stack {stack!r} ({found.status}) has no output {', '.join(missing)}: its deploy has not succeeded yet, "
            f"or it was not made from Everstep's template"
        )
    names = {**OUTPUTS, **OPTIONAL_OUTPUTS}
    return {variable: found.outputs[name] for name, variable in names.items() if found.outputs.get(name)}


def sam_setting(name: str) -> str | None:
    """A setting of the SAM command line in this folder's ``samconfig.toml``, of its default environment."""
    import tomllib

    path = Path("samconfig.toml")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    value: Any = None
    for command in ("deploy", "global"):
        place: Any = content
        for part in ("default", command, "parameters"):
            place = place.get(part) if isinstance(place, dict) else None
        value = value or (place.get(name) if isinstance(place, dict) else None)
    return value if isinstance(value, str) and value else None


def _variable(name: str) -> str:
    return next((value for key, value in os.environ.items() if key.upper() == name), "")


def _environment_with(ours: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.upper() not in ours} | dict(ours)


# --- opening ---------------------------------------------------------------------------------------


def open_store(store: Store, *, must_exist: bool = False) -> Connection:
    """Open the store and make it this process's own, so that steps that start runs use it too."""
    from everstep import assembly

    if isinstance(store, AwsStore):
        connection = assembly.connect_aws(store.settings)
    else:
        connection = assembly.connect_sqlite(
            store.path, synchronous=store.synchronous, must_exist=must_exist, public_url=store.public_url
        )
    assembly.set_default_connection(connection)
    return connection
