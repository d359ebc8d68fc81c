"""Hostile lines against a real PostgreSQL, which keeps less in its texts than SQLite does."""

from tests.security.conftest import open_rt  # noqa: F401
from tests.security.test_hostile_lines import (  # noqa: F401
    test_a_finding_that_cannot_be_written_does_not_stop_the_others,
    test_a_nul_in_a_line_is_kept_as_something_that_every_database_keeps,
)
from tests.security.test_release_and_floods import (  # noqa: F401
    test_agreeing_to_release_from_less_is_not_agreeing_to_release_from_more,
    test_renewing_without_end_is_refused,
    test_who_asked_for_it_cannot_release_it_after_somebody_asked_for_more,
)
