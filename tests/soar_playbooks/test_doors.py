"""The people door: runs, playbooks and containments over real TLS, with real sessions; tokens may look and not approve."""

from typing import Any

import httpx

from lachan import trust
from lachan.identity import Role
from soar_playbooks.playbooks import Mode
from tests.api.support import Town
from tests.soar_playbooks.support import (
    camera_document,
    decision,
    load,
    new_device,
    one_containment,
    one_run,
    raise_alert,
    signed,
    trusted_key,
    work,
)


def test_two_persons_release_over_http_and_a_token_cannot(town: Town, web: httpx.Client) -> None:
    rt = town.rt
    load(rt)
    device = new_device(rt)
    raise_alert(rt, device)
    work(rt)
    an, binh, chi = (town.sign_in(name, role) for name, role in (
        ("an", Role.APPROVER), ("binh", Role.APPROVER), ("chi", Role.ANALYST),
    ))  # fmt: skip
    (run,) = web.get("/api/v1/runs", headers=an.headers).json()["items"]
    detail = web.get(f"/api/v1/runs/{run['id']}", headers=an.headers).json()
    assert [entry["phase"] for entry in detail["journal"]][-1] == "outcome"
    url = f"/api/v1/containments/{one_containment(rt)['id']}"
    assert web.get(url, headers=chi.headers).json()["state"] == "active"
    assert web.post(f"{url}/release", json={}, headers=chi.headers).json()["code"] == "forbidden"
    first = web.post(f"{url}/release", json={"note": "cleaned"}, headers=an.headers)
    assert (first.status_code, first.json()["releases"], first.json()["state"]) == (200, 1, "active")
    again = web.post(f"{url}/release", json={}, headers=an.headers)
    assert (again.status_code, again.json()["code"]) == (403, "four-eyes")
    assert decision(rt, device) is trust.Answer.QUARANTINE
    second = web.post(f"{url}/release", json={}, headers=binh.headers)
    assert (second.json()["releases"], second.json()["state"]) == (2, "ended")
    assert decision(rt, device) is trust.Answer.ALLOW
    third = web.post(f"{url}/release", json={}, headers=binh.headers)
    assert third.status_code == 409


def test_a_waiting_run_is_approved_or_rejected_by_a_person(town: Town, web: httpx.Client) -> None:
    rt = town.rt
    load(rt, mode=Mode.PROPOSE)
    device = new_device(rt)
    raise_alert(rt, device)
    work(rt)
    an = town.sign_in("an", Role.APPROVER)
    admin = town.sign_in("quyen", Role.ADMIN)
    run = web.get("/api/v1/runs?state=waiting", headers=an.headers).json()["items"][0]
    detail = web.get(f"/api/v1/runs/{run['id']}", headers=an.headers).json()
    assert detail["plan"][0]["verb"] == "containment.set"
    assert web.post(f"/api/v1/runs/{run['id']}/approve", json={}, headers=admin.headers).status_code == 403
    assert web.post(f"/api/v1/runs/{run['id']}/resolve", json={"happened": True}, headers=an.headers).status_code == 409
    approved = web.post(f"/api/v1/runs/{run['id']}/approve", json={"note": "yes"}, headers=an.headers)
    assert approved.json()["decisions"][0]["note"] == "yes"
    work(rt)
    assert decision(rt, device) is trust.Answer.QUARANTINE
    assert web.get(f"/api/v1/runs/{one_run(rt)['id']}", headers=an.headers).json()["outcome"] == "succeeded"


def test_playbooks_are_loaded_and_switched(town: Town, web: httpx.Client) -> None:
    admin, an = town.sign_in("quyen", Role.ADMIN), town.sign_in("an", Role.APPROVER)
    text = signed(camera_document(), trusted_key(town.rt))
    body: dict[str, Any] = {"file": "camera.cacao.json", "text": text}
    assert web.post("/api/v1/playbooks", json=body, headers=an.headers).status_code == 403
    loaded = web.post("/api/v1/playbooks", json=body, headers=admin.headers)
    assert (loaded.status_code, loaded.json()["mode"]) == (201, "propose")
    url = f"/api/v1/playbooks/{loaded.json()['id']}"
    assert web.put(f"{url}/mode", json={"mode": "enforce"}, headers=an.headers).status_code == 403
    assert web.put(f"{url}/mode", json={"mode": "enforce"}, headers=admin.headers).json()["mode"] == "enforce"
    assert web.get(url, headers=an.headers).json()["document"]["spec_version"] == "cacao-2.0"
    assert len(web.get("/api/v1/playbooks", headers=an.headers).json()["items"]) == 1
    bad = web.post("/api/v1/playbooks", json={**body, "text": text.replace("paged", "asked")}, headers=admin.headers)
    assert (bad.status_code, bad.json()["code"]) == (403, "signature-invalid")
    assert bad.json()["file"] == "camera.cacao.json"
    assert bad.json()["step"].startswith("start--")


def test_a_proposal_and_the_kill_switch(town: Town, web: httpx.Client) -> None:
    rt = town.rt
    chi, an, admin = (town.sign_in(name, role) for name, role in (
        ("chi", Role.ANALYST), ("an", Role.APPROVER), ("quyen", Role.ADMIN),
    ))  # fmt: skip
    device = new_device(rt)
    body = {"device_id": device.id, "level": "quarantine", "reason": "odd"}
    proposed = web.post("/api/v1/containments", json=body, headers=chi.headers)
    assert (proposed.status_code, proposed.json()["guard"]) == (201, "proposed")
    url = f"/api/v1/containments/{proposed.json()['id']}"
    assert web.post(f"{url}/approve", json={}, headers=an.headers).json()["state"] == "active"
    assert decision(rt, device) is trust.Answer.QUARANTINE
    assert len(web.get("/api/v1/containments?state=open", headers=chi.headers).json()["items"]) == 1
    switch = "/api/v1/containments/kill-switch"
    wanted = {"active": True, "reason": "stop"}
    assert web.put(switch, json=wanted, headers=an.headers).status_code == 403
    assert web.put(switch, json=wanted, headers=admin.headers).json()["by"] == "person:quyen"
    assert web.get(switch, headers=chi.headers).json()["active"] is True


def test_a_manufacturer_meets_no_run_or_containment(town: Town, web: httpx.Client) -> None:
    load(town.rt)
    raise_alert(town.rt, new_device(town.rt))
    work(town.rt)
    maker = town.sign_in("maker", Role.MANUFACTURER, vendor="Acme")
    for url in ("/api/v1/runs", "/api/v1/containments", "/api/v1/playbooks"):
        assert web.get(url, headers=maker.headers).status_code == 403
