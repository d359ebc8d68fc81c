"""Whatever changes about a containment is judged again, and an approval covers what the person was shown, no more.

A later end is a proposal like a harder level; who approves is asked with what was seen; a device that is said to protect
lives is cut by nobody's old word. The first are ported attacks, through the real people door.
"""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from lachan import clock, devices, trust
from lachan.devices import Criticality
from lachan.enforcement import Level
from lachan.identity import Role
from lachan.runtime import Runtime
from lachan.settings import Settings
from soar_playbooks.containment import approvals, service
from soar_playbooks.containment.guards import Facts
from soar_playbooks.errors import FourEyes, ShownChanged, TargetProtected
from soar_playbooks.models import containment_budgets
from soar_playbooks.states import ACTOR
from tests.api.support import Town
from tests.conftest import person
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

HOUR = timedelta(hours=1)


def test_nobody_alone_lets_a_containment_last_longer(town: Town, web: httpx.Client) -> None:
    """One analyst, or a mere token, turned an hour that two persons had approved into no end, and the ledger knew nothing."""
    rt = town.rt
    an, binh, chi, admin = (town.sign_in(name, role) for name, role in (
        ("an", Role.APPROVER), ("binh", Role.APPROVER), ("chi", Role.ANALYST), ("quyen", Role.ADMIN),
    ))  # fmt: skip
    device = new_device(rt, criticality=Criticality.LIFE_SAFETY)
    body: dict[str, Any] = {"device_id": device.id, "level": "quarantine", "reason": "look", "hours": 1}
    row = web.post("/api/v1/containments", json=body, headers=chi.headers).json()
    url = f"/api/v1/containments/{row['id']}"
    for who in (an, binh):
        answer = web.post(f"{url}/approve", json={"level": "quarantine"}, headers=who.headers)
        assert answer.status_code == 200, answer.text
    until = answer.json()["until"]
    token = {"name": "bot", "roles": ["analyst"], "days": 1}
    bot = web.post("/api/v1/tokens", json=token, headers=admin.headers).json()["token"]
    longer = {"device_id": device.id, "level": "quarantine", "reason": "longer"}
    asked = web.post("/api/v1/containments", json=longer, headers={"Authorization": f"Bearer {bot}"})
    assert (asked.status_code, asked.json()["until"], asked.json()["guard"]) == (201, until, "proposed")
    assert (asked.json()["longer"], asked.json()["longer_seconds"], asked.json()["needed"]) == (True, None, 2)
    (first, second) = told(rt, "ContainmentWaiting")
    assert first.containment_id == second.containment_id == row["id"]
    with clock.travel(2 * HOUR):
        work(rt)
        assert decision(rt, device) is trust.Answer.ALLOW
    assert one_containment(rt)["state"] == "ended"


def test_two_persons_let_it_last_longer_and_the_ledger_knows(town: Town, web: httpx.Client) -> None:
    rt = town.rt
    an, binh, chi = (town.sign_in(name, role) for name, role in (
        ("an", Role.APPROVER), ("binh", Role.APPROVER), ("chi", Role.ANALYST),
    ))  # fmt: skip
    device = new_device(rt)
    body: dict[str, Any] = {"device_id": device.id, "level": "quarantine", "reason": "look", "hours": 1}
    url = f"/api/v1/containments/{web.post('/api/v1/containments', json=body, headers=chi.headers).json()['id']}"
    web.post(f"{url}/approve", json={}, headers=an.headers)
    web.post("/api/v1/containments", json={**body, "hours": 9}, headers=chi.headers)
    own = web.post(f"{url}/approve", json={}, headers=chi.headers)
    assert own.status_code == 403
    approved = web.post(f"{url}/approve", json={}, headers=binh.headers)
    assert (approved.json()["guard"], approved.json()["longer"], approved.json()["state"]) == ("", False, "active")
    (fact,) = told(rt, "ContainmentLengthened")
    assert (fact.device_id, fact.by) == (device.id, "person:binh")
    with clock.travel(8 * HOUR):
        work(rt)
        assert decision(rt, device) is trust.Answer.QUARANTINE
    with clock.travel(10 * HOUR):
        work(rt)
        assert decision(rt, device) is trust.Answer.ALLOW
    assert one_containment(rt)["state"] == "ended"


