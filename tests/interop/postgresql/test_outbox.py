"""The outbox on PostgreSQL."""

from tests.lachan.test_outbox import *  # noqa: F403
