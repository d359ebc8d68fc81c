"""Enrolment, status and races of the PKI on PostgreSQL."""

from tests.pki.test_enrolment import (  # noqa: F401
    test_a_contained_device_gets_nothing_and_after_release_everything_works,
    test_racing_uses_of_one_secret_give_one_certificate,
    test_the_same_key_within_ten_minutes_gets_the_same_certificate,
    test_wrong_secrets_are_rate_limited_per_device,
)
from tests.pki.test_race import *  # noqa: F403
from tests.pki.test_status import (  # noqa: F401
    test_a_change_makes_the_next_crl_due_at_once_and_numbers_only_grow,
    test_enforcement_point_holds_and_lifts_only_its_own,
    test_hold_release_revoke,
)
