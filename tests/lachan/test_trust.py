"""The decision: worst answer wins, all reasons are kept, every change is seen by the doors."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lachan import clock, trust
from lachan.runtime import Runtime
from lachan.statements import listed
from lachan.trust import Answer, Signal
from tests.support.view import view_of

KEYS = trust.CertificateKeys("ab", "cd")


def signal(answer: Answer, ref: str = "1", until: timedelta | None = None) -> Signal:
    now = clock.now()
    return Signal(
        device_id="d", source="test", answer=answer, reason="why", ref=ref, since=now, until=until and now + until
    )


@given(st.lists(st.sampled_from(list(Answer))))
def test_the_worst_answer_wins_and_every_reason_stays(answers: list[Answer]) -> None:
    found = trust.decide("d", [signal(a, str(i)) for i, a in enumerate(answers)], at=clock.now())
    assert found.answer == max(answers, key=lambda a: a.rank, default=Answer.ALLOW)
    assert len(found.reasons) == len(answers)


def test_a_signal_ends_at_its_time(rt: Runtime) -> None:
    with rt.db.write() as c:
        trust.set_signal(c, signal(Answer.DENY, until=timedelta(hours=1)))
        assert trust.decision(c, "d").answer is Answer.DENY
        with clock.travel(timedelta(hours=2)):
            assert trust.decision(c, "d").answer is Answer.ALLOW


@pytest.mark.parametrize("answer", [a for a in Answer if a is not Answer.ALLOW])
def test_setting_and_clearing_changes_version_and_view(rt: Runtime, answer: Answer) -> None:
    before = rt.db.run(trust.version)
    rt.db.run(lambda c: trust.set_signal(c, signal(answer)))
    taken = view_of(rt.db)
    standing = taken.standing("d")
    assert standing is not None
    assert (standing.answer, [each.ref for each in standing.reasons]) == (answer, ["1"])
    assert taken.version > before
    rt.db.run(lambda c: trust.clear_signal(c, device_id="d", source="test", ref="1"))
    assert view_of(rt.db).version > taken.version
    assert view_of(rt.db).standing("d") is None


def test_refused_certificates_stand_in_a_view_until_they_expire(rt: Runtime) -> None:
    until = clock.now() + timedelta(days=1)

    def refuse(reason: str) -> None:
        rt.db.run(lambda c: trust.refuse_certificate(c, keys=KEYS, device_id="d", reason=reason, until=until))

    refuse("suspended")
    refuse("revoked")
    assert view_of(rt.db).refusal(KEYS) == "revoked"
    for one in (trust.CertificateKeys("ab", "0f"), trust.CertificateKeys("0f", "cd")):
        assert view_of(rt.db).refusal(one) == "revoked"  # either key is enough
    with clock.travel(timedelta(days=2)):
        assert len(view_of(rt.db)) == 0
    rt.db.run(lambda c: trust.accept_certificate(c, keys=KEYS, device_id="d"))
    assert len(view_of(rt.db)) == 0


def test_a_signal_of_one_whose_clock_is_ahead_holds_from_now_on(rt: Runtime) -> None:
    """Else a device that was cut would be let in until this clock has come as far."""
    with rt.db.write() as c:
        with clock.travel(timedelta(days=36)):
            trust.set_signal(c, signal(Answer.QUARANTINE))
        assert trust.decision(c, "d").answer is Answer.QUARANTINE
        assert trust.answers(c, listed(c.dialect.name, ["d"])) == {"d": Answer.QUARANTINE}
