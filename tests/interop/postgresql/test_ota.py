"""Approvals, signing, refusals and delivery on PostgreSQL."""

from tests.ota_signing.conftest import house, quiet_house  # noqa: F401
from tests.ota_signing.test_city import (  # noqa: F401
    crowd,
    test_a_device_fetches_kilobytes_and_one_more_costs_one_bin,
)
from tests.ota_signing.test_delivery import (  # noqa: F401
    test_a_halted_release_vanishes_at_once_and_comes_back,
    test_reports_are_taken_once_and_move_the_registry,
)
from tests.ota_signing.test_killed import test_publishing_killed_at_any_step_leaves_the_old_or_the_new  # noqa: F401
from tests.ota_signing.test_publishing import (  # noqa: F401
    test_a_published_release_changed_by_hand_is_taken_out,
    test_approval_jobs_sign_and_publishing_lists,
)
from tests.ota_signing.test_releases import test_racing_approvals_are_all_counted  # noqa: F401
from tests.ota_signing.test_signing import (  # noqa: F401
    test_one_of_two_approvals_signs_nothing,
    test_rows_changed_together_are_refused,
)
from tests.support.signer import short_folder  # noqa: F401
