"""Tokens of hooks in SQLite."""

from __future__ import annotations

from typing import Final, final

from everstep.backends.sqlite.connection import SqliteDatabase
from everstep.backends.sqlite.run_rows import seal_optional
from everstep.codec.envelope import unseal
from everstep.ports import HookClaim

_COLUMNS: Final = "token, run_id, op, root_id, workflow, opened_at, kind, webhook, metadata, answer"
_CLAIM: Final = f"INSERT INTO hooks ({_COLUMNS}) VALUES ({', '.join('?' * 10)}) ON CONFLICT DO NOTHING"
_FIND: Final = f"SELECT {_COLUMNS} FROM hooks WHERE token = ?"
_RELEASE: Final = "DELETE FROM hooks WHERE token = ? AND run_id = ? AND op = ?"


@final
class SqliteHookRegistry:
    """Implements `everstep.ports.HookRegistry`."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    def claim(self, claim: HookClaim) -> HookClaim | None:
        row = (
            *(claim.token, claim.run_id, claim.op, claim.root_id, claim.workflow, claim.opened_at, claim.kind),
            *(int(claim.webhook), seal_optional(claim.metadata), seal_optional(claim.answer)),
        )
        with self._database.unit():  # so that nobody gives the token free between the two
            if self._database.write(_CLAIM, row) == 1:
                return None
            held = self.find(claim.token)
        return None if held is not None and (held.run_id, held.op) == (claim.run_id, claim.op) else held

    def find(self, token: str) -> HookClaim | None:
        rows = self._database.rows(_FIND, (token,))
        if not rows:
            return None
        token, run_id, op, root_id, workflow, opened_at, kind, webhook, metadata, answer = rows[0]
        return HookClaim(
            token=token,
            run_id=run_id,
            op=op,
            root_id=root_id,
            workflow=workflow,
            opened_at=opened_at,
            kind=kind,
            webhook=bool(webhook),
            metadata=None if metadata is None else unseal(metadata),
            answer=None if answer is None else unseal(answer),
        )

    def release(self, token: str, *, run_id: str, op: int) -> None:
        self._database.write(_RELEASE, (token, run_id, op))
