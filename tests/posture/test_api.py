"""Posture through the people door: real TLS, sessions and tokens; unknown stands beside fail."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from lachan import clock
from lachan.identity import Role
from lachan.runtime import Runtime
from lachan.work.worker import Worker
from tests.api.support import Session, Town
from tests.posture.cameras import BadCamera
from tests.posture.conftest import register
from tests.posture.test_evaluate import GOOD


@pytest.fixture
def door(rt: Runtime, tmp_path: Path) -> Iterator[tuple[Town, httpx.Client]]:
    town = Town(rt, tmp_path / "authority")
    with town.open(), town.client("people") as client:
        yield town, client


def body(device_id: str, port: int, **changes: Any) -> dict[str, Any]:
    now = clock.now()
    return {
        "reason": "acceptance", "device_ids": [device_id], "ports": [port], "loopback": True, "rate": 1000, "burst": 1000,
        "methods": ["tls", "http", "default-login", "banner"], "not_before": (now - timedelta(minutes=1)).isoformat(),
        "not_after": (now + timedelta(hours=1)).isoformat(), **changes,
    }  # fmt: skip


def send(client: httpx.Client, who: Session, path: str, **content: Any) -> httpx.Response:
    return client.post(f"/api/v1{path}", headers=who.headers, json=content)


def test_from_request_to_verdict(door: tuple[Town, httpx.Client], rt: Runtime, bad: BadCamera) -> None:
    town, client = door
    device = register(rt)
    analyst, approver = town.sign_in("an", Role.ANALYST), town.sign_in("binh", Role.APPROVER)
    asked = send(client, analyst, "/engagements", **body(device.id, bad.port))
    assert asked.status_code == 201, asked.text
    engagement = asked.json()
    assert (engagement["state"], engagement["targets"]) == (
        "requested",
        [{"device_id": device.id, "address": "127.0.0.1"}],
    )

    early = send(client, analyst, f"/devices/{device.id}/assess", engagement_id=engagement["id"])
    assert early.status_code == 409
    own = send(client, analyst, f"/engagements/{engagement['id']}/approve")
    assert own.status_code == 403
    token = {"Authorization": f"Bearer {town.token(Role.ADMIN)}"}
    by_token = client.post(f"/api/v1/engagements/{engagement['id']}/approve", headers=token)
    assert by_token.status_code == 403
    assert bad.connections == 0

    approved = send(client, approver, f"/engagements/{engagement['id']}/approve")
    assert (approved.status_code, approved.json()["approved_by"]) == (200, "person:binh")
    due = send(client, analyst, f"/devices/{device.id}/assess", engagement_id=engagement["id"])
    assert due.status_code == 202
    run_id = due.json()["run_id"]
    assert client.get(f"/api/v1/posture/assessments/{run_id}", headers=analyst.headers).status_code == 404
    Worker(rt).run_due()

    shown = client.get(f"/api/v1/devices/{device.id}/verdicts", headers=analyst.headers).json()
    assert shown["counts"] == {"pass": 0, "fail": 6, "not_applicable": 0, "unknown": 44}
    first = next(v for v in shown["verdicts"] if v["criterion"] == "CAM-1.1")
    assert (first["result"], first["reason"], first["basis"]) == ("fail", "default_login_accepted", "observed")
    assert first["title"]["vi"]
    assert first["valid_until"]
    whole = client.get(f"/api/v1/posture/assessments/{run_id}", headers=analyst.headers).json()
    assert set(first["evidence"]) <= {o["digest"] for o in whole["observations"]}
    assert "hunter2" not in str(whole)
    proof = client.get(f"/api/v1/posture/assessments/{run_id}/proof?criterion=CAM-1.1", headers=analyst.headers).json()
    assert proof["root"] == whole["merkle_root"]
    counted = client.get("/api/v1/posture/counts?by=ward", headers=analyst.headers).json()
    assert counted == [
        {"key": "Hàng Bạc", "devices": 1, "assessed": 1, "pass": 0, "fail": 6, "not_applicable": 0, "unknown": 44}
    ]

    stopped = send(client, approver, f"/engagements/{engagement['id']}/stop", reason="done")
    assert stopped.json()["state"] == "stopped"
    late = send(client, analyst, f"/devices/{device.id}/assess", engagement_id=engagement["id"])
    assert late.status_code == 409


def test_a_manufacturer_meets_its_own_devices_only(door: tuple[Town, httpx.Client], rt: Runtime) -> None:
    town, client = door
    own, other = register(rt, "cam-1"), register(rt, "cam-2", vendor="other")
    analyst, maker = town.sign_in("an", Role.ANALYST), town.sign_in("maker", Role.MANUFACTURER, vendor="acme")
    runs = [send(client, analyst, f"/devices/{d.id}/assess").json()["run_id"] for d in (own, other)]
    asked = send(client, analyst, "/engagements", **body(other.id, 80)).json()
    Worker(rt).run_due()

    def get(path: str) -> httpx.Response:
        return client.get(f"/api/v1{path}", headers=maker.headers)

    assert get(f"/devices/{own.id}/verdicts").json()["counts"]["unknown"] == 50
    assert get(f"/posture/assessments/{runs[0]}").status_code == 200
    hidden = [f"/devices/{other.id}/verdicts", f"/posture/assessments/{runs[1]}", f"/engagements/{asked['id']}",
              f"/posture/assessments/{runs[1]}/proof?criterion=CAM-1.1"]  # fmt: skip
    assert [get(path).status_code for path in hidden] == [404] * 4
    assert [row["key"] for row in get("/posture/counts").json()] == ["acme"]
    assert get("/engagements").json()["items"] == []
    assert send(client, maker, f"/devices/{own.id}/assess").status_code == 403
    assert send(client, maker, f"/engagements/{asked['id']}/stop", reason="x").status_code == 404

    declared = client.post("/api/v1/posture/declarations", headers=maker.headers, json=GOOD)
    assert declared.status_code == 201, declared.text
    foreign = client.post("/api/v1/posture/declarations", headers=maker.headers, json={**GOOD, "vendor": "other"})
    assert foreign.status_code == 404
    wrong = client.post("/api/v1/posture/declarations", headers=maker.headers, json={**GOOD, "sensors": 1})
    assert (wrong.status_code, wrong.json()["path"]) == (422, "sensors")
    assert [d["document"]["vendor"] for d in get("/posture/declarations").json()["items"]] == ["acme"]


def test_the_catalogue_on_a_day(door: tuple[Town, httpx.Client]) -> None:
    town, client = door
    auditor = town.sign_in("au", Role.AUDITOR)
    now = client.get("/api/v1/posture/catalogue?as_of=2026-07-01", headers=auditor.headers).json()
    before = client.get("/api/v1/posture/catalogue?as_of=2026-06-30", headers=auditor.headers).json()
    assert now["hash"] == before["hash"]
    rows = [{row["id"]: row for row in found["criteria"]} for found in (now, before)]
    assert [r["CAM-1.1"]["in_force"][0] for r in rows] == ["QCVN11:2026/BCA", "QCVN135:2024/BTTTT"]
    assert "wording" in rows[0]["CAM-8.2"]["unverified"]
    assert client.get("/api/v1/posture/catalogue?as_of=soon", headers=auditor.headers).status_code == 422


@pytest.mark.parametrize(
    "change",
    [{"ports": [0]}, {"methods": ["exploit"]}, {"not_after": "2026-01-01T00:00:00"}, {"networks": ["all"]}, {"loopback": False},
     {"extra": 1}, {"reason": ""}, {"rate": 0}],
)  # fmt: skip
def test_requests_that_cannot_be(door: tuple[Town, httpx.Client], rt: Runtime, change: dict[str, Any]) -> None:
    town, client = door
    device = register(rt)
    answer = send(client, town.sign_in("an", Role.ANALYST), "/engagements", **body(device.id, 80, **change))
    assert answer.status_code == 422, answer.text
