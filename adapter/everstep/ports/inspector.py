"""The port for people who look: lists and whole runs. Never used for decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from everstep.core.history import Micros, Turn
from everstep.core.run import RunRecord, RunStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuery:
    """Which runs to list: all conditions must hold. Newest first.

    Attributes:
        status: as shown, so ``parked`` finds runs with a problem and ``running`` those without.
        cursor: from the previous page.
        limit: 1 to 1000.
    """

    workflow: str | None = None
    status: RunStatus | None = None
    created_from: Micros | None = None
    created_before: Micros | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    cursor: str | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """One page of a list. ``cursor`` is None on the last."""

    runs: Sequence[RunRecord]
    cursor: str | None


class Inspector(Protocol):
    """Reading for people. May lag behind what was just written."""

    def list_runs(self, query: RunQuery) -> RunPage:
        """A page of runs. A cursor that is not ours is a `ConfigurationError`."""
        ...

    def get_run(self, run_id: str) -> RunRecord | None:
        """The record, or None."""
        ...

    def history(self, run_id: str) -> Sequence[Turn]:
        """All turns in order; empty when there are none."""
        ...

    def parked(self, *, not_by: str, limit: int = 100) -> Sequence[str]:
        """Ids of parked runs whose problem was found by another build than this one, longest parked first.

        `limit` is 1 to 1000.
        """
        ...

    def published(self, run_id: str) -> Mapping[str, bytes]:
        """The named values that the run has published, the newest of each. Empty when there is no such run."""
        ...
