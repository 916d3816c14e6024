"""The settings a process reads from its environment, in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from everstep.errors import ConfigurationError


class Settings(BaseSettings):
    """Read from variables that begin with ``EVERSTEP_``.

    Attributes:
        db: the SQLite file of the embedded backend (``EVERSTEP_DB``).
        synchronous: ``NORMAL`` keeps every committed turn when a process is killed, ``FULL`` also when the power fails.
    """

    model_config = SettingsConfigDict(env_prefix="EVERSTEP_", extra="ignore")

    db: Path = Path(".everstep/runs.db")
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL"


def read_settings() -> Settings:
    """The settings, or a `ConfigurationError` that names the variable."""
    try:
        return Settings()
    except ValidationError as error:
        problem = error.errors()[0]
        variable = "EVERSTEP_" + "_".join(str(part) for part in problem["loc"]).upper()
        raise ConfigurationError(f"{variable}={problem['input']!r}: {problem['msg']}") from None
