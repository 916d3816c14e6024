"""Find the app that the functions serve: ``module`` or ``path/to/app.py``, either with ``:attribute``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from everstep.app import Workflow, Workflows
from everstep.errors import ConfigurationError

VARIABLE = "EVERSTEP_APP"


def load_app(text: str | None) -> Workflows:
    """Import the app. What its own code raises while it is imported is raised as it is.

    Raises:
        ConfigurationError: there is no such module or file, or not exactly one app in it.
    """
    if not text:
        raise ConfigurationError(f"{VARIABLE} is not set: it names the module of your app, such as app or shop.app:wf")
    place, colon, name = text.rpartition(":")
    if not colon:
        place, name = text, ""
    if not place:
        raise ConfigurationError(f"{VARIABLE}={text!r} names no module: write app or app:wf")
    module_name = _module_of_file(place) if place.endswith(".py") else place
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the app is there; what it imports is not
        raise ConfigurationError(
            f"{VARIABLE}={text!r}: there is no module {error.name!r} in the function's code or its layers"
        ) from None
    apps = {key: value for key, value in vars(module).items() if isinstance(value, Workflows)}
    if name:
        value = getattr(module, name, None)
        if isinstance(value, Workflow):
            return value.app
        if not isinstance(value, Workflows):
            raise ConfigurationError(
                f"{VARIABLE}={text!r}: {place} has no Workflows object {name!r}, but {_names(apps)}"
            )
        return value
    found = {id(app): app for app in apps.values()}
    if not found:
        found = {id(value.app): value.app for value in vars(module).values() if isinstance(value, Workflow)}
    if len(found) != 1:
        raise ConfigurationError(
            f"{VARIABLE}={text!r}: {place} has {len(found)} Workflows objects"
            + (f"; say which: {place}:{next(iter(apps))}" if apps else "; an app has a line such as 'wf = Workflows()'")
        )
    return next(iter(found.values()))


def _module_of_file(place: str) -> str:
    path = Path(place).resolve()
    if not path.is_file():
        raise ConfigurationError(f"{VARIABLE}: there is no file {place!r} in the function's code")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    return path.stem


def _names(apps: dict[str, Workflows]) -> str:
    return ", ".join(apps) or "none at all"
