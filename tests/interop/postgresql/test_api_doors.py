"""The doors on PostgreSQL: idempotent writes that race, quarantine, and stale trust."""

from tests.api.conftest import doors, town  # noqa: F401
from tests.api.test_device_access import (  # noqa: F401
    test_quarantine_closes_open_connections_and_holds_against_resumption,
)
from tests.api.test_people import (  # noqa: F401
    test_a_repeated_write_is_done_once,
    test_racing_writes_with_one_key_are_done_once,
    web,
)
