"""Errors are an interface: they survive pickling and copying, and each names its page."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

import everstep
from everstep import errors

CLASSES = [each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, errors.EverstepError)]
SAMPLES = [
    errors.IdempotencyConflictError("key", "wrun_1", "input"),
    errors.WorkflowRunFailedError("wrun_1", ValueError("no"), error_code="x"),
    errors.WorkflowRunCancelledError("wrun_1", "why"),
    errors.WorkflowRunNotFoundError("wrun_1"),
    errors.WorkflowRunParkedError("wrun_1", "why"),
    errors.StepNotRegisteredError("pay"),
    errors.RetryableError("again", retry_after="5s"),
    errors.RemoteError("gone", name="lib.Error"),
    errors.FatalError("stop"),
    errors.StoreFormatError("not ours"),
    errors.TypeValidationError("parameter 'x'"),
]


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_errors_survive_pickling_and_copying(error, copied):
    again = copied(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert {k: str(v) for k, v in vars(again).items()} == {k: str(v) for k, v in vars(error).items()}
    assert str(again.__cause__) == str(error.__cause__)


def test_every_error_stands_in_the_tree_and_ends_in_error():
    for each in CLASSES:
        assert each.__name__.endswith("Error")
        assert f"── {each.__name__}" in errors.__doc__ or each is errors.EverstepError
        assert each.__name__ in everstep.__all__


def test_the_public_names_are_sorted_complete_and_there():
    assert everstep.__all__ == sorted(everstep.__all__)
    assert all(hasattr(everstep, name) for name in everstep.__all__)
    imported = {
        name for name, value in vars(everstep).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert imported == set(everstep.__all__)
