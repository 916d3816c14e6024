"""Pages of a list that is ordered by creation time and run id: limits and cursors."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Final

from everstep.core.history import Micros
from everstep.errors import ConfigurationError

MOST: Final = 1000


def check_limit(limit: int) -> None:
    if not 1 <= limit <= MOST:
        raise ConfigurationError(f"limit must be from 1 to {MOST}, not {limit}; the rest is on the next pages")


def to_cursor(created_at: Micros, run_id: str) -> str:
    """Where a page ended: the next one begins after this run."""
    return base64.urlsafe_b64encode(json.dumps([created_at, run_id]).encode()).decode()


def from_cursor(cursor: str) -> tuple[Micros, str]:
    """The opposite of `to_cursor`. Raises `ConfigurationError` for anything else."""
    try:
        match json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True)):
            case [int(created_at), str(run_id)]:
                return created_at, run_id
    except (binascii.Error, ValueError, RecursionError):
        pass
    raise ConfigurationError(
        f"the cursor {cursor[:80]!r} is not one of ours. Give the cursor of the previous page, or none for the first."
    )
