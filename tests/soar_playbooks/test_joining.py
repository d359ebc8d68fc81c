"""Alerts join the one open run of their device and playbook; the guards judge again; nothing is approved unseen (decision 17)."""

from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from lachan import trust
from lachan.devices import Criticality
from lachan.identity import Role
from lachan.runtime import Runtime
from lachan.work.jobs import Job, jobs
from lachan.work.worker import Worker
from soar_playbooks.containment import approvals
from soar_playbooks.errors import ShownChanged
from soar_playbooks.models import containment_budgets, run_alerts, run_journal, runs
from soar_playbooks.playbooks import Mode
from soar_playbooks.runs import decisions, triggers
from tests.api.support import Town
from tests.soar_playbooks.peer import Peer
from tests.soar_playbooks.support import (
    AN,
    BINH,
    camera_document,
    decision,
    http_action,
    load,
    new_device,
    one_containment,
    one_run,
    raise_alert,
    rows,
    told,
    with_target,
    work,
)

ASK = "action--11111111-1111-4111-8111-111111111111"


@pytest.mark.parametrize("count", [500, pytest.param(5000, marks=pytest.mark.slow)])
def test_many_alerts_of_one_device_cost_one_run(rt: Runtime, count: int) -> None:
    load(rt)
    device = new_device(rt)
    for number in range(count):
        raise_alert(rt, device, senders=(f"device:{device.id}",) if number % 2 else ("collector:a",))
    work(rt)
    run = one_run(rt)
    assert run["outcome"] == "succeeded"
    assert decision(rt, device) is trust.Answer.QUARANTINE
    assert len(told(rt, "RunStarted")) == len(told(rt, "DeviceContained")) == 1
    assert len(run["facts"]["alerts"]) == 100  # as many as people are shown
    assert run["facts"]["more"] == count - 100
    assert sorted(run["facts"]["senders"]) == ["collector:a", f"device:{device.id}"]
    assert [row["kind"] for row in rows(rt, jobs) if row["kind"] == "soar.alert"] == []


def test_alerts_that_come_one_by_one_join_the_run_whose_containment_stands(rt: Runtime) -> None:
    load(rt)
    device = new_device(rt)
    for _ in range(20):
        raise_alert(rt, device)
        work(rt)
    run = one_run(rt)
    assert len(run["facts"]["alerts"]) == 20
    assert len(rows(rt, run_alerts)) == 19
    assert {row["active"] for row in rows(rt, containment_budgets)} == {1}


def test_after_a_release_the_next_alert_contains_again(rt: Runtime) -> None:
    load(rt)
    device = new_device(rt)
    raise_alert(rt, device)
    work(rt)
    for person in (AN, BINH):
        rt.db.run(lambda c, person=person: approvals.release(rt, c, person, containment_id=one_containment(rt)["id"]))
    assert decision(rt, device) is trust.Answer.ALLOW
    raise_alert(rt, device)
    work(rt)
    assert decision(rt, device) is trust.Answer.QUARANTINE
    assert len(rows(rt, runs)) == 2


def test_another_device_s_alerts_are_not_taken_along(rt: Runtime) -> None:
    load(rt)
    devices = [new_device(rt, f"cam-{number}") for number in range(3)]
    for _ in range(4):
        for device in devices:
            raise_alert(rt, device)
    work(rt)
    assert sorted(run["device_id"] for run in rows(rt, runs)) == sorted(device.id for device in devices)


def test_whoever_was_taken_over_takes_no_alerts(rt: Runtime) -> None:
    """The older fence is refused: all of the unit is rolled back, and the alerts wait for who has them."""
    load(rt)
    device = new_device(rt)
    raise_alert(rt, device)
    with rt.db.write() as connection:
        connection.execute(jobs.update().where(jobs.c.kind == "soar.alert").values(fence=5))
    (row,) = [row for row in rows(rt, jobs) if row["kind"] == "soar.alert"]
    triggers.run_job(rt, Job(row["id"], row["kind"], row["payload"], 1, 4))
    assert rows(rt, runs) == []
    triggers.run_job(rt, Job(row["id"], row["kind"], row["payload"], 1, 5))
    assert one_run(rt)["outcome"] == "succeeded"


# propose mode: an approval covers the alerts that were shown


