"""Must show 8: `kill -9` at each boundary of the journal, the boundaries taken from its code.

One run has all kinds of steps: it waits for approval (propose mode), contains, asks an idempotent peer, asks a peer that
counts every request, and pages. For each boundary a process is killed there and another one started; then everything is
counted where it happened: rows, the ledger, the enforcement point's log, the HTTP peer.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from lachan import clock
from lachan.runtime import Runtime
from soar_playbooks.faults import Boundary
from soar_playbooks.models import run_journal, runs
from soar_playbooks.playbooks import Mode
from soar_playbooks.runs import decisions
from tests.soar_playbooks.peer import Peer
from tests.soar_playbooks.points import FilePoint
from tests.soar_playbooks.support import (
    BINH,
    camera_document,
    http_action,
    load,
    new_device,
    raise_alert,
    rows,
    told,
    with_target,
)
from tests.soar_playbooks.zygote import Zygote

IDEMPOTENT = "action--11111111-1111-4111-8111-111111111111"
COUNTER = "action--22222222-2222-4222-8222-222222222222"
ASK = "if-condition--33333333-3333-4333-8333-333333333333"
STEP = 200  # seconds of clock between two scenarios; leases are 30


@pytest.fixture
def zygote(rt: Runtime, database_url: str, peer: Peer) -> Iterator[Zygote]:
    found = Zygote(
        rt.settings.data, database_url, outgoing_allow=[f"127.0.0.1:{peer.port}"], webhook_url=f"{peer.base}/hook",
        budget_site=1000, budget_model=1000, budget_detector=1000,
    )  # fmt: skip
    yield found
    found.close()


def playbook(peer: Peer) -> dict[str, Any]:
    """contain → idempotent peer → counting peer → page → a condition → end."""
    document = with_target(camera_document(), peer.base)
    flow = document["workflow"]
    contain = next(name for name, step in flow.items() if step.get("out_args"))
    page = next(name for name, step in flow.items() if step["type"] == "action" and name != contain)
    body = {"device": "__device__:value"}
    end = next(name for name, step in flow.items() if step["type"] == "end")
    flow[contain]["on_success"] = IDEMPOTENT
    flow[page]["on_completion"] = ASK
    flow[ASK] = {
        "type": "if-condition", "condition": "__subject_bound__:value = true", "on_true": end, "on_false": end,
    }  # fmt: skip
    flow[IDEMPOTENT] = http_action("/idempotent", idempotent=True, nxt=COUNTER, content=body)
    flow[COUNTER] = http_action("/counter", idempotent=False, nxt=page, content=body)
    return document


class Scenario:
    """One device, one alert, one run; `check` counts what became of it."""

    def __init__(self, rt: Runtime, peer: Peer, zygote: Zygote, number: int) -> None:
        self.rt, self.peer, self.zygote, self.begin = rt, peer, zygote, STEP * number
        with clock.travel(timedelta(seconds=self.begin)):
            self.device = new_device(rt, f"cam-{number}")
            self.event = raise_alert(rt, self.device)
            self.joins = raise_alert(rt, self.device)  # whatever dies, both are in the one run, once

    def die_at(self, boundary: str, count: int) -> bool:
        """Live until killed there; False if life ended without getting there."""
        (status,) = self.zygote.live(fault=f"{boundary}:{count}", offset=self.begin, approve=True)
        assert status in {0, -9}
        return status == -9

    def recover(self) -> dict[str, Any]:
        """Start again, twice, after the leases are over; a human looks at the peer if the run asks. Gives the run."""
        assert self.zygote.live(offset=self.begin + 60, approve=True) == [0]
        assert self.zygote.live(offset=self.begin + 120, approve=True) == [0]
        run = self.run()
        if run["guard"] == "outcome-unknown":
            with clock.travel(timedelta(seconds=self.begin + 120)):
                happened = self.peer.effects(self.device.id)[1] == 1
                with self.rt.db.write() as connection:
                    decisions.resolve(self.rt, connection, BINH, run_id=run["id"], happened=happened)
            assert self.zygote.live(offset=self.begin + 180) == [0]
            return {**self.run(), "asked": True}
        return {**run, "asked": False}

    def run(self) -> dict[str, Any]:
        (found,) = [row for row in rows(self.rt, runs) if row["device_id"] == self.device.id]
        return found

    def about(self, *names: str) -> int:
        return len([event for event in told(self.rt, *names) if event.device_id == self.device.id])

    def check(self, run: dict[str, Any]) -> None:
        assert run["state"] == "ended"
        assert self.about("RunStarted") == self.about("RunFinished") == 1
        assert self.about("RunApproved") == self.about("RunJoined") == 1
        assert len(run["facts"]["alerts"]) == 2
        assert "more" not in run["facts"]
        assert self.about("DeviceContained") == self.about("HumanPaged") == 1
        assert FilePoint(self.rt).changes(self.device.id) == ["quarantine"]
        assert self.about("EnforcementSettled") == 1
        once, counted = self.peer.effects(self.device.id)
        assert once == 1
        assert self.about("RunOutcomeUnknown") == (1 if run["asked"] else 0)
        if run["asked"]:
            assert counted <= 1
            assert run["outcome"] == ("succeeded" if counted else "failed")
        else:
            assert counted == 1
            assert run["outcome"] == "succeeded"
        journal = [row for row in rows(self.rt, run_journal) if row["run_id"] == run["id"]]
        assert sorted(row["position"] for row in journal) == list(range(len(journal)))
        mine = [h for h, body in self.peer.hooks() if self.device.id in body]
        assert {h["webhook-id"] for h in mine} >= {self.event, self.joins}
        assert all(h["webhook-signature"].startswith("v1,") for h in mine)


def start(rt: Runtime, peer: Peer, zygote: Zygote) -> None:
    load(rt, playbook(peer), mode=Mode.PROPOSE)


def test_a_life_without_death(rt: Runtime, peer: Peer, zygote: Zygote) -> None:
    start(rt, peer, zygote)
    scenario = Scenario(rt, peer, zygote, 0)
    assert not scenario.die_at("nowhere", 1)
    run = scenario.run()
    assert run["outcome"] == "succeeded"
    scenario.check({**run, "asked": False})


@pytest.mark.timeout(300)
def test_death_at_each_boundary_and_recovery(rt: Runtime, peer: Peer, zygote: Zygote) -> None:
    start(rt, peer, zygote)
    for number, boundary in enumerate(Boundary):
        scenario = Scenario(rt, peer, zygote, number)
        assert scenario.die_at(boundary, 1), f"no life reaches {boundary}"
        scenario.check(scenario.recover())


@pytest.mark.fault
@pytest.mark.timeout(1800)
def test_death_at_every_passage_of_each_boundary(rt: Runtime, peer: Peer, zygote: Zygote) -> None:
    start(rt, peer, zygote)
    number, asked = 0, 0
    for boundary in Boundary:
        for count in range(1, 30):
            number += 1
            scenario = Scenario(rt, peer, zygote, number)
            died = scenario.die_at(boundary, count)
            run = scenario.recover()
            asked += run["asked"]
            scenario.check(run)
            if not died:
                assert count > 1
                break
    # Killed between the counting peer's intent and its outcome: before it was asked, right after, at the outcome's end.
    assert asked == 3
