"""A hook as the body sees it: a token by which others send payloads to the run."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from everstep.errors import HookConflictError, HookDisposedError

if TYPE_CHECKING:
    from everstep.core.replay import Replay


class Hook:
    """An open hook. Payloads wait in order until the body asks for the next one.

    Its hash is a counter, so that a set of hooks is iterated in the same order on every replay.
    """

    def __init__(
        self,
        run: Replay,
        token: str,
        *,
        decode: Callable[[bytes], Any],
        kind: str = "",
        webhook: bool = False,
        metadata: bytes | None = None,
        answer: bytes | None = None,
    ) -> None:
        self._run = run
        self._number = run.loop.next_number()
        self.token = token
        self.kind = kind
        self.webhook = webhook
        self.metadata = metadata
        self.answer = answer
        self.op = -1
        self.opened_in = -1
        self.closed = False
        self.confirmed = False
        self.holder: str | None = None
        self._decode = decode
        self._payloads: deque[bytes] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._asking: list[asyncio.Future[None]] = []

    def __hash__(self) -> int:
        return self._number

    def __repr__(self) -> str:
        return f"<hook {self.token!r}>"

    # --- what the body does ----------------------------------------------------------------------

    async def next(self) -> Any:
        """The next payload, in the order in which they came."""
        while not self._payloads:
            if self.holder is not None:
                raise HookConflictError(self.token, self.holder)
            if self.closed:
                raise HookDisposedError(self.token)
            waiter = self._run.loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except BaseException:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                if self._payloads:  # it was woken for one, and does not take it
                    self._wake_one()
                raise
        with self._run.loop.trusting:
            return self._decode(self._payloads.popleft())

    async def conflict(self) -> str | None:
        """The run that has the token; None when it is this one."""
        while not self.confirmed and self.holder is None:
            if self.closed:
                raise HookDisposedError(self.token)
            waiter = self._run.loop.create_future()
            if not self._asking:
                self._run.confirm_hook(self)
            self._asking.append(waiter)
            await waiter
        return self.holder

    def dispose(self) -> None:
        """Take nothing any more, not even what has come and was not asked for, and give the token free."""
        if self.closed or self._run.loop.discarded:
            return
        self.closed = True
        self._payloads.clear()
        self._run.close_hook(self)
        self._wake_all()
        self._answer()

    # --- what arrives ----------------------------------------------------------------------------

    def receive(self, payload: bytes) -> None:
        self._payloads.append(payload)
        self._wake_one()
        if not self.confirmed:  # where payloads come, the token is its own
            self.confirm(None)

    def confirm(self, holder: str | None) -> None:
        self.confirmed = holder is None
        self.holder = holder
        if holder is not None:
            self._run.close_hook(self)
            self._wake_all()
        self._answer()

    def _answer(self) -> None:
        asking, self._asking = self._asking, []
        for waiter in asking:
            if not waiter.done():
                waiter.set_result(None)

    def _wake_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _wake_all(self) -> None:
        while self._waiters:
            self._wake_one()
