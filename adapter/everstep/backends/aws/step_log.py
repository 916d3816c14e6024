"""What is known of steps beside their outcomes, in DynamoDB."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

from everstep.backends.aws.blobs import INLINE, S3Blobs
from everstep.backends.aws.items import FAILED, Item, cancel_key, claim_key, failed_key, key, n, s
from everstep.backends.aws.table import DynamoTable
from everstep.codec.envelope import seal, unseal
from everstep.ports import FailedAttempt


@final
class DynamoStepLog:
    """Implements `everstep.ports.StepLog`."""

    def __init__(self, table: DynamoTable, blobs: S3Blobs, nonce: Callable[[], str]) -> None:
        self._table = table
        self._blobs = blobs
        self._nonce = nonce

    def record(self, run_id: str, attempt: FailedAttempt) -> None:
        """As the port says. One request; 1 WRU for each KB."""
        item = key(run_id, failed_key(attempt.op, attempt.attempt)) | {
            "op": n(attempt.op),
            "attempt": n(attempt.attempt),
            "started": n(attempt.started_at),
            "ended": n(attempt.ended_at),
            "retry": n(attempt.retry_at),
            "error": self._blobs.hold(run_id, "failed", seal(attempt.error), inline=INLINE),
        }
        self._table.put_new(item)

    def claim(self, run_id: str, op: int, attempt: int) -> bool:
        """As the port says. One request, 1 WRU, refused as well; durable in several zones when it returns.

        A refusal by a claim with our own nonce means that an earlier try of this call had it.
        """
        nonce = s(self._nonce())
        refusal = self._table.put_new(key(run_id, claim_key(op, attempt)) | {"nonce": nonce})
        return refusal is None or refusal.item.get("nonce") == nonce

    def failed_attempts(self, run_id: str) -> Sequence[FailedAttempt]:
        """As the port says. One Query, strongly consistent."""
        found = self._table.query_run(run_id, "begins_with(sk, :prefix)", {":prefix": s(FAILED)})
        return sorted((self._attempt(item) for item in found), key=lambda failed: (failed.op, failed.attempt))

    def request_cancel(self, run_id: str, op: int) -> None:
        """As the port says. One request, 1 WRU, refused as well."""
        self._table.put_new(key(run_id, cancel_key(op)))

    def cancel_requested(self, run_id: str, op: int) -> bool:
        """As the port says. One request, 1 RRU."""
        return self._table.get(key(run_id, cancel_key(op)), only=["pk"]) is not None

    def _attempt(self, item: Item) -> FailedAttempt:
        return FailedAttempt(
            op=int(item["op"]["N"]),
            attempt=int(item["attempt"]["N"]),
            started_at=int(item["started"]["N"]),
            ended_at=int(item["ended"]["N"]),
            error=unseal(self._blobs.held(item["error"])),
            retry_at=int(item["retry"]["N"]),
        )