def test_a_rejected_later_end_changes_nothing(rt: Runtime) -> None:
    device = new_device(rt)
    row = rt.db.run(
        lambda c: approvals.propose(rt, c, CHI, device=device, level=Level.QUARANTINE, reason="x", until=HOUR)
    )
    rt.db.run(lambda c: approvals.approve(rt, c, AN, containment_id=row.id))
    until = one_containment(rt)["until"]
    rt.db.run(lambda c: approvals.propose(rt, c, CHI, device=device, level=Level.QUARANTINE, reason="x"))
    rejected = rt.db.run(lambda c: approvals.reject(rt, c, BINH, containment_id=row.id))
    assert (rejected.state, rejected.until, rejected.longer, rejected.guard) == ("active", until, False, "")
    assert told(rt, "ContainmentLengthened") == []


def machine(device: devices.Device, level: Level = Level.QUARANTINE, until: timedelta | None = None) -> service.Request:
    facts = Facts(device_id=device.id, subject_bound=True, outcome="success", sources=1, senders=("collector:a",))
    return service.Request(device_id=device.id, level=level, reason="t", principal=ACTOR, facts=facts, until=until)


def test_what_a_machine_lengthens_is_judged_too(rt: Runtime) -> None:
    """With the kill switch on no machine lengthens anything; before, it was never asked."""
    device = new_device(rt)
    rt.db.run(lambda c: service.request(rt, c, machine(device, until=HOUR)))
    with rt.db.write() as connection:
        approvals.set_kill_switch(connection, ADMIN, active=True, reason="stop")
    row = rt.db.run(lambda c: service.request(rt, c, machine(device, until=9 * HOUR)))
    assert (row.guard, row.longer, row.state) == ("kill-switch", True, "active")
    with clock.travel(2 * HOUR):
        work(rt)
        assert decision(rt, device) is trust.Answer.ALLOW


def test_what_a_machine_may_lengthen_is_told(rt: Runtime) -> None:
    device = new_device(rt)
    rt.db.run(lambda c: service.request(rt, c, machine(device, until=HOUR)))
    rt.db.run(lambda c: service.request(rt, c, machine(device, until=HOUR / 2)))
    assert told(rt, "ContainmentLengthened") == []
    rt.db.run(lambda c: service.request(rt, c, machine(device, until=3 * HOUR)))
    assert [fact.by for fact in told(rt, "ContainmentLengthened")] == ["system:playbooks"]
    with clock.travel(2 * HOUR):
        work(rt)
        assert decision(rt, device) is trust.Answer.QUARANTINE


# approvals


def test_an_approval_of_what_has_changed_is_refused(town: Town, web: httpx.Client) -> None:
    rt = town.rt
    an, chi = town.sign_in("an", Role.APPROVER), town.sign_in("chi", Role.ANALYST)
    device = new_device(rt)
    body: dict[str, Any] = {"device_id": device.id, "level": "quarantine", "reason": "look", "hours": 1}
    row = web.post("/api/v1/containments", json=body, headers=chi.headers).json()
    url = f"/api/v1/containments/{row['id']}"
    web.post("/api/v1/containments", json={**body, "hours": 99}, headers=chi.headers)
    stale = web.post(f"{url}/approve", json={"level": "quarantine", "shown": row["shown"]}, headers=an.headers)
    assert (stale.status_code, stale.json()["code"]) == (409, "shown-changed")
    assert "Read it again" in stale.json()["hint"]
    assert decision(rt, device) is trust.Answer.ALLOW
    now = web.get(url, headers=an.headers).json()["shown"]
    fresh = web.post(f"{url}/approve", json={"shown": now}, headers=an.headers)
    assert (fresh.status_code, fresh.json()["state"]) == (200, "active")
    assert [fact.shown for fact in told(rt, "RunApproved")] == [now]


def test_who_approves_is_judged_by_what_the_device_is_now(rt: Runtime) -> None:
    """One approval was enough when it was proposed; by now the device protects lives."""
    device = new_device(rt)
    row = rt.db.run(lambda c: approvals.propose(rt, c, CHI, device=device, level=Level.QUARANTINE, reason="x"))
    assert row.needed == 1
    rt.db.run(lambda c: devices.set_criticality(c, device.id, Criticality.LIFE_SAFETY, actor=ADMIN))
    once = rt.db.run(lambda c: approvals.approve(rt, c, AN, containment_id=row.id))
    assert (once.state, once.needed) == ("waiting", 2)
    assert decision(rt, device) is trust.Answer.ALLOW
    rt.db.run(lambda c: approvals.approve(rt, c, BINH, containment_id=row.id))
    assert decision(rt, device) is trust.Answer.QUARANTINE


