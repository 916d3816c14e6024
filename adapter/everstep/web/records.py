"""Events and commands of a history as models: one for each class in `everstep.core.history`, with the same fields."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias, Union, get_args

from pydantic import BaseModel, Field, create_model

from everstep.core.history import Command, Event, Turn
from everstep.web.models import Error, Payload, RunId
from everstep.web.shapes import Payloads, error_of, time_of

_PAYLOADS: Final = frozenset({"input", "result", "payload", "value", "metadata", "answer"})
_TIMES: Final = frozenset({"due", "start_at"})
_TYPES: Final[dict[str, Any]] = {
    "bool": bool,
    "int": int,
    "str": str,
    "str | None": str | None,
    "Mapping[str, str]": dict[str, str],
    "Mapping[str, str | None]": dict[str, str | None],
}


def _field(field: dataclasses.Field[Any]) -> Any:
    if field.name in _PAYLOADS:
        return Payload
    if field.name in _TIMES:
        return datetime | None if "None" in str(field.type) else datetime
    return Error if field.name == "error" else _TYPES[str(field.type)]


def _model(kind: type[Any]) -> type[BaseModel]:
    fields: dict[str, Any] = {"type": (Literal[kind.__name__], kind.__name__)}
    fields |= {field.name: (_field(field), ...) for field in dataclasses.fields(kind)}
    return create_model(kind.__name__, __doc__=kind.__doc__, **fields)


def _models(union: Any) -> dict[type[Any], type[BaseModel]]:
    return {kind: _model(kind) for kind in get_args(union)}


_EVENTS: Final = _models(Event)
_COMMANDS: Final = _models(Command)
_AnyEvent: TypeAlias = Annotated[Union[tuple(_EVENTS.values())], Field(discriminator="type")]  # type: ignore[valid-type]  # noqa: UP007
_AnyCommand: TypeAlias = Annotated[Union[tuple(_COMMANDS.values())], Field(discriminator="type")]  # type: ignore[valid-type]  # noqa: UP007


class TurnView(BaseModel):
    """A turn: what arrived, and what the body asked for in answer."""

    turn: int
    at: datetime
    build: str
    events: list[_AnyEvent]
    commands: list[_AnyCommand]


class History(BaseModel):
    """A page of a run's turns."""

    run_id: RunId
    turns: list[TurnView]
    next: int | None = Field(description="To be given as `first` for the next page. None on the last.")


def turn_view(turn: Turn, payloads: Payloads) -> TurnView:
    """A turn, for people and programs."""
    return TurnView(
        turn=turn.number,
        at=time_of(turn.at),
        build=turn.build,
        events=[_record(_EVENTS[type(event)], event, payloads) for event in turn.events],
        commands=[_record(_COMMANDS[type(command)], command, payloads) for command in turn.commands],
    )


def _record(model: type[BaseModel], record: Event | Command, payloads: Payloads) -> BaseModel:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.name in _PAYLOADS:
            value = payloads.show(value)
        elif field.name == "error":
            value = error_of(value)
        elif field.name in _TIMES and value is not None:
            value = time_of(value)
        found[field.name] = value
    return model(**found)
