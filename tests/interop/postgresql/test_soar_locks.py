"""Lock order on PostgreSQL (issue 6, must show 1)."""

from tests.soar_playbooks.test_lock_order import *  # noqa: F403
from tests.soar_playbooks.test_lock_order import settings  # noqa: F401
