"""The contract of `everstep.ports.HookRegistry`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from everstep.ports import Backend, HookClaim
from everstep.testing.contracts.samples import NOW, Contract, in_other_thread, race, run_id

SMALL = HookClaim(token="order-17", run_id=run_id(), op=3, root_id="wrun_root", workflow="orders", opened_at=NOW)
FULL = replace(
    SMALL,
    token="Zoë's token/with #all? of%20it 🎈",
    kind="Approval",
    webhook=True,
    metadata=b'{"a":[1,2]}',
    answer=bytes(range(256)),
)
OTHER_OP = replace(SMALL, op=4, opened_at=NOW + 1)
OTHER_RUN = replace(SMALL, run_id=run_id(1), opened_at=NOW + 1)


class HookRegistryContract(Contract):
    # --- claim and find ----------------------------------------------------------------------------

    @pytest.mark.parametrize("claim", [SMALL, FULL], ids=["small", "full"])
    def test_a_claim_keeps_every_field(self, backend: Backend, claim: HookClaim) -> None:
        assert backend.hooks.claim(claim) is None
        assert backend.hooks.find(claim.token) == claim

    def test_large_metadata_is_kept(self, backend: Backend) -> None:
        large = replace(FULL, metadata=b'"%b"' % (b"m" * 8_000), answer=bytes(range(256)) * 200)
        assert backend.hooks.claim(large) is None
        assert backend.hooks.find(large.token) == large
        assert backend.hooks.claim(replace(large, run_id=run_id(1))) == large

    def test_nobody_has_a_token_that_was_not_claimed(self, backend: Backend) -> None:
        assert backend.hooks.find("order-17") is None
        backend.hooks.claim(SMALL)
        for token in ("order-1", "order-177", "ORDER-17", "order-17 "):
            assert backend.hooks.find(token) is None

    @pytest.mark.parametrize("token", ["x" * 512, "\U0001f388" * 512, "a/b", "..", "%", "_", "'\"", "hook", "#"])
    def test_a_token_may_be_any_text(self, backend: Backend, token: str) -> None:
        claim = replace(SMALL, token=token)
        assert backend.hooks.claim(claim) is None
        assert backend.hooks.find(token) == claim
        assert backend.hooks.claim(replace(OTHER_RUN, token=token)) == claim
        backend.hooks.release(token, run_id=claim.run_id, op=claim.op)
        assert backend.hooks.find(token) is None

    @pytest.mark.parametrize("other", [OTHER_OP, OTHER_RUN], ids=["of the same run", "of another run"])
    def test_a_token_has_one_hook(self, backend: Backend, other: HookClaim) -> None:
        backend.hooks.claim(SMALL)
        assert backend.hooks.claim(other) == SMALL
        assert backend.hooks.find(SMALL.token) == SMALL

    def test_claiming_again_changes_nothing(self, backend: Backend) -> None:
        backend.hooks.claim(SMALL)
        assert backend.hooks.claim(replace(SMALL, opened_at=NOW + 5, metadata=b"1")) is None
        assert backend.hooks.find(SMALL.token) == SMALL

    def test_a_claim_is_seen_by_others_at_once(self, backend: Backend) -> None:
        backend.hooks.claim(SMALL)
        assert in_other_thread(partial(backend.hooks.find, SMALL.token)) == SMALL
        assert in_other_thread(partial(backend.hooks.claim, OTHER_RUN)) == SMALL

    def test_a_race_has_one_winner(self, backend: Backend) -> None:
        for number in range(10):
            claims = [replace(SMALL, token=f"t{number}", run_id=run_id(racer)) for racer in range(8)]
            found = race(8, partial(_claim, backend, claims))
            [winner] = [racer for racer, held in enumerate(found) if held is None]
            assert [held for held in found if held is not None] == [claims[winner]] * 7

    # --- release -----------------------------------------------------------------------------------

    def test_a_token_that_was_released_is_free(self, backend: Backend) -> None:
        backend.hooks.claim(SMALL)
        backend.hooks.release(SMALL.token, run_id=SMALL.run_id, op=SMALL.op)
        assert backend.hooks.find(SMALL.token) is None
        assert backend.hooks.claim(OTHER_RUN) is None
        assert backend.hooks.find(SMALL.token) == OTHER_RUN

    @pytest.mark.parametrize("other", [OTHER_OP, OTHER_RUN], ids=["of the same run", "of another run"])
    def test_only_its_own_hook_releases_a_token(self, backend: Backend, other: HookClaim) -> None:
        backend.hooks.claim(SMALL)
        backend.hooks.release(SMALL.token, run_id=other.run_id, op=other.op)
        assert backend.hooks.find(SMALL.token) == SMALL

    def test_releasing_what_is_not_there_is_no_error(self, backend: Backend) -> None:
        for _ in range(2):
            backend.hooks.release(SMALL.token, run_id=SMALL.run_id, op=SMALL.op)
        backend.hooks.claim(SMALL)
        for _ in range(2):
            backend.hooks.release(SMALL.token, run_id=SMALL.run_id, op=SMALL.op)
        assert backend.hooks.find(SMALL.token) is None

    def test_releases_and_claims_in_a_race(self, backend: Backend) -> None:
        """Whoever finds the token free has it, and nobody takes it away from another."""

        def use(number: int) -> int:
            mine = replace(SMALL, run_id=run_id(number))
            times = 0
            while times < 5:
                if backend.hooks.claim(mine) is None:
                    assert backend.hooks.find(mine.token) == mine
                    backend.hooks.release(mine.token, run_id=run_id(number + 1), op=mine.op)
                    assert backend.hooks.find(mine.token) == mine
                    backend.hooks.release(mine.token, run_id=mine.run_id, op=mine.op)
                    times += 1
            return times

        assert race(3, use) == [5, 5, 5]


def _claim(backend: Backend, claims: list[HookClaim], racer: int) -> HookClaim | None:
    return backend.hooks.claim(claims[racer])
