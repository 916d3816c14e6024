"""Find a run by its id, or by the beginning of its id."""

from __future__ import annotations

from typing import Final

from everstep.core.history import Micros
from everstep.core.ids import is_run_id
from everstep.core.run import RunRecord
from everstep.errors import ConfigurationError
from everstep.ports import RunQuery
from everstep.runtime.connection import Connection

PREFIX: Final = "wrun_"
SHORTEST: Final = 4
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_TIME_CHARACTERS: Final = 10
_PAGE: Final = 1000


def find_run(connection: Connection, text: str, place: str) -> RunRecord:
    """The run with this id, or the only one whose id begins with it. `place` names the store in messages.

    Ids begin with the time of creation, so a beginning is looked for among the runs of that time; and, since ids of
    runs with an idempotency key do not, among the newest. That is two short reads and may miss such a run.
    """
    wanted = PREFIX + text.strip().upper().removeprefix(PREFIX.upper())
    if is_run_id(wanted):
        run = connection.backend.inspector.get_run(wanted)
        if run is None:
            raise ConfigurationError(f"there is no run {wanted} in {place}")
        return run
    letters = wanted.removeprefix(PREFIX)
    if len(letters) < SHORTEST or not set(letters) <= set(_ALPHABET) or len(letters) > 26:
        raise ConfigurationError(
            f"{text!r} is not a run id: those are 'wrun_' and 26 letters and digits, of which the first {SHORTEST} "
            f"or more may be enough; 'everstep inspect runs' lists them"
        )
    first, end = _created_between(letters)
    queries = (
        RunQuery(created_from=first, created_before=end, limit=_PAGE),
        RunQuery(limit=_PAGE),
    )
    found = {
        run.run_id: run
        for query in queries
        for run in connection.backend.inspector.list_runs(query).runs
        if run.run_id.startswith(wanted)
    }
    match list(found.values()):
        case []:
            raise ConfigurationError(f"no run id in {place} begins with {wanted!r}; 'everstep inspect runs' lists them")
        case [run]:
            return run
        case several:
            some = ", ".join(run.run_id for run in several[:3])
            raise ConfigurationError(f"{len(several)} run ids begin with {wanted!r}, such as {some}; give more of it")


def _created_between(letters: str) -> tuple[Micros, Micros]:
    """When the runs were made whose ids begin like this: from, and before."""
    known = letters[:_TIME_CHARACTERS]
    number = 0
    for letter in known:
        number = number * 32 + _ALPHABET.index(letter)
    span = 32 ** (_TIME_CHARACTERS - len(known))
    return number * span * 1000, min((number + 1) * span * 1000, (1 << 63) - 1)
