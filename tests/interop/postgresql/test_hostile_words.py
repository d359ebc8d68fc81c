"""What strangers write into the people door, on PostgreSQL, which keeps no NUL and no date before its first."""

from tests.api.conftest import doors, town  # noqa: F401
from tests.security.test_hostile_words import *  # noqa: F403
