"""The spine at the level of services: alert → run → containment and trust signal in one transaction → release by two."""

import pytest

from lachan import trust
from lachan.identity import Role
from lachan.identity.principal import PersonNeeded, Principal, PrincipalKind
from lachan.runtime import Runtime
from lachan.work.jobs import Job, jobs
from soar_playbooks.containment import approvals
from soar_playbooks.errors import FourEyes, ReleaseNotPossible
from soar_playbooks.models import runs
from soar_playbooks.playbooks import Mode
from soar_playbooks.runs import decisions as run_decisions
from soar_playbooks.runs import triggers
from tests.soar_playbooks.support import (
    AN,
    BINH,
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


def test_an_alert_contains_its_device_and_two_persons_release_it(rt: Runtime) -> None:
    load(rt)
    device, neighbour = new_device(rt), new_device(rt, "cam-2")
    raise_alert(rt, device)
    work(rt)
    assert decision(rt, device) is trust.Answer.QUARANTINE
    assert decision(rt, neighbour) is trust.Answer.ALLOW
    containment = one_containment(rt)
    assert (containment["state"], containment["level"]) == ("active", "quarantine")
    assert one_run(rt)["outcome"] == "succeeded"
    (contained,) = told(rt, "DeviceContained")
    assert contained.containment_id == containment["id"]
    assert contained.run_id == one_run(rt)["id"]

    with rt.db.write() as connection:
        after_one = approvals.release(rt, connection, AN, containment_id=containment["id"])
    assert (after_one.containment.state, after_one.approvals) == ("active", 1)
    assert decision(rt, device) is trust.Answer.QUARANTINE
    with pytest.raises(FourEyes), rt.db.write() as connection:
        approvals.release(rt, connection, AN, containment_id=containment["id"])
    with rt.db.write() as connection:
        after_two = approvals.release(rt, connection, BINH, containment_id=containment["id"])
    assert after_two.containment.state == "ended"
    assert decision(rt, device) is trust.Answer.ALLOW
    assert [event.person for event in told(rt, "ReleaseApproved")] == ["person:an", "person:binh"]
    assert [event.by for event in told(rt, "ContainmentEnded")] == ["person:binh"]
    with pytest.raises(ReleaseNotPossible), rt.db.write() as connection:
        approvals.release(rt, connection, AN, containment_id=containment["id"])


@pytest.mark.parametrize("kind", [PrincipalKind.TOKEN, PrincipalKind.PERSON, PrincipalKind.SYSTEM])
def test_a_release_needs_a_persons_session(rt: Runtime, kind: PrincipalKind) -> None:
    load(rt)
    device = new_device(rt)
    raise_alert(rt, device)
    work(rt)
    machine = Principal(kind=kind, id="t", name="t", roles=frozenset({Role.APPROVER}))
    with pytest.raises(PersonNeeded), rt.db.write() as connection:
        approvals.release(rt, connection, machine, containment_id=one_containment(rt)["id"])
    assert decision(rt, device) is trust.Answer.QUARANTINE


def test_an_event_delivered_twice_starts_one_run(rt: Runtime) -> None:
    load(rt)
    raise_alert(rt, new_device(rt))
    (row,) = [row for row in rows(rt, jobs) if row["kind"] == "soar.alert"]
    job = Job(row["id"], row["kind"], row["payload"], 1, row["fence"])
    for _ in range(2):  # as two workers that think that it is theirs
        triggers.run_job(rt, job)
    assert [row["kind"] for row in rows(rt, jobs) if row["kind"] == "soar.alert"] == []
    work(rt)
    assert len(rows(rt, runs)) == 1
    assert len(told(rt, "DeviceContained")) == 1


def test_propose_mode_changes_nothing_until_a_person_approves(rt: Runtime) -> None:
    load(rt, mode=Mode.PROPOSE)
    device = new_device(rt)
    raise_alert(rt, device)
    work(rt)
    assert decision(rt, device) is trust.Answer.ALLOW
    run = one_run(rt)
    assert (run["state"], run["guard"]) == ("waiting", "propose")
    assert run["plan"][0]["parameters"]["device_id"] == device.id
    assert [event.needed for event in told(rt, "ApprovalNeeded")] == [1]
    with rt.db.write() as connection:
        run_decisions.approve(rt, connection, AN, run_id=run["id"])
    work(rt)
    assert decision(rt, device) is trust.Answer.QUARANTINE
    assert one_run(rt)["outcome"] == "succeeded"


def test_a_rejected_plan_ends_the_run(rt: Runtime) -> None:
    load(rt, mode=Mode.PROPOSE)
    device = new_device(rt)
    raise_alert(rt, device)
    work(rt)
    with rt.db.write() as connection:
        run_decisions.reject(rt, connection, AN, run_id=one_run(rt)["id"])
    work(rt)
    assert one_run(rt)["outcome"] == "rejected"
    assert decision(rt, device) is trust.Answer.ALLOW
