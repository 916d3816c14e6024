"""Find the user's app: ``module:workflow``, ``path/to/app.py:workflow``, and the same for a whole app.

Importing runs the user's code: what goes wrong in it is shown as it is, and told apart from a module that is not there.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Final

from everstep.app import Step, Workflow, Workflows
from everstep.core.attributes import MAX_VALUE_BYTES
from everstep.core.lint import DeterminismWarning
from everstep.errors import ConfigurationError, EverstepError

APP_ATTRIBUTE: Final = "$app"
"""The attribute of a run that says what `resume` is to import."""

_SHOWN_FRAMES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A workflow that was asked for, what to call its app the next time, and what was found suspicious in its body."""

    workflow: Workflow[Any, Any]
    app: str
    warnings: Sequence[str]

    @property
    def attributes(self) -> dict[str, str]:
        """What the run is to remember; nothing when it does not fit into an attribute."""
        return {APP_ATTRIBUTE: self.app} if len(self.app.encode()) <= MAX_VALUE_BYTES else {}


def load_target(text: str) -> Target:
    """Import ``module:workflow`` or ``path/to/app.py:workflow``; a variable or a registered name will do."""
    place, name = _split(text)
    module, warned = _import(place)
    workflow = _find_workflow(module, place, name)
    concerned = [each for each in warned if f"workflow {workflow.name!r} " in each]
    return Target(workflow=workflow, app=_app_text(module, place, workflow), warnings=concerned)


def load_app(text: str) -> tuple[Workflows, Sequence[str]]:
    """Import ``module`` or ``path/to/app.py``, optionally with ``:attribute``, and find its `Workflows` object.

    Returns:
        The object, and what was found suspicious in its workflows.
    """
    place, name = _split(text)
    module, warned = _import(place)
    return _find_app(module, place, name), warned


def _find_app(module: ModuleType, place: str, name: str) -> Workflows:
    apps = _apps_of(module)
    if name:
        value = getattr(module, name, None)
        if isinstance(value, Workflows):
            return value
        if isinstance(value, Workflow):
            return value.app
        named = [app for app in apps.values() if name in app.workflows]
        if named:
            return named[0]
        raise ConfigurationError(
            f"{place!r} has no Workflows object {name!r}{_alternatives(name, apps, 'Workflows objects')}"
        )
    distinct = {id(app): app for app in apps.values()}
    if not distinct:
        distinct = {id(workflow.app): workflow.app for workflow in _workflows_of(module).values()}
    match list(distinct.values()):
        case []:
            raise ConfigurationError(
                f"{place!r} has no Workflows object; an app module has a line such as 'wf = Workflows()'"
            )
        case [app]:
            return app
        case _:
            choices = " or ".join(f"{place}:{name}" for name in apps)
            raise ConfigurationError(f"{place!r} has several Workflows objects; say which: {choices}")


# --- what was asked for ----------------------------------------------------------------------------


def _split(text: str) -> tuple[str, str]:
    """The module or file, and the name in it (empty if none is given)."""
    place, colon, name = text.rpartition(":")
    if not colon or name.endswith(".py"):
        place, name = text, ""
    if not place:
        raise ConfigurationError(f"{text!r} names no module: write module:workflow or path/to/app.py:workflow")
    return place, name


def _is_file(place: str) -> bool:
    return place.endswith(".py") or "/" in place or os.sep in place


def _app_text(module: ModuleType, place: str, workflow: Workflow[Any, Any]) -> str:
    """What `load_app` finds the workflow's app by. A file is named from the root, so that any folder will do."""
    stable = str(Path(place).resolve()) if _is_file(place) else place
    apps = _apps_of(module)
    names = [name for name, app in apps.items() if app is workflow.app]
    if names and len({id(app) for app in apps.values()}) == 1:
        return stable
    return f"{stable}:{names[0] if names else workflow.name}"


def _find_workflow(module: ModuleType, place: str, name: str) -> Workflow[Any, Any]:
    known = _workflows_of(module)
    if not name:
        raise ConfigurationError(f"say which workflow to run{_listed(place, known)}")
    value = getattr(module, name, None)
    if isinstance(value, Workflow):
        return value
    registered = {id(app): app.workflows[name] for app in _apps_of(module).values() if name in app.workflows}
    match list(registered.values()):
        case [found]:
            return found
        case [_, _, *_]:
            raise ConfigurationError(
                f"several apps in {place!r} have a workflow called {name!r}; give its variable's name"
            )
    if isinstance(value, Step):
        raise ConfigurationError(f"{place}:{name} is a step; a step is run by a workflow{_listed(place, known)}")
    if callable(value):
        raise ConfigurationError(
            f"{place}:{name} is a plain {'class' if isinstance(value, type) else 'function'}, not a workflow: "
            f"put @wf.workflow on it{_listed(place, known)}"
        )
    if value is not None:
        raise ConfigurationError(f"{place}:{name} is not a workflow but {type(value).__name__}{_listed(place, known)}")
    if not known and hasattr(module, "__path__"):
        raise ConfigurationError(
            f"{place!r} is a package without workflows of its own; name a module in it: {place}.module:{name}"
        )
    raise ConfigurationError(f"{place!r} has no workflow {name!r}{_alternatives(name, known, 'workflows')}")


