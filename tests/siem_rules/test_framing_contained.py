"""Must show 6, whole: from forged lines to what is (not) contained, with the real playbook and the real guards."""

import pytest

from lachan import trust
from lachan.devices import Criticality
from lachan.identity import Principal
from lachan.identity.principal import NOBODY
from lachan.runtime import Runtime
from lachan.work import outbox
from lachan.work.worker import Worker
from soar_playbooks.models import containments, runs
from tests.siem_rules.support import RECORDING, collector, detect, device, documents, send, shifted
from tests.siem_rules.test_framing import about, attack_on
from tests.soar_playbooks.support import load, rows


@pytest.fixture
def enforcing(open_rt: Runtime) -> Runtime:
    """An installation whose camera playbook is in enforce mode."""
    load(open_rt)
    return open_rt


def settle(rt: Runtime) -> None:
    """Let detector and worker do all that is due."""
    detect(rt)
    while Worker(rt).run_due():
        pass


def answer(rt: Runtime, who: Principal) -> trust.Answer:
    """What the doors do with a device now."""
    with rt.db.read() as connection:
        return trust.decision(connection, who.id).answer


def test_real_compromise_is_contained(enforcing: Runtime) -> None:
    b = device(enforcing, "cam-b", criticality=Criticality.NORMAL)
    neighbour = device(enforcing, "cam-c", criticality=Criticality.NORMAL)
    send(enforcing, b, shifted(RECORDING))
    settle(enforcing)
    assert answer(enforcing, b) is trust.Answer.QUARANTINE
    assert answer(enforcing, neighbour) is trust.Answer.ALLOW


def test_lines_of_others_about_b_leave_b_up(enforcing: Runtime) -> None:
    a, b = (device(enforcing, name, criticality=Criticality.NORMAL) for name in ("cam-a", "cam-b"))
    for liar in (a, NOBODY, collector("gw-8", "ward-8")):
        send(enforcing, liar, attack_on("cam-b"))
    settle(enforcing)
    assert answer(enforcing, b) is trust.Answer.ALLOW
    assert answer(enforcing, a) is trust.Answer.ALLOW
    assert rows(enforcing, runs) == []


def test_attempts_alone_leave_b_up(enforcing: Runtime) -> None:
    b = device(enforcing, "cam-b", criticality=Criticality.NORMAL)
    body = b"\n".join(
        line
        for pair in zip(*[iter(attack_on("cam-b").rstrip(b"\n").split(b"\n"))] * 2, strict=True)
        if b"Bad password" in pair[1]
        for line in pair
    )
    send(enforcing, b, body + b"\n")
    settle(enforcing)
    assert answer(enforcing, b) is trust.Answer.ALLOW
    with enforcing.db.read() as connection:
        [fact] = [stored.event for stored in outbox.read(connection, names=("AlertRaised",))]
    assert (fact.device_id, fact.outcome) == (b.id, "attempt")


def test_thousand_forged_lines_of_a_device_change_nothing_for_b(enforcing: Runtime) -> None:
    a, b = (device(enforcing, name, criticality=Criticality.NORMAL) for name in ("cam-a", "cam-b"))
    send(enforcing, a, documents(about("cam-b"), *(about(f"cam-{number}") for number in range(999))))
    settle(enforcing)
    assert answer(enforcing, b) is trust.Answer.ALLOW
    assert rows(enforcing, containments) == []
    send(enforcing, b, shifted(RECORDING))
    settle(enforcing)
    assert answer(enforcing, b) is trust.Answer.QUARANTINE


def test_lying_collector_spends_its_own_budget_only(enforcing: Runtime) -> None:
    """A collector may speak of its site. A thousand lies of one cut off a few devices at most, and hide no real attack."""
    framed = [device(enforcing, f"cam-{number}", criticality=Criticality.NORMAL) for number in range(9)]
    victim = device(enforcing, "cam-victim", criticality=Criticality.NORMAL)
    liar = collector("gw-7", "ward-7")
    send(enforcing, liar, documents(*(about(f"cam-{number % 9}") for number in range(1000))))
    settle(enforcing)
    cut = [one for one in framed if answer(enforcing, one) is trust.Answer.QUARANTINE]
    assert len(cut) == enforcing.settings.budget_sender
    assert answer(enforcing, victim) is trust.Answer.ALLOW
    send(enforcing, victim, shifted(RECORDING))
    settle(enforcing)
    assert answer(enforcing, victim) is trust.Answer.QUARANTINE
