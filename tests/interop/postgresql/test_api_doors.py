"""The doors on PostgreSQL: idempotent writes that race, quarantine, and stale trust."""

from tests.api.conftest import doors, town  # noqa: F401
from tests.api.test_device_access import (  # noqa: F401
    test_a_connection_subscribes_before_its_row_is_read,
    test_a_revocation_after_the_row_was_read_still_refuses,
    test_quarantine_closes_open_connections_and_holds_against_resumption,
)
from tests.api.test_people import (  # noqa: F401
    test_a_repeated_write_is_done_once,
    test_racing_writes_with_one_key_are_done_once,
    web,
)
from tests.api.test_trustwatch import (  # noqa: F401
    test_a_door_behind_the_pruning_loads_beside_its_view_which_goes_on_refusing,
    test_a_starting_door_lets_nobody_in_before_its_first_view,
)
