"""The settings a process reads from its environment, in one place.

The model is a pydantic-settings one, whose import costs more than everything else here together: it is loaded only
where a variable is set.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from everstep.errors import ConfigurationError

Synchronous: TypeAlias = Literal["NORMAL", "FULL"]

PREFIX: Final = "EVERSTEP_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What variables that begin with ``EVERSTEP_`` say.

    Attributes:
        db: the SQLite file of the embedded backend (``EVERSTEP_DB``).
        synchronous: ``NORMAL`` keeps every committed turn when a process is killed, ``FULL`` also when the power fails
            (``EVERSTEP_SYNCHRONOUS``).
    """

    db: Path = Path(".everstep/runs.db")
    synchronous: Synchronous = "NORMAL"


def read_settings() -> Settings:
    """The settings, or a `ConfigurationError` that names the variable."""
    if not any(name.upper().startswith(PREFIX) for name in os.environ):
        return Settings()

    from pydantic import ValidationError
    from pydantic_settings import BaseSettings, SettingsConfigDict

    class Environment(BaseSettings):
        model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore")

        db: Path = Settings().db
        synchronous: Synchronous = "NORMAL"

    try:
        read = Environment()
    except ValidationError as error:
        problem = error.errors()[0]
        variable = PREFIX + "_".join(str(part) for part in problem["loc"]).upper()
        raise ConfigurationError(f"{variable}={problem['input']!r}: {problem['msg']}") from None
    return Settings(db=read.db, synchronous=read.synchronous)
