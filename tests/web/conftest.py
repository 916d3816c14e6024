"""What the tests of the HTTP API share."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.web.behaviour", "tests.web.reader", "tests.web.site")
