"""The contract of `everstep.ports.Inbox`."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from everstep.core.history import Event, RunStarted, StepCompleted, StepFailed, TimerFired
from everstep.ports import Backend, InboxEntry
from everstep.testing.contracts.samples import (
    MINUTE,
    NOW,
    Contract,
    entry,
    in_other_thread,
    race,
    run_id,
    run_record,
)

RUN = run_id()


class InboxContract(Contract):
    # --- deposit and remove ------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "event",
        [
            RunStarted(),
            StepCompleted(op=3, attempt=2, result=bytes(range(256))),
            StepFailed(op=4, attempt=1, error=b"{}"),
            TimerFired(op=5),
        ],
    )
    def test_deposit_keeps_the_event(self, backend: Backend, event: Event) -> None:
        deposited = InboxEntry(key="kéy/1", event=event)
        assert backend.inbox.deposit(RUN, deposited) is True
        assert _inbox(backend) == [deposited]

    def test_deposit_of_a_known_key_changes_nothing(self, backend: Backend) -> None:
        backend.inbox.deposit(RUN, entry(0, key="same"))
        assert backend.inbox.deposit(RUN, entry(1, key="same")) is False
        assert _inbox(backend) == [entry(0, key="same")]

    def test_deposit_keys_belong_to_a_run(self, backend: Backend) -> None:
        assert backend.inbox.deposit(run_id(1), entry()) is True
        assert backend.inbox.deposit(RUN, entry()) is True

    def test_entries_are_in_the_order_of_deposit(self, backend: Backend) -> None:
        keys = [f"{number * 7919 % 50:02d}" for number in range(50)]
        for key in keys:
            backend.inbox.deposit(RUN, entry(key=key))
        assert [item.key for item in _inbox(backend)] == keys

    def test_order_survives_removals(self, backend: Backend) -> None:
        for key in "cab":
            backend.inbox.deposit(RUN, entry(key=key))
        backend.inbox.remove(RUN, ["b"])
        for key in "ad":
            backend.inbox.deposit(RUN, entry(key=key))
        backend.inbox.deposit(RUN, entry(key="b"))
        assert [item.key for item in _inbox(backend)] == ["c", "a", "d", "b"]

    def test_deposit_has_one_winner(self, backend: Backend) -> None:
        results = race(8, lambda number: backend.inbox.deposit(RUN, entry(number, key="same")))
        assert sorted(results) == [False] * 7 + [True]
        assert _inbox(backend) == [entry(results.index(True), key="same")]

    def test_deposits_of_many_threads_all_arrive(self, backend: Backend) -> None:
        def work(worker: int) -> None:
            for number in range(20):
                assert backend.inbox.deposit(RUN, entry(number, key=f"{worker}/{number}")) is True

        race(4, work)
        keys = [item.key for item in _inbox(backend)]
        assert len(keys) == len(set(keys)) == 80
        for worker in range(4):  # and each thread's own in its order
            assert [key for key in keys if key.startswith(f"{worker}/")] == [f"{worker}/{n}" for n in range(20)]

    def test_remove_takes_only_the_named_entries(self, backend: Backend) -> None:
        for number in range(5):
            backend.inbox.deposit(RUN, entry(number))
            backend.inbox.deposit(run_id(1), entry(number))
        backend.inbox.remove(RUN, [entry(1).key, entry(3).key])
        assert _inbox(backend) == [entry(0), entry(2), entry(4)]
        assert _inbox(backend, 1) == [entry(number) for number in range(5)]

    @pytest.mark.parametrize("keys", [[], ["unknown"], ["unknown", "too"], [entry().key, "unknown"], [entry().key] * 2])
    def test_remove_of_what_is_not_there_is_no_error(self, backend: Backend, keys: Sequence[str]) -> None:
        backend.inbox.deposit(RUN, entry())
        backend.inbox.remove(RUN, keys)
        backend.inbox.remove(RUN, keys)
        assert _inbox(backend) == ([] if entry().key in keys else [entry()])

    def test_a_removed_key_may_come_again(self, backend: Backend) -> None:
        backend.inbox.deposit(RUN, entry())
        backend.inbox.remove(RUN, [entry().key])
        assert backend.inbox.deposit(RUN, entry()) is True

    # --- the wake flag -----------------------------------------------------------------------------

    def test_a_flag_is_off_at_first(self, backend: Backend) -> None:
        assert backend.inbox.raise_flag(RUN, now=NOW) is True

    def test_a_raised_flag_stays_on(self, backend: Backend) -> None:
        backend.inbox.raise_flag(RUN, now=NOW)
        assert backend.inbox.raise_flag(RUN, now=NOW) is False
        assert backend.inbox.raise_flag(RUN, now=NOW + MINUTE - 1) is False

    def test_a_lowered_flag_can_be_raised(self, backend: Backend) -> None:
        backend.inbox.raise_flag(RUN, now=NOW)
        backend.inbox.lower_flag(RUN)
        assert backend.inbox.raise_flag(RUN, now=NOW) is True

    def test_lowering_what_is_off_is_no_error(self, backend: Backend) -> None:
        backend.inbox.lower_flag(RUN)
        backend.inbox.lower_flag(RUN)
        assert backend.inbox.raise_flag(RUN, now=NOW) is True

    def test_a_flag_of_a_minute_ago_counts_as_off(self, backend: Backend) -> None:
        backend.inbox.raise_flag(RUN, now=NOW)
        assert backend.inbox.raise_flag(RUN, now=NOW + MINUTE) is True
        assert backend.inbox.raise_flag(RUN, now=NOW + MINUTE + 1) is False

    def test_a_refused_raise_does_not_lengthen_the_minute(self, backend: Backend) -> None:
        backend.inbox.raise_flag(RUN, now=NOW)
        backend.inbox.raise_flag(RUN, now=NOW + MINUTE // 2)
        assert backend.inbox.raise_flag(RUN, now=NOW + MINUTE) is True

    def test_a_clock_that_went_back_leaves_the_flag_on(self, backend: Backend) -> None:
        backend.inbox.raise_flag(RUN, now=NOW)
        assert backend.inbox.raise_flag(RUN, now=NOW - MINUTE) is False

    def test_flags_belong_to_a_run(self, backend: Backend) -> None:
        backend.inbox.raise_flag(RUN, now=NOW)
        assert backend.inbox.raise_flag(run_id(1), now=NOW) is True
        backend.inbox.lower_flag(run_id(1))
        assert backend.inbox.raise_flag(RUN, now=NOW) is False

    def test_one_of_many_raises_the_flag(self, backend: Backend) -> None:
        for _ in range(5):
            assert sorted(race(8, lambda _: backend.inbox.raise_flag(RUN, now=NOW))) == [False] * 7 + [True]
            backend.inbox.lower_flag(RUN)

    def test_a_flag_is_seen_by_other_threads(self, backend: Backend) -> None:
        backend.inbox.raise_flag(RUN, now=NOW)
        assert in_other_thread(lambda: backend.inbox.raise_flag(RUN, now=NOW)) is False


def _inbox(backend: Backend, number: int = 0) -> list[InboxEntry]:
    backend.runs.create(run_record(number))
    snapshot = backend.runs.load(run_id(number))
    assert snapshot is not None
    return list(snapshot.inbox)
