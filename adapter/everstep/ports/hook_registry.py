"""The port for tokens: which run waits under which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from everstep.core.history import Micros


@dataclass(frozen=True, slots=True, kw_only=True)
class HookClaim:
    """An open hook, by its token.

    Attributes:
        root_id: the family of its run.
        workflow: the workflow of its run.
        kind: the name of the payload's class; empty for any.
        webhook: whether it takes HTTP requests from whoever knows the token.
        metadata: encoded, for who looks the hook up.
        answer: of a webhook: the encoded response its callers get at once; None where a step answers each.
    """

    token: str
    run_id: str
    op: int
    root_id: str
    workflow: str
    opened_at: Micros
    kind: str = ""
    webhook: bool = False
    metadata: bytes | None = None
    answer: bytes | None = None


class HookRegistry(Protocol):
    """Tokens and the hooks they belong to. A token has one hook at a time. Reads are strongly consistent."""

    def claim(self, claim: HookClaim) -> HookClaim | None:
        """Store the claim if its token is free. None when it is now this hook's, else the claim that stands.

        A token that this very hook (run and operation) has already stays as it was claimed first, and the answer is
        None.
        """
        ...

    def find(self, token: str) -> HookClaim | None:
        """The claim on a token."""
        ...

    def release(self, token: str, *, run_id: str, op: int) -> None:
        """Give the token free if this hook has it; else nothing."""
        ...
