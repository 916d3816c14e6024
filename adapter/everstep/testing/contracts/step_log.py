"""The contract of `everstep.ports.StepLog`."""

from __future__ import annotations

from functools import partial

from everstep.ports import Backend, FailedAttempt
from everstep.testing.contracts.samples import NOW, SECOND, Contract, in_other_thread, race, run_id

RUN = run_id()


class StepLogContract(Contract):
    # --- failed attempts ---------------------------------------------------------------------------

    def test_record_keeps_every_field(self, backend: Backend) -> None:
        failed = _failed(2, 1, error=bytes(range(256)) * 10)
        backend.steps.record(RUN, failed)
        assert list(backend.steps.failed_attempts(RUN)) == [failed]

    def test_a_second_record_of_an_attempt_is_dropped(self, backend: Backend) -> None:
        backend.steps.record(RUN, _failed(0, 1, error=b'"first"'))
        backend.steps.record(RUN, _failed(0, 1, error=b'"second"'))
        assert list(backend.steps.failed_attempts(RUN)) == [_failed(0, 1, error=b'"first"')]

    def test_failed_attempts_are_by_operation_and_number(self, backend: Backend) -> None:
        for op, attempt in [(10, 1), (2, 11), (2, 2), (10, 3), (2, 1), (1, 1)]:
            backend.steps.record(RUN, _failed(op, attempt))
        found = [(failed.op, failed.attempt) for failed in backend.steps.failed_attempts(RUN)]
        assert found == [(1, 1), (2, 1), (2, 2), (2, 11), (10, 1), (10, 3)]

    def test_failed_attempts_belong_to_a_run(self, backend: Backend) -> None:
        backend.steps.record(RUN, _failed(0, 1))
        assert list(backend.steps.failed_attempts(run_id(1))) == []

    def test_records_of_many_threads_are_kept(self, backend: Backend) -> None:
        race(8, lambda number: backend.steps.record(RUN, _failed(0, number + 1)))
        assert [failed.attempt for failed in backend.steps.failed_attempts(RUN)] == list(range(1, 9))

    # --- claims ------------------------------------------------------------------------------------

    def test_a_claim_is_given_once(self, backend: Backend) -> None:
        assert backend.steps.claim(RUN, 3, 1) is True
        assert backend.steps.claim(RUN, 3, 1) is False
        assert in_other_thread(lambda: backend.steps.claim(RUN, 3, 1)) is False

    def test_a_claim_is_for_one_attempt_of_one_operation_of_one_run(self, backend: Backend) -> None:
        backend.steps.claim(RUN, 3, 1)
        assert backend.steps.claim(RUN, 3, 2) is True
        assert backend.steps.claim(RUN, 1, 3) is True
        assert backend.steps.claim(RUN, 4, 1) is True
        assert backend.steps.claim(run_id(1), 3, 1) is True

    def test_a_claim_has_one_winner(self, backend: Backend) -> None:
        for attempt in range(10):
            results = race(8, partial(_claim, backend, attempt))
            assert sorted(results) == [False] * 7 + [True]

    def test_claims_and_failed_attempts_do_not_meet(self, backend: Backend) -> None:
        backend.steps.record(RUN, _failed(0, 1))
        assert backend.steps.claim(RUN, 0, 1) is True
        assert backend.steps.claim(RUN, 0, 2) is True
        assert list(backend.steps.failed_attempts(RUN)) == [_failed(0, 1)]

    # --- wishes ------------------------------------------------------------------------------------

    def test_a_cancel_that_was_requested(self, backend: Backend) -> None:
        assert backend.steps.cancel_requested(RUN, 3) is False
        backend.steps.request_cancel(RUN, 3)
        backend.steps.request_cancel(RUN, 3)
        assert backend.steps.cancel_requested(RUN, 3) is True
        assert in_other_thread(lambda: backend.steps.cancel_requested(RUN, 3)) is True

    def test_a_cancel_is_for_one_operation_of_one_run(self, backend: Backend) -> None:
        backend.steps.request_cancel(RUN, 3)
        for op in (0, 1, 30, 33):
            assert backend.steps.cancel_requested(RUN, op) is False
        assert backend.steps.cancel_requested(run_id(1), 3) is False

    def test_a_cancel_is_neither_a_claim_nor_a_failed_attempt(self, backend: Backend) -> None:
        backend.steps.request_cancel(RUN, 3)
        assert backend.steps.claim(RUN, 3, 1) is True
        assert list(backend.steps.failed_attempts(RUN)) == []
        assert backend.runs.load(RUN) is None


def _claim(backend: Backend, attempt: int, racer: int) -> bool:
    return backend.steps.claim(RUN, 0, attempt)


def _failed(op: int, attempt: int, *, error: bytes = b'{"type":"ValueError"}') -> FailedAttempt:
    return FailedAttempt(
        op=op, attempt=attempt, started_at=NOW, ended_at=NOW + SECOND, error=error, retry_at=NOW + 3 * SECOND
    )
