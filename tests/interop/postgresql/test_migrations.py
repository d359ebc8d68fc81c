"""The same history on PostgreSQL."""

from tests.lachan.test_migrations import *  # noqa: F403
