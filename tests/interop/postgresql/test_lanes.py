"""Lanes on PostgreSQL."""

from tests.lachan.test_lanes import (  # noqa: F401
    test_a_clock_that_was_weeks_ahead_delays_nothing_by_more_than_a_period,
    test_a_dead_workers_jobs_and_leases_of_a_wrong_clock_are_free,
    test_a_job_taken_over_meanwhile_is_not_settled_by_the_first,
    test_a_lane_whose_work_waits_is_told_of,
    test_a_senders_many_stand_behind_anothers_one,
    test_leases_are_renewed_while_work_goes_on,
    test_of_one_sender_the_gravest_and_each_five_seconds_are_a_step,
    test_recurring_work_put_off_for_weeks_by_whatever_clock_is_due,
    test_what_hangs_in_one_lane_holds_no_other,
    test_what_waits_makes_a_look_no_dearer,
    test_what_was_given_up_is_listed_and_made_due_again,
    test_who_goes_on_past_the_deadline_is_abandoned_and_holds_no_lane,
    town,
)
