"""Detection on PostgreSQL: the recorded attack, the checkpoint's fence, and who may speak of whom."""

from tests.siem_rules.conftest import open_rt  # noqa: F401
from tests.siem_rules.test_contested import (  # noqa: F401
    enforcing,
    test_an_import_tells_of_collisions_once_a_chunk,
    test_decoys_of_a_manufacturer_hide_nobody,
    test_others_are_found_by_their_address_and_not_by_their_site,
    test_two_of_equal_worth_bind_nobody,
    test_where_its_certificate_was_used_binds_a_device_and_an_operators_entry_goes_before_it,
)
from tests.siem_rules.test_detector import (  # noqa: F401
    test_alert_tells_why,
    test_detector_that_was_replaced_writes_nothing,
    test_sent_twice_raises_once,
)
from tests.siem_rules.test_episodes import (  # noqa: F401
    moving,
    test_a_close_and_the_end_of_a_containment_cut,
    test_an_episode_that_goes_on_after_a_quiet_time_is_told_again,
    test_dates_make_no_alerts_and_delay_nobody,
    test_what_was_received_before_the_cut_joins_what_was_cut,
)
from tests.siem_rules.test_framing import (  # noqa: F401
    test_second_independent_source_is_told,
)
from tests.siem_rules.test_killed import test_killed_detector_loses_and_doubles_nothing  # noqa: F401
