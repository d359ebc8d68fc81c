"""The storm of tests/api/test_load.py, on PostgreSQL."""

from tests.api.conftest import town  # noqa: F401
from tests.api.test_load import test_the_tutorial_pattern_fails_the_same_test, test_two_hundred_connections  # noqa: F401
