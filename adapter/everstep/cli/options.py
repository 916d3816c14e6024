"""Options that several commands take, and what they are turned into. Everything wrong is a `ConfigurationError`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from everstep.cli.text import parse_moment
from everstep.core.attributes import check_attributes
from everstep.core.durations import duration_micros, to_micros
from everstep.core.history import Micros
from everstep.errors import ConfigurationError, EverstepError, SerializationError

if TYPE_CHECKING:
    from everstep.app import Workflow

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

LONGEST_SHOWN: Final = 80


# --- other options ---------------------------------------------------------------------------------


def json_option(command: Decorated) -> Decorated:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def input_options(command: Decorated) -> Decorated:
    """What `run` and `start` take: the input, attributes and the idempotency key."""
    command = click.option(
        "--idempotency-key",
        metavar="KEY",
        help="The same key gives the same run, however often it is started.",
    )(command)
    command = click.option(
        "--attribute", "attributes", metavar="KEY=VALUE", multiple=True, help="Text to find the run by. Repeatable."
    )(command)
    return click.option(
        "--input",
        "-i",
        "input_text",
        metavar="JSON",
        help="Arguments: an object (by name) or an array (by position). @FILE reads a file, - reads stdin.",
    )(command)


def parse_attributes(pairs: Sequence[str]) -> dict[str, str]:
    """``key=value`` pairs, checked against the limits on attributes."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigurationError(f"--attribute takes KEY=VALUE, not {pair!r}")
        if key in found:
            raise ConfigurationError(f"--attribute {key!r} is given twice")
        found[key] = value
    return check_attributes(found)


def parse_when(option: str, text: str | None, now: Micros) -> Micros | None:
    """A moment: how long ago, or a date or time."""
    if text is None:
        return None
    moment = parse_moment(text)
    if moment is not None:
        return to_micros(moment)
    try:
        return now - duration_micros(text)
    except ValueError:
        raise ConfigurationError(
            f"{option} takes how long ago, such as 1h or '2 days', or a date or time, such as 2025-01-31 or "
            f"2025-01-31T12:00Z; not {text!r}"
        ) from None


# --- the input -------------------------------------------------------------------------------------


def parse_input(text: str | None) -> Any:
    """What ``--input`` says, as parsed JSON; no arguments when it is not given."""
    if text is None:
        return {}
    source, value = parse_json("--input", text)
    if not isinstance(value, (dict, list)):
        shown = _shown(json.dumps(value, ensure_ascii=False))
        raise ConfigurationError(
            f"{source} takes an object (arguments by name) or an array (by position), not {shown}; "
            f"for one argument: '[{shown}]'"
        )
    return value


def parse_json(name: str, text: str) -> tuple[str, Any]:
    """What the option or argument of this name gives as JSON: itself, the file after ``@``, or stdin for ``-``.

    Returns:
        What to call it in messages, and the value.
    """
    source, text = _read_input(name, text)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError:
        raise ConfigurationError(f"{source} is nested too deep") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if "\n" in text.strip() else f"column {error.colno}"
        if not text.strip():
            raise ConfigurationError(f"{source} is empty; it takes JSON, such as {{}} for no arguments") from None
        raise ConfigurationError(
            f"{source} is not JSON: {error.msg} at {where} of {_shown(text)}{_shell_hint(text)}"
        ) from None
    except ValueError as error:
        raise ConfigurationError(f"{source} is not JSON: {error}") from None
    return source, value


def _read_input(name: str, text: str) -> tuple[str, str]:
    if text == "-":
        try:
            return f"{name} - (stdin)", sys.stdin.read()
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{name} - (stdin) is not {error.encoding} text") from None
    if not text.startswith("@"):
        return name, text
    path = Path(text[1:])
    try:
        return f"{name} {text}", path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{name} {text}: the file is not UTF-8 text") from None
    except OSError as error:
        raise ConfigurationError(f"{name} {text}: the file cannot be read: {error.strerror}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice in one object")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_SHOWN else line[: LONGEST_SHOWN - 1] + "…"


def _shell_hint(text: str) -> str:
    if text.lstrip()[:1] in ("{", "[") and '"' not in text:
        return """ (did the shell take the quotes? write '{"name": "value"}' in single quotes)"""
    return ""


def encode_input(workflow: Workflow[Any, Any], value: Any) -> bytes:
    """The bytes of the workflow's arguments. What does not fit the signature is refused, with the signature."""
    try:
        return workflow.encode_json(value)
    except (SerializationError, TypeError) as error:
        text = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
        if isinstance(error, EverstepError):
            raise ConfigurationError(f"--input does not fit: {text}") from error
        raise ConfigurationError(
            f"--input does not fit workflow {workflow.name!r}: {text.partition('() ')[2] or text}"
            f"{_takes(workflow, value)}"
        ) from error


def _takes(workflow: Workflow[Any, Any], value: Any) -> str:
    """What the workflow takes instead, and which names it does not know."""
    import difflib
    import inspect

    try:
        signature = inspect.signature(workflow.func)
    except (TypeError, ValueError):
        return ""
    kinds = {name: parameter.kind for name, parameter in signature.parameters.items()}
    takes = f"; it takes {signature.replace(return_annotation=inspect.Signature.empty)}"
    if isinstance(value, list):
        by_name = inspect.Parameter.KEYWORD_ONLY in kinds.values()
        return takes + (", some of it by name only: give an object" if by_name else "")
    if inspect.Parameter.VAR_KEYWORD not in kinds.values():
        for name in value:
            if name not in kinds:
                close = difflib.get_close_matches(name, kinds, n=1)
                takes += f" and not {name!r}" + (f" (did you mean {close[0]!r}?)" if close else "")
    return takes
