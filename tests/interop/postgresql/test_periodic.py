"""What recurs, on PostgreSQL."""

from tests.lachan.test_periodic import *  # noqa: F403
