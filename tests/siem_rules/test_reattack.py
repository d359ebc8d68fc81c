"""The same attack again, after people closed the alert and released the device: a new alert, a new run, contained again.

A ported attack: within the rule's span the second one joined the old alert, even a closed one, and nothing was done about it.
The lines take the way of a collector's delivery, people decide at the people door, the real detector and worker do the rest.
"""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lachan import clock, trust
from lachan.devices import Criticality
from lachan.identity import Principal, Role
from lachan.runtime import Runtime
from soar_playbooks.models import containments, runs
from tests.api.support import Town
from tests.siem_rules.support import device, documents, send
from tests.siem_rules.test_framing_contained import answer, enforcing, settle  # noqa: F401
from tests.soar_playbooks.support import rows


@pytest.fixture
def town(enforcing: Runtime, tmp_path: Path) -> Iterator[Town]:  # noqa: F811
    found = Town(enforcing, tmp_path / "authority")
    with found.open():
        yield found


@pytest.fixture
def web(town: Town) -> Iterator[httpx.Client]:
    with town.client("people") as client:
        yield client


def attack(rt: Runtime, camera: Principal) -> None:
    line = {"@timestamp": clock.iso(clock.now()), "process": {"name": "sh"}, "message": "+ /tmp/.sora selfrep.dropbear"}
    send(rt, camera, documents(line))
    settle(rt)


@pytest.mark.parametrize("close", [True, False])
def test_the_same_attack_after_a_release_is_contained_again(town: Town, web: httpx.Client, close: bool) -> None:
    rt = town.rt
    an, binh, chi = (town.sign_in(name, role) for name, role in (
        ("an", Role.APPROVER), ("binh", Role.APPROVER), ("chi", Role.ANALYST),
    ))  # fmt: skip
    camera = device(rt, "cam-b", criticality=Criticality.NORMAL)
    attack(rt, camera)
    assert answer(rt, camera) is trust.Answer.QUARANTINE
    if close:
        for alert in web.get(f"/api/v1/alerts?device_id={camera.id}", headers=chi.headers).json()["items"]:
            body = {"verdict": "true_positive"}
            closed = web.post(f"/api/v1/alerts/{alert['id']}/close", json=body, headers=chi.headers)
            assert closed.status_code == 200, closed.text
    (row,) = rows(rt, containments)
    for who in (an, binh):
        web.post(f"/api/v1/containments/{row['id']}/release", json={"note": "cleaned"}, headers=who.headers)
    assert answer(rt, camera) is trust.Answer.ALLOW
    attack(rt, camera)
    assert answer(rt, camera) is trust.Answer.QUARANTINE
    assert len(rows(rt, runs)) == 2
    alerts = web.get(f"/api/v1/alerts?device_id={camera.id}", headers=chi.headers).json()["items"]
    assert len(alerts) == 2