def test_an_alert_that_joins_makes_what_was_shown_stale(town: Town, web: httpx.Client) -> None:
    rt = town.rt
    load(rt, mode=Mode.PROPOSE)
    device = new_device(rt)
    raise_alert(rt, device, alert_id="a-1")
    work(rt)
    an = town.sign_in("an", Role.APPROVER)
    url = f"/api/v1/runs/{one_run(rt)['id']}"
    seen = web.get(url, headers=an.headers).json()
    assert seen["alerts"] == ["a-1"]
    raise_alert(rt, device, alert_id="a-2")
    work(rt)
    stale = web.post(f"{url}/approve", json={"shown": seen["shown"]}, headers=an.headers)
    assert (stale.status_code, stale.json()["code"]) == (409, "shown-changed")
    page = web.post(
        f"/runs/{one_run(rt)['id']}/approve", data={"shown": seen["shown"], "csrf": an.csrf}, headers=an.headers
    )
    assert page.status_code == 409
    work(rt)
    assert decision(rt, device) is trust.Answer.ALLOW
    now = web.get(url, headers=an.headers).json()
    assert now["alerts"] == ["a-1", "a-2"]
    assert [run["id"] for run in web.get("/api/v1/runs?alert_id=a-2", headers=an.headers).json()["items"]] == [
        now["id"]
    ]
    assert web.post(f"{url}/approve", json={"shown": now["shown"]}, headers=an.headers).status_code == 200
    work(rt)
    assert decision(rt, device) is trust.Answer.QUARANTINE


def proposed(rt: Runtime, needed: int = 1) -> Any:
    document = camera_document()
    for extension in document["playbook_extensions"].values():
        extension["approvals"] = {"count": needed}
    load(rt, document, mode=Mode.PROPOSE)
    device = new_device(rt)
    raise_alert(rt, device)
    work(rt)
    return device


def test_an_approval_of_fewer_alerts_counts_no_more(rt: Runtime) -> None:
    """The first of two had approved; then an alert joined: both must look at what there is now."""
    device = proposed(rt, needed=2)
    run_id = one_run(rt)["id"]
    rt.db.run(lambda c: decisions.approve(rt, c, AN, run_id=run_id))
    raise_alert(rt, device)
    work(rt)
    assert len(told(rt, "ApprovalNeeded")) == 2
    rt.db.run(lambda c: decisions.approve(rt, c, BINH, run_id=run_id))
    work(rt)
    assert decision(rt, device) is trust.Answer.ALLOW
    rt.db.run(lambda c: decisions.approve(rt, c, AN, run_id=run_id))
    work(rt)
    assert decision(rt, device) is trust.Answer.QUARANTINE


def test_what_joins_between_the_approval_and_the_act_is_looked_at_first(rt: Runtime) -> None:
    device = proposed(rt)
    run_id = one_run(rt)["id"]
    rt.db.run(lambda c: decisions.approve(rt, c, AN, run_id=run_id))
    raise_alert(rt, device)
    Worker(rt, kinds=("soar.alert",)).run_due()
    work(rt)
    assert decision(rt, device) is trust.Answer.ALLOW
    assert (one_run(rt)["state"], one_run(rt)["guard"]) == ("waiting", "propose")


def test_what_joins_and_is_graver_begins_the_proposal_anew(rt: Runtime) -> None:
    device = proposed(rt)
    before = one_run(rt)
    raise_alert(rt, device, severity="critical", sources=3)
    work(rt)
    run = one_run(rt)
    assert (run["id"], run["occurrence"], run["state"], run["guard"]) == (before["id"], 2, "waiting", "propose")
    assert (run["facts"]["severity"], run["facts"]["sources"], run["variables"]["__sources__"]) == ("critical", 3, 3)
    assert [fact.raised for fact in told(rt, "RunJoined")] == [True]
    journal = [(row["step_id"].partition("--")[0], row["occurrence"]) for row in rows(rt, run_journal)]
    assert sorted(journal) == [("if-condition", 1), ("if-condition", 2), ("start", 1), ("start", 2)]
    rt.db.run(lambda c: decisions.approve(rt, c, AN, run_id=run["id"]))
    work(rt)
    assert decision(rt, device) is trust.Answer.QUARANTINE


# what waits for the guards' human is judged again


def test_a_graver_alert_has_the_guards_judge_again_in_an_occurrence_of_its_own(rt: Runtime) -> None:
    load(rt)
    device = new_device(rt, criticality=Criticality.LIFE_SAFETY)
    raise_alert(rt, device)
    work(rt)
    row = one_containment(rt)
    rt.db.run(lambda c: approvals.approve(rt, c, AN, containment_id=row["id"]))
    raise_alert(rt, device, severity="critical")
    work(rt)
    run = one_run(rt)
    assert (run["occurrence"], run["state"], run["guard"]) == (2, "waiting", "life-safety")
    judged = [entry["occurrence"] for entry in rows(rt, run_journal) if entry["phase"] == "intent"]
    assert sorted(judged) == [1, 2]
    rt.db.run(lambda c: approvals.approve(rt, c, BINH, containment_id=row["id"]))
    assert decision(rt, device) is trust.Answer.LIMITED  # one of two: the first saw one alert only
    with pytest.raises(ShownChanged):
        rt.db.run(lambda c: approvals.approve(rt, c, AN, containment_id=row["id"], shown="0" * 64))
    rt.db.run(lambda c: approvals.approve(rt, c, AN, containment_id=row["id"]))
    assert decision(rt, device) is trust.Answer.QUARANTINE
    work(rt)
    assert one_run(rt)["outcome"] == "succeeded"


