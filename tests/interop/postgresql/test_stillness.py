"""Marks of stillness on PostgreSQL."""

from tests.lachan.test_stillness import *  # noqa: F403