def test_an_approval_cannot_cut_what_has_become_one_of_our_own(settings: Settings, rt: Runtime) -> None:
    device = new_device(rt, "broker-1")
    row = rt.db.run(lambda c: approvals.propose(rt, c, CHI, device=device, level=Level.QUARANTINE, reason="x"))
    object.__setattr__(rt, "settings", settings.model_copy(update={"protected": ("broker-1",)}))
    with pytest.raises(TargetProtected):
        rt.db.run(lambda c: approvals.approve(rt, c, AN, containment_id=row.id))
    assert decision(rt, device) is trust.Answer.ALLOW


def test_who_asked_for_any_of_it_approves_none_of_it(rt: Runtime) -> None:
    both = person("dung", Role.ANALYST, Role.APPROVER)
    device = new_device(rt)
    row = rt.db.run(lambda c: approvals.propose(rt, c, both, device=device, level=Level.QUARANTINE, reason="x"))
    rt.db.run(lambda c: approvals.propose(rt, c, CHI, device=device, level=Level.ISOLATE, reason="y"))
    with pytest.raises(FourEyes):
        rt.db.run(lambda c: approvals.approve(rt, c, both, containment_id=row.id))


def test_a_digest_is_of_its_own_containment(rt: Runtime) -> None:
    ids = []
    for name in ("cam-1", "cam-2"):
        device = new_device(rt, name)
        ids.append(rt.db.run(
            lambda c, device=device: approvals.propose(rt, c, CHI, device=device, level=Level.QUARANTINE, reason="x")
        ).id)  # fmt: skip
    from soar_playbooks.containment import shown

    with rt.db.read() as connection:
        seen = shown.at_containment(connection, service.find(connection, ids[0]))
    with pytest.raises(ShownChanged):
        rt.db.run(lambda c: approvals.approve(rt, c, AN, containment_id=ids[1], shown=seen))


# criticality


def set_criticality(rt: Runtime, device: devices.Device, value: Criticality) -> None:
    rt.db.run(lambda c: devices.set_criticality(c, device.id, value, actor=ADMIN))
    work(rt)


def test_what_waited_because_nobody_knew_takes_effect_when_it_is_said_to_be_normal(rt: Runtime) -> None:
    load(rt)
    device = new_device(rt, criticality=Criticality.UNKNOWN)
    raise_alert(rt, device)
    work(rt)
    assert decision(rt, device) is trust.Answer.LIMITED
    set_criticality(rt, device, Criticality.NORMAL)
    assert decision(rt, device) is trust.Answer.QUARANTINE
    assert (one_containment(rt)["guard"], one_containment(rt)["state"]) == ("", "active")
    assert one_run(rt)["outcome"] == "succeeded"


def test_a_machine_s_cut_of_what_protects_lives_is_taken_back_and_a_human_paged(rt: Runtime) -> None:
    device = new_device(rt)
    rt.db.run(lambda c: service.request(rt, c, machine(device)))
    assert decision(rt, device) is trust.Answer.QUARANTINE
    set_criticality(rt, device, Criticality.LIFE_SAFETY)
    assert decision(rt, device) is trust.Answer.LIMITED
    row = one_containment(rt)
    assert (row["level"], row["wanted"], row["guard"], row["needed"]) == ("degrade", "quarantine", "life-safety", 2)
    assert [fact.device_id for fact in told(rt, "HumanPaged")] == [device.id]
    assert {row["active"] for row in rows(rt, containment_budgets)} == {0}
    for approver in (AN, BINH):
        rt.db.run(lambda c, approver=approver: approvals.approve(rt, c, approver, containment_id=row["id"]))
    assert decision(rt, device) is trust.Answer.QUARANTINE
    set_criticality(rt, device, Criticality.ESSENTIAL)
    assert decision(rt, device) is trust.Answer.QUARANTINE  # two persons have agreed to it


def test_a_change_of_criticality_asks_nothing_of_what_is_not_contained(rt: Runtime) -> None:
    device = new_device(rt)
    set_criticality(rt, device, Criticality.LIFE_SAFETY)
    assert told(rt, "HumanPaged", "ContainmentWaiting") == []