def _listed(place: str, known: Iterable[str]) -> str:
    names = list(known)
    if not names:
        return f"; {place!r} declares no workflow"
    return f"; there is {', '.join(f'{place}:{name}' for name in names[:10])}{' and others' if len(names) > 10 else ''}"


def _alternatives(name: str, known: Iterable[str], what: str) -> str:
    names = list(known)
    if not names:
        return f"; it has no {what} at all"
    close = difflib.get_close_matches(name, names, n=1)
    others = ", ".join(names[:10]) + (" and others" if len(names) > 10 else "")
    return f"; did you mean {close[0]!r}? It has {others}" if close else f"; it has {others}"


def _apps_of(module: ModuleType) -> dict[str, Workflows]:
    return {name: value for name, value in vars(module).items() if isinstance(value, Workflows)}


def _workflows_of(module: ModuleType) -> dict[str, Workflow[Any, Any]]:
    """The workflows a target can name: variables of the module, and what its apps have registered."""
    found = {name: value for name, value in vars(module).items() if isinstance(value, Workflow)}
    registered = {id(workflow.func) for workflow in found.values()}
    for app in _apps_of(module).values():
        found.update(
            (n, each) for n, each in app.workflows.items() if id(each.func) not in registered and n not in found
        )
    return found


# --- importing -------------------------------------------------------------------------------------


def _import(place: str) -> tuple[ModuleType, Sequence[str]]:
    """The module, and the warnings about workflow bodies: whoever runs these shows them."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DeterminismWarning)
            module = _import_file(place) if _is_file(place) else _import_module(place)
    except KeyboardInterrupt:
        raise
    except _Found as found:
        raise ConfigurationError(str(found)) from None
    except BaseException as error:
        raise _broken(place, error) from error
    suspicious = []
    for warning in caught:
        if issubclass(warning.category, DeterminismWarning):
            suspicious.append(str(warning.message))
        else:
            warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno, warning.file)
    return module, suspicious


class _Found(Exception):
    """What is wrong was found by us, before any code of the user's ran."""


def _import_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.replace("-", "_").split(".")):
        raise _Found(f"{name!r} is not the name of a module; write module:workflow or path/to/app.py:workflow")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if list(_user_frames(error.__traceback__)) or not error.name or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise _Found(
            f"there is no module {error.name!r} in {here} or on Python's path{_similar_module(name)}"
        ) from None


def _similar_module(name: str) -> str:
    here = Path.cwd()
    try:
        names = [each.stem for each in here.glob("*.py")] + [each.parent.name for each in here.glob("*/__init__.py")]
    except OSError:
        return ""
    close = difflib.get_close_matches(name, [each for each in names if each != "__init__"], n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return "; start in the folder that holds it, or give the file: path/to/app.py:workflow"


def _import_file(place: str) -> ModuleType:
    path = Path(place)
    if path.is_dir():
        raise _Found(f"{place!r} is a folder; give a file in it, or the package as a module: {path.name}:workflow")
    if not path.is_file():
        close = difflib.get_close_matches(path.name, [each.name for each in path.parent.glob("*.py")], n=1)
        raise _Found(
            f"there is no file {place!r}" + (f"; did you mean {str(path.with_name(close[0]))!r}?" if close else "")
        )
    if path.suffix != ".py":
        raise _Found(f"{place!r} is not a Python file: its name does not end in .py")
    path = path.resolve()
    name = path.stem
    loaded = sys.modules.get(name)
    if loaded is not None:
        if getattr(loaded, "__file__", None) == str(path):
            return loaded
        raise _Found(f"{place!r} cannot be imported as {name!r}: Python has a module of that name; rename the file")
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise _Found(f"{place!r} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _broken(place: str, error: BaseException) -> ConfigurationError:
    """Show where the user's code raised; the returned error is the line that follows."""
    frames = list(_user_frames(error.__traceback__))
    if isinstance(error, SystemExit):
        return ConfigurationError(
            f"importing {place!r} called sys.exit(); put what the file does as a script under "
            f"if __name__ == '__main__':"
        )
    where = f" ({_place(frames[-1].filename)}:{frames[-1].lineno})" if frames and frames[-1].lineno else ""
    if not isinstance(error, EverstepError):
        text = "".join([*traceback.format_list(frames[-_SHOWN_FRAMES:]), *traceback.format_exception_only(error)])
        print(text.rstrip(), file=sys.stderr)
        if isinstance(error, SyntaxError):
            where = f" ({_place(error.filename or place)}:{error.lineno})"
            return ConfigurationError(f"cannot import {place!r}: {type(error).__name__}: {error.msg}{where}")
    hint = ""
    if isinstance(error, ImportError) and "relative import" in str(error):
        hint = "; the file is part of a package: name it as a module from the folder above, package.module:workflow"
    return ConfigurationError(f"cannot import {place!r}: {type(error).__name__}: {error}{where}{hint}")


def _place(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def _user_frames(found: TracebackType | None) -> Iterator[traceback.FrameSummary]:
    """The frames of a traceback without Python's import machinery and without this package."""
    package = str(Path(__file__).resolve().parent.parent) + os.sep
    for frame in traceback.extract_tb(found):
        if not frame.filename.startswith(("<frozen", package)) and "importlib" not in Path(frame.filename).parts:
            yield frame
