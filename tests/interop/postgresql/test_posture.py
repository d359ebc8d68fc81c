"""Posture on PostgreSQL: where databases differ (races, JSON, counting, expiry)."""

from tests.posture.conftest import bad, cameras  # noqa: F401
from tests.posture.test_engagements import test_asked_approved_and_told  # noqa: F401
from tests.posture.test_service import (  # noqa: F401
    test_an_assessment_is_one_event_over_a_tree,
    test_asked_for_over_the_worker,
    test_counts_show_unknown_beside_fail,
    test_expired_evidence_is_stale_and_told,
    test_racing_assessments_leave_one_set_of_verdicts,
)
