"""Imports on PostgreSQL."""

from tests.lachan.test_importing import *  # noqa: F403
from tests.lachan.test_importing_killed import *  # noqa: F403
