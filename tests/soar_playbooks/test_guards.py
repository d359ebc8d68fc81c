"""Must show 9 (criticality) and half of 6: what the guards let pass, degrade, delay and refuse, whatever the alert says."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from lachan import clock, trust, verbs
from lachan.devices import Criticality
from lachan.enforcement import Level
from lachan.errors import Forbidden
from lachan.identity import system
from lachan.runtime import Runtime
from lachan.settings import Settings
from soar_playbooks.containment import approvals, service
from soar_playbooks.containment.guards import Facts
from soar_playbooks.errors import EvidenceTooThin, FourEyes, HumanOnly, NotBound, NotWaiting, TargetProtected
from soar_playbooks.models import containment_budgets, containments, runs
from soar_playbooks.runs import decisions as run_decisions
from soar_playbooks.states import ACTOR
from tests.soar_playbooks.support import (
    ADMIN,
    AN,
    BINH,
    CHI,
    decision,
    load,
    new_device,
    one_containment,
    one_run,
    raise_alert,
    rows,
    told,
    work,
)

Open = Callable[..., Runtime]


@pytest.fixture
def small(settings: Settings, rt: Runtime) -> Runtime:
    """The same installation with small budgets and one protected name."""
    tight = settings.model_copy(update={"budget_site": 3, "budget_sender": 2, "protected": ("broker-1",)})
    object.__setattr__(rt, "settings", tight)
    return rt


@pytest.mark.parametrize("outcome", ["success", "attempt"])
@pytest.mark.parametrize("sources", [2, 9])
def test_a_life_safety_device_is_degraded_and_a_human_paged_never_cut(rt: Runtime, outcome: str, sources: int) -> None:
    load(rt)
    device = new_device(rt, criticality=Criticality.LIFE_SAFETY)
    for _ in range(3):
        raise_alert(rt, device, severity="critical", outcome=outcome, sources=sources)
        work(rt)
    assert decision(rt, device) is trust.Answer.LIMITED
    row = one_containment(rt)
    assert (row["state"], row["level"], row["wanted"], row["guard"], row["needed"]) == (
        "active", "degrade", "quarantine", "life-safety", 2,
    )  # fmt: skip
    assert told(rt, "HumanPaged")[0].device_id == device.id
    assert {run["state"] for run in rows(rt, runs)} == {"waiting"}


def test_even_a_spent_budget_does_not_keep_a_life_safety_device_from_being_degraded(small: Runtime) -> None:
    load(small)
    for number in range(4):
        raise_alert(small, new_device(small, f"cam-{number}"))
    lift = new_device(small, "lift-1", criticality=Criticality.LIFE_SAFETY)
    raise_alert(small, lift)
    work(small)
    assert decision(small, lift) is trust.Answer.LIMITED


def test_a_life_safety_device_needs_two_persons_to_be_cut(rt: Runtime) -> None:
    load(rt)
    device = new_device(rt, criticality=Criticality.LIFE_SAFETY)
    raise_alert(rt, device)
    work(rt)
    run_id = one_run(rt)["id"]
    with rt.db.write() as connection:
        run_decisions.approve(rt, connection, AN, run_id=run_id)
    work(rt)
    assert decision(rt, device) is trust.Answer.LIMITED
    with pytest.raises(FourEyes), rt.db.write() as connection:
        run_decisions.approve(rt, connection, AN, run_id=run_id)
    with rt.db.write() as connection:
        run_decisions.approve(rt, connection, BINH, run_id=run_id)
    work(rt)
    assert decision(rt, device) is trust.Answer.QUARANTINE
    assert one_run(rt)["outcome"] == "succeeded"


@pytest.mark.parametrize("criticality", [Criticality.ESSENTIAL, Criticality.UNKNOWN])
def test_an_essential_or_unknown_device_is_degraded_until_a_human_approves(
    rt: Runtime, criticality: Criticality
) -> None:
    load(rt)
    device = new_device(rt, criticality=criticality)
    raise_alert(rt, device, severity="critical", sources=5)
    work(rt)
    assert decision(rt, device) is trust.Answer.LIMITED
    assert one_run(rt)["state"] == "waiting"
    (waiting,) = told(rt, "ContainmentWaiting")
    (needed,) = told(rt, "ApprovalNeeded")
    assert waiting.containment_id == one_containment(rt)["id"]
    assert (needed.run_id, needed.needed) == (one_run(rt)["id"], 1)
    with rt.db.write() as connection:
        approvals.approve(rt, connection, AN, containment_id=one_containment(rt)["id"])
    work(rt)
    assert decision(rt, device) is trust.Answer.QUARANTINE
    assert one_run(rt)["outcome"] == "succeeded"


def test_a_rejected_cut_stays_degraded_and_the_run_pages_a_human(rt: Runtime) -> None:
    load(rt)
    device = new_device(rt, criticality=Criticality.ESSENTIAL)
    raise_alert(rt, device)
    work(rt)
    with rt.db.write() as connection:
        run_decisions.reject(rt, connection, AN, run_id=one_run(rt)["id"])
    work(rt)
    assert decision(rt, device) is trust.Answer.LIMITED
    assert one_run(rt)["outcome"] == "failed"
    assert len(told(rt, "HumanPaged")) == 1
    with pytest.raises(NotWaiting), rt.db.write() as connection:
        approvals.approve(rt, connection, BINH, containment_id=one_containment(rt)["id"])


def test_proposing_does_not_lift_the_guards_of_propose_mode_twice(rt: Runtime) -> None:
    """One approval of the plan is one person: enough for an essential device, not for a life-safety one."""
    from soar_playbooks.playbooks import Mode

    load(rt, mode=Mode.PROPOSE)
    pump = new_device(rt, "pump-1", criticality=Criticality.ESSENTIAL)
    lift = new_device(rt, "lift-1", criticality=Criticality.LIFE_SAFETY)
    for device in (pump, lift):
        raise_alert(rt, device)
    work(rt)
    assert decision(rt, pump) is decision(rt, lift) is trust.Answer.ALLOW
    for run in rows(rt, runs):
        with rt.db.write() as connection:
            run_decisions.approve(rt, connection, AN, run_id=run["id"])
    work(rt)
    assert decision(rt, pump) is trust.Answer.QUARANTINE
    assert decision(rt, lift) is trust.Answer.LIMITED


# evidence and binding


def asked(device: Any, **facts: Any) -> service.Request:
    base: dict[str, Any] = {"device_id": device.id, "subject_bound": True, "outcome": "success", "sources": 1}
    level = facts.pop("level", Level.QUARANTINE)
    return service.Request(
        device_id=device.id, level=level, reason="test", principal=ACTOR, facts=Facts(**{**base, **facts})
    )


@pytest.mark.parametrize(
    ("facts", "error"),
    [
        ({"subject_bound": False}, NotBound),
        ({"device_id": "another"}, NotBound),
        ({"device_id": None}, NotBound),
        ({"outcome": "attempt"}, EvidenceTooThin),
        ({"outcome": "attempt", "sources": 1, "senders": ("device:x",)}, EvidenceTooThin),
        ({"outcome": "", "sources": 0}, EvidenceTooThin),
        ({"level": Level.EVICT}, HumanOnly),
    ],
)
def test_what_an_alert_cannot_do(rt: Runtime, facts: dict[str, Any], error: type[Exception]) -> None:
    device = new_device(rt)
    with pytest.raises(error), rt.db.write() as connection:
        service.request(rt, connection, asked(device, **facts))
    assert rows(rt, containments) == []
    assert rows(rt, containment_budgets) == []


def test_two_independent_sources_of_attempts_are_enough(rt: Runtime) -> None:
    device = new_device(rt)
    with rt.db.write() as connection:
        service.request(rt, connection, asked(device, outcome="attempt", sources=2))
    assert decision(rt, device) is trust.Answer.QUARANTINE


def test_unbound_alerts_start_no_runs_however_many(rt: Runtime) -> None:
    load(rt)
    device = new_device(rt)
    for _ in range(50):
        raise_alert(rt, None, site=device.site, senders=("collector:evil",), severity="critical", sources=9)
        raise_alert(rt, device, subject_bound=False, senders=("collector:evil",), severity="critical", sources=9)
    work(rt)
    assert rows(rt, runs) == []
    assert decision(rt, device) is trust.Answer.ALLOW


def test_one_sender_cannot_spend_a_sites_budget(small: Runtime) -> None:
    """Half of Must show 6: the flood of one sender is stopped by its own budget; a real compromise is contained."""
    load(small)
    flooded = [new_device(small, f"cam-{number}") for number in range(10)]
    for device in flooded:
        raise_alert(small, device, senders=("collector:evil",))
    work(small)
    cut = [device for device in flooded if decision(small, device) is trust.Answer.QUARANTINE]
    assert len(cut) == 2
    assert len([row for row in rows(small, containments) if row["guard"] == "budget"]) == 8
    real = new_device(small, "cam-real")
    raise_alert(small, real)
    work(small)
    assert decision(small, real) is trust.Answer.QUARANTINE


def test_a_sender_without_budget_shields_nobody_of_whom_it_speaks(small: Runtime) -> None:
    """A flood speaks of a device first; what the device itself then proves is counted on the device alone."""
    load(small)
    for number in range(2):
        raise_alert(small, new_device(small, f"cam-{number}"), senders=("collector:evil",))
    work(small)
    real = new_device(small, "cam-real")
    raise_alert(small, real, senders=("collector:evil",), severity="critical", sources=2)
    work(small)
    assert decision(small, real) is trust.Answer.ALLOW, "it waits for a human"
    raise_alert(small, real, senders=("collector:evil", f"device:{real.id}"), severity="critical", sources=2)
    work(small)
    assert decision(small, real) is trust.Answer.QUARANTINE
    counted = {row["scope"]: row["active"] for row in rows(small, containment_budgets)}
    assert (counted["sender:collector:evil"], counted[f"sender:device:{real.id}"]) == (2, 1)


def test_the_budget_comes_back_with_the_release(small: Runtime) -> None:
    load(small)
    devices = [new_device(small, f"cam-{number}") for number in range(4)]
    for device in devices:
        raise_alert(small, device)
    work(small)
    waiting = next(row for row in rows(small, containments) if row["state"] == "waiting")
    assert waiting["guard"] == "budget"
    active = next(row for row in rows(small, containments) if row["state"] == "active")
    for person in (AN, BINH):
        with small.db.write() as connection:
            approvals.release(small, connection, person, containment_id=active["id"])
    again = next(device for device in devices if device.id == waiting["device_id"])
    raise_alert(small, again)
    work(small)
    assert decision(small, again) is trust.Answer.QUARANTINE
    assert {row["scope"]: row["active"] for row in rows(small, containment_budgets)}["site:hk-01"] == 3


def test_a_human_may_cut_beyond_the_budget(small: Runtime) -> None:
    load(small)
    devices = [new_device(small, f"cam-{number}") for number in range(4)]
    for device in devices:
        raise_alert(small, device)
    work(small)
    waiting = next(run for run in rows(small, runs) if run["state"] == "waiting")
    with small.db.write() as connection:
        run_decisions.approve(small, connection, AN, run_id=waiting["id"])
    work(small)
    assert all(decision(small, device) is trust.Answer.QUARANTINE for device in devices)
    assert {run["outcome"] for run in rows(small, runs)} == {"succeeded"}


def test_own_dependencies_are_never_targets(small: Runtime) -> None:
    load(small)
    broker = new_device(small, "broker-1")
    raise_alert(small, broker, sources=9)
    work(small)
    assert decision(small, broker) is trust.Answer.ALLOW
    assert one_run(small)["outcome"] == "failed"
    with pytest.raises(TargetProtected), small.db.write() as connection:
        approvals.propose(small, connection, CHI, device=broker, level=Level.DEGRADE, reason="by hand")


def test_the_kill_switch_stops_the_machine_and_not_the_humans(rt: Runtime) -> None:
    load(rt)
    device = new_device(rt)
    with pytest.raises(Forbidden), rt.db.write() as connection:
        approvals.set_kill_switch(connection, AN, active=True, reason="no")
    with rt.db.write() as connection:
        approvals.set_kill_switch(connection, ADMIN, active=True, reason="a playbook runs wild")
    raise_alert(rt, device)
    work(rt)
    assert decision(rt, device) is trust.Answer.ALLOW
    assert one_containment(rt)["guard"] == "kill-switch"
    assert told(rt, "KillSwitchChanged")[0].active is True
    with rt.db.write() as connection:
        approvals.approve(rt, connection, AN, containment_id=one_containment(rt)["id"])
    work(rt)
    assert decision(rt, device) is trust.Answer.QUARANTINE


def test_after_the_kill_switch_the_next_alert_contains(rt: Runtime) -> None:
    load(rt)
    device = new_device(rt)
    with rt.db.write() as connection:
        approvals.set_kill_switch(connection, ADMIN, active=True, reason="stop")
    raise_alert(rt, device)
    work(rt)
    with rt.db.write() as connection:
        approvals.set_kill_switch(connection, ADMIN, active=False, reason="go on")
    raise_alert(rt, device)
    work(rt)
    assert decision(rt, device) is trust.Answer.QUARANTINE


# humans


def test_an_analyst_proposes_and_another_person_approves(rt: Runtime) -> None:
    device = new_device(rt)
    with rt.db.write() as connection:
        row = approvals.propose(rt, connection, CHI, device=device, level=Level.QUARANTINE, reason="looks bad")
    assert (row.state, row.guard) == ("waiting", "proposed")
    assert decision(rt, device) is trust.Answer.ALLOW
    with rt.db.write() as connection:
        approvals.approve(rt, connection, AN, containment_id=row.id)
    assert decision(rt, device) is trust.Answer.QUARANTINE


def test_the_proposer_neither_approves_nor_releases(rt: Runtime) -> None:
    from lachan.identity import Role
    from tests.conftest import person

    both = person("dung", Role.ANALYST, Role.APPROVER)
    device = new_device(rt)
    with rt.db.write() as connection:
        row = approvals.propose(rt, connection, both, device=device, level=Level.QUARANTINE, reason="x")
    with pytest.raises(FourEyes), rt.db.write() as connection:
        approvals.approve(rt, connection, both, containment_id=row.id)
    with rt.db.write() as connection:
        approvals.approve(rt, connection, AN, containment_id=row.id)
    with pytest.raises(FourEyes), rt.db.write() as connection:
        approvals.release(rt, connection, both, containment_id=row.id)


def test_eviction_needs_two_other_persons(rt: Runtime) -> None:
    device = new_device(rt)
    with rt.db.write() as connection:
        row = approvals.propose(rt, connection, CHI, device=device, level=Level.EVICT, reason="stolen")
    assert (row.guard, row.needed) == ("evict", 2)
    for person, answer in ((AN, trust.Answer.ALLOW), (BINH, trust.Answer.DENY)):
        with rt.db.write() as connection:
            approvals.approve(rt, connection, person, containment_id=row.id)
        assert decision(rt, device) is answer


def test_whoever_asks_for_a_harder_level_may_not_approve_it(rt: Runtime) -> None:
    from lachan.identity import Role
    from tests.conftest import person

    load(rt)
    device, both = new_device(rt), person("dung", Role.ANALYST, Role.APPROVER)
    raise_alert(rt, device)
    work(rt)
    with rt.db.write() as connection:
        row = approvals.propose(rt, connection, both, device=device, level=Level.EVICT, reason="stolen")
    assert (row.state, row.level, row.wanted, row.needed) == ("active", "quarantine", "evict", 2)
    with pytest.raises(FourEyes), rt.db.write() as connection:
        approvals.approve(rt, connection, both, containment_id=row.id)
    for approver in (AN, BINH):
        with rt.db.write() as connection:
            approvals.approve(rt, connection, approver, containment_id=row.id)
    assert decision(rt, device) is trust.Answer.DENY


def test_only_the_executor_acts_in_the_name_of_a_run(rt: Runtime) -> None:
    load(rt)
    device = new_device(rt)
    raise_alert(rt, device)
    work(rt)
    other = new_device(rt, "cam-2")
    parameters = {"device_id": other.id, "level": "quarantine", "reason": "x", "run_id": one_run(rt)["id"]}
    with pytest.raises(Forbidden), rt.db.write() as connection:
        verbs.call(rt, connection, CHI, "containment.set", parameters)
    with pytest.raises(NotBound), rt.db.write() as connection:
        verbs.call(rt, connection, ACTOR, "containment.set", parameters)
    with pytest.raises(NotBound), rt.db.write() as connection:
        verbs.call(rt, connection, system("posture"), "containment.set", {**parameters, "run_id": ""})
    assert decision(rt, other) is trust.Answer.ALLOW


# one row per device, and its time


def test_a_second_alert_joins_the_first_containment_and_may_raise_it(rt: Runtime) -> None:
    device = new_device(rt)
    with rt.db.write() as connection:
        first = service.request(rt, connection, asked(device))
    with rt.db.write() as connection:
        second = service.request(rt, connection, asked(device, level=Level.DEGRADE))
    with rt.db.write() as connection:
        third = service.request(rt, connection, asked(device, level=Level.ISOLATE))
    assert first.id == second.id == third.id
    assert one_containment(rt)["level"] == "isolate"
    assert [event.level for event in told(rt, "DeviceContained")] == ["quarantine", "isolate"]
    assert {row["active"] for row in rows(rt, containment_budgets)} == {1}


def test_a_containment_ends_when_its_time_is_over(rt: Runtime) -> None:
    device = new_device(rt)
    with rt.db.write() as connection:
        request = service.Request(**{**asked(device).__dict__, "until": timedelta(hours=1)})
        service.request(rt, connection, request)
    with clock.travel(timedelta(minutes=30)):
        work(rt)
        longer = service.Request(**{**asked(device).__dict__, "until": timedelta(hours=2)})
        with rt.db.write() as connection:
            service.request(rt, connection, longer)
    with clock.travel(timedelta(hours=2)):
        work(rt)
        assert decision(rt, device) is trust.Answer.QUARANTINE
    with clock.travel(timedelta(hours=2, minutes=31)):
        assert decision(rt, device) is trust.Answer.ALLOW  # the signal knows by itself
        work(rt)
        assert one_containment(rt)["state"] == "ended"
    assert len(told(rt, "ContainmentEnded")) == 1
    assert {row["active"] for row in rows(rt, containment_budgets)} == {0}