def test_what_is_no_graver_costs_no_judgement(rt: Runtime) -> None:
    load(rt)
    device = new_device(rt, criticality=Criticality.ESSENTIAL)
    for _ in range(5):
        raise_alert(rt, device)
        work(rt)
    assert (one_run(rt)["occurrence"], len(one_run(rt)["facts"]["alerts"])) == (1, 5)
    assert len(told(rt, "ContainmentWaiting")) == 1


def test_two_senders_of_two_alerts_are_not_two_sources_of_one_thing(rt: Runtime) -> None:
    load(rt)
    device = new_device(rt)
    for sender in ("collector:a", f"device:{device.id}"):
        raise_alert(rt, device, outcome="attempt", sources=1, senders=(sender,))
    work(rt)
    assert decision(rt, device) is trust.Answer.ALLOW


# past the deciding step


@pytest.fixture
def asking(rt: Runtime, peer: Peer) -> Any:
    """A playbook that contains and then asks a peer."""
    object.__setattr__(rt, "settings", rt.settings.model_copy(update={"outgoing_allow": (f"127.0.0.1:{peer.port}",)}))
    document = with_target(camera_document(), peer.base)
    flow = document["workflow"]
    contain = next(name for name, step in flow.items() if step.get("out_args"))
    flow[ASK] = http_action(
        "/idempotent", idempotent=True, nxt=flow[contain]["on_success"], content={"device": "__device__:value"}
    )
    flow[contain]["on_success"] = ASK
    load(rt, document)
    return new_device(rt)


URGENT = ("soar.alert", "soar.run", "soar.enforce", "soar.verify", "soar.expire")


def test_a_peer_that_is_being_asked_holds_no_run(rt: Runtime, peer: Peer, asking: Any) -> None:
    """Until the slow lane has asked, the run stands with its intent, and the urgent lane has nothing to wait for."""
    raise_alert(rt, asking)
    Worker(rt, kinds=URGENT).run_due()
    assert decision(rt, asking) is trust.Answer.QUARANTINE
    run = one_run(rt)
    assert (run["state"], run["waiting_for_kind"], run["waiting_for_ref"]) == ("running", "answer", ASK)
    assert peer.requests == []
    (job,) = [row for row in rows(rt, jobs) if row["kind"] == "soar.http"]
    assert (job["lane"], job["sender"]) == ("slow", f"127.0.0.1:{peer.port}")
    Worker(rt, kinds=("soar.http",)).run_due()
    assert len(peer.requests) == 1
    (job,) = [row for row in rows(rt, jobs) if row["kind"] == "soar.run"]
    assert job["lane"] == "urgent"
    work(rt)
    assert one_run(rt)["outcome"] == "succeeded"


def test_what_is_graver_and_comes_too_late_is_a_run_of_its_own_when_this_one_ends(
    rt: Runtime, peer: Peer, asking: Any
) -> None:
    raise_alert(rt, asking)
    Worker(rt, kinds=URGENT).run_due()
    for _ in range(3):
        raise_alert(rt, asking, severity="critical")
    Worker(rt, kinds=URGENT).run_due()
    first = one_run(rt)
    assert (first["follow_up"], first["occurrence"]) == (True, 1)
    Worker(rt, kinds=("soar.http",)).run_due()
    Worker(rt, kinds=("soar.run",)).run_due()
    assert one_run(rt)["state"] == "ended"  # and, in the same transaction:
    (due,) = [row for row in rows(rt, jobs) if row["kind"] == "soar.alert"]
    assert (due["payload"]["event"], due["severity"]) == (first["id"], 4)
    work(rt)
    second = next(run for run in rows(rt, runs) if run["id"] != first["id"])
    assert (second["event_id"], second["outcome"], second["facts"]["severity"]) == (
        first["id"],
        "succeeded",
        "critical",
    )
    work(rt)
    assert len(rows(rt, runs)) == 2
    assert len(peer.requests) == 2


def test_what_is_no_graver_and_comes_too_late_only_joins(rt: Runtime, peer: Peer, asking: Any) -> None:
    raise_alert(rt, asking)
    Worker(rt, kinds=URGENT).run_due()
    raise_alert(rt, asking)
    work(rt)
    assert one_run(rt)["outcome"] == "succeeded"
    assert len(one_run(rt)["facts"]["alerts"]) == 2


def test_one_open_run_is_the_database_s_rule(rt: Runtime) -> None:
    load(rt, mode=Mode.PROPOSE)
    raise_alert(rt, new_device(rt))
    work(rt)
    twin = one_run(rt) | {"id": "twin", "event_id": "another"}
    with pytest.raises(sa.exc.IntegrityError), rt.db.write() as connection:
        connection.execute(runs.insert().values(**twin))
