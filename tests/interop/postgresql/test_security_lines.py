"""Hostile lines against a real PostgreSQL, which keeps less in its texts than SQLite does."""

from tests.security.conftest import open_rt  # noqa: F401
from tests.security.test_hostile_lines import (  # noqa: F401
    test_a_finding_that_cannot_be_written_does_not_stop_the_others,
    test_a_nul_in_a_line_is_kept_as_something_that_every_database_keeps,
)
