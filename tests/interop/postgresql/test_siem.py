"""Detection on PostgreSQL: the recorded attack, the checkpoint's fence, and who may speak of whom."""

from tests.siem_rules.conftest import open_rt  # noqa: F401
from tests.siem_rules.test_detector import (  # noqa: F401
    test_alert_tells_why,
    test_detector_that_was_replaced_writes_nothing,
    test_sent_twice_raises_once,
)
from tests.siem_rules.test_framing import (  # noqa: F401
    test_late_line_that_joins_two_episodes_leaves_one_alert,
    test_second_independent_source_is_told,
)
from tests.siem_rules.test_killed import test_killed_detector_loses_and_doubles_nothing  # noqa: F401
