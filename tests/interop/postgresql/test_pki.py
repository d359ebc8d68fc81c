"""Enrolment, status and races of the PKI on PostgreSQL."""

import pytest

from lachan import enforcement, prepared
from lachan.enforcement import Level
from lachan.runtime import Runtime
from tests.pki.test_authorities import test_a_second_authority_issues_and_the_first_goes_on  # noqa: F401
from tests.pki.test_crash import *  # noqa: F403
from tests.pki.test_crash import cutter  # noqa: F401
from tests.pki.test_crl import (  # noqa: F401
    small_pages,
    test_a_crl_larger_than_a_frame_is_published_and_served,
    test_a_database_that_went_back_is_read_whole,
    test_an_entry_stays_until_a_regular_crl_after_the_end,
    test_attempts_are_forgotten_by_pages,
    test_health_tells_of_a_crl_that_is_late_or_over,
    test_pages_follow_every_change,
    test_what_was_signed_and_never_recorded_is_revoked_everywhere,
)
from tests.pki.test_enrolment import (  # noqa: F401
    test_a_contained_device_gets_nothing_and_after_release_everything_works,
    test_racing_uses_of_one_secret_give_one_certificate,
    test_the_same_key_within_ten_minutes_gets_the_same_certificate,
    test_wrong_secrets_are_rate_limited_per_device,
)
from tests.pki.test_race import *  # noqa: F403
from tests.pki.test_replaced import *  # noqa: F403
from tests.pki.test_replaced import doors  # noqa: F401
from tests.pki.test_status import (  # noqa: F401
    enrolled,
    renewed,
    target,
    test_a_change_makes_the_next_crl_due_at_once_and_numbers_only_grow,
    test_a_device_has_a_bounded_number_of_certificates,
    test_enforcement_point_holds_and_lifts_only_its_own,
    test_every_certificate_of_a_device_is_held_and_lifted,
    test_hold_release_revoke,
)
from tests.pki.test_write_path import *  # noqa: F403


def test_a_hold_asks_the_database_no_oftener_for_more_certificates(
    signer_rt: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it lasts, others wait for the rows of the budgets and for the number of the next CRL."""
    asked: list[int] = []
    flush = prepared.flush

    def counted(driver, known, calls, **how):
        asked.append(len(calls))
        return flush(driver, known, calls, **how)

    monkeypatch.setattr(prepared, "flush", counted)
    point = enforcement.own(enforcement.points(signer_rt)["certificate-hold"])
    assert point is not None
    times = []
    for name, more in (("cam-1", 0), ("cam-2", 15)):
        cam, certificate = enrolled(signer_rt, name)
        for _ in range(more):
            renewed(signer_rt, cam, certificate)
        for level in (Level.QUARANTINE, None):
            asked.clear()
            done = signer_rt.db.run(
                lambda c, to=level, of=target(cam): point.join(signer_rt, c, of, to, intent="i"), urgent=True
            )
            assert done.settled
            times.append(len(asked))
    assert times[:2] == times[2:]
    assert max(times) <= 6
