"""Tokens of hooks in DynamoDB: one item each, under a partition key of its own."""

from __future__ import annotations

from typing import final

from everstep.backends.aws.blobs import INLINE, S3Blobs
from everstep.backends.aws.items import Item, hook_key, n, s, text_in, valid
from everstep.backends.aws.table import DynamoTable
from everstep.codec.envelope import seal, unseal
from everstep.ports import HookClaim


@final
class DynamoHookRegistry:
    """Implements `everstep.ports.HookRegistry`."""

    def __init__(self, table: DynamoTable, blobs: S3Blobs) -> None:
        self._table = table
        self._blobs = blobs

    def claim(self, claim: HookClaim) -> HookClaim | None:
        """As the port says. One request; 1 WRU for each KB, refused as well.

        The refusal brings the claim that stands, so a request that was repeated after its answer was lost finds itself.
        """
        item = hook_key(claim.token) | {
            "token": s(valid(claim.token)),
            "run": s(claim.run_id),
            "op": n(claim.op),
            "root": s(claim.root_id),
            "workflow": s(valid(claim.workflow)),
            "opened": n(claim.opened_at),
        }
        if claim.kind:
            item["kind"] = s(valid(claim.kind))
        if claim.webhook:
            item["webhook"] = n(1)
        for name, payload in (("metadata", claim.metadata), ("answer", claim.answer)):
            if payload is not None:
                item[name] = self._blobs.hold(claim.run_id, f"hook-{name}", seal(payload), inline=INLINE)
        refusal = self._table.put_new(item)
        while refusal is not None and not refusal.item:  # given free before it could be read
            refusal = self._table.put_new(item)
        if refusal is None:
            return None
        held = self._claim_of(refusal.item)
        return None if (held.run_id, held.op) == (claim.run_id, claim.op) else held

    def find(self, token: str) -> HookClaim | None:
        """As the port says. One request, 1 RRU for each 4 KB."""
        item = self._table.get(hook_key(token))
        return None if item is None else self._claim_of(item)

    def release(self, token: str, *, run_id: str, op: int) -> None:
        """As the port says. One request, 1 WRU for each KB, refused as well."""
        self._table.delete_if(
            hook_key(token), "#run = :run AND #op = :op", {":run": s(run_id), ":op": n(op)}, run="run", op="op"
        )

    def _claim_of(self, item: Item) -> HookClaim:
        def payload(name: str) -> bytes | None:
            value = item.get(name)
            return None if value is None else unseal(self._blobs.held(value))

        return HookClaim(
            token=str(item["token"]["S"]),
            run_id=str(item["run"]["S"]),
            op=int(item["op"]["N"]),
            root_id=str(item["root"]["S"]),
            workflow=str(item["workflow"]["S"]),
            opened_at=int(item["opened"]["N"]),
            kind=text_in(item, "kind") or "",
            webhook="webhook" in item,
            metadata=payload("metadata"),
            answer=payload("answer"),
        )
