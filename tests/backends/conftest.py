"""Before the test modules are imported: let the contract suite's asserts show both sides."""

import pytest

pytest.register_assert_rewrite("everstep.testing.contracts")
