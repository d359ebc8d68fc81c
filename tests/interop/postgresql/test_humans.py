"""Four eyes of two humans, and tokens within their makers, on PostgreSQL."""

from tests.api.conftest import doors, town  # noqa: F401
from tests.security.test_humans import (  # noqa: F401
    closed,
    shell_town,
    test_a_person_approves_nothing_that_its_token_or_its_tokens_token_asked_for,
    test_no_token_outlives_outreaches_or_survives_the_one_that_made_it,
    test_what_a_shell_asked_for_is_its_persons_act,
)
