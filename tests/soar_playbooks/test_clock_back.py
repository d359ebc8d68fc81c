"""A containment that began while the clock was 36 days ahead lasts as long as was meant, never for 36 days and never for less."""

from datetime import timedelta

from lachan import clock, trust
from lachan.enforcement import Level
from lachan.runtime import Runtime
from lachan.work.worker import plan
from soar_playbooks.containment import reconciler, service
from soar_playbooks.containment.guards import Facts
from soar_playbooks.states import ACTOR
from tests.soar_playbooks.support import decision, new_device, one_containment, work

HOUR, AHEAD = timedelta(hours=1), timedelta(days=36)


def request(device_id: str, until: timedelta) -> service.Request:
    facts = Facts(device_id=device_id, subject_bound=True, outcome="success", sources=1)
    return service.Request(
        device_id=device_id, level=Level.QUARANTINE, reason="t", principal=ACTOR, facts=facts, until=until
    )


def test_it_ends_after_its_time_and_not_before(rt: Runtime) -> None:
    device = new_device(rt)
    with clock.travel(AHEAD):
        rt.db.run(lambda c: service.request(rt, c, request(device.id, HOUR)))
    plan(rt)  # what was put off keeps its distance
    work(rt)
    assert decision(rt, device) is trust.Answer.QUARANTINE
    with clock.travel(HOUR + timedelta(minutes=1)):
        work(rt)
        assert one_containment(rt)["state"] == "active", "its hour is counted by the right clock"
        assert decision(rt, device) is trust.Answer.QUARANTINE
    with clock.travel(2 * HOUR + timedelta(minutes=2)):
        work(rt)
        assert one_containment(rt)["state"] == "ended"
        assert decision(rt, device) is trust.Answer.ALLOW


def test_who_lengthens_it_after_the_clock_was_put_right_has_what_he_asked_for(rt: Runtime) -> None:
    device = new_device(rt)
    with clock.travel(AHEAD):
        rt.db.run(lambda c: service.request(rt, c, request(device.id, HOUR)))
    plan(rt)
    with clock.travel(HOUR + timedelta(minutes=1)):
        work(rt)
        rt.db.run(lambda c: service.request(rt, c, request(device.id, 9 * HOUR)))
    with clock.travel(9 * HOUR):
        work(rt)
        assert decision(rt, device) is trust.Answer.QUARANTINE


def test_what_was_written_then_is_old(rt: Runtime) -> None:
    age = timedelta(minutes=1)
    now = clock.now()
    assert [reconciler._older(at, age) for at in (now, now - 2 * age, now + AHEAD)] == [False, True, True]
