"""What is forgotten for want of room is counted, and told as a fact about whose it was, once an hour."""

from collections import Counter
from typing import Any

import pytest

from lachan import clock
from lachan.runtime import Runtime
from lachan.work import outbox
from siem_rules import memory, ruleset
from siem_rules.detector import Detector
from siem_rules.forgotten import MOST, Forgotten, counts
from tests.siem_rules.support import collector, device, documents, send


def facts(rt: Runtime) -> list[tuple[str, str, int]]:
    with rt.db.read() as connection:
        stored = outbox.read(connection, names=("EvidenceForgotten",), limit=100)
        return [(one.event.what, one.event.sender, one.event.count) for one in stored]


def counted(rt: Runtime) -> dict[str, int]:
    with rt.db.read() as connection:
        return counts(connection)


def test_past_a_threshold_it_is_a_fact_once_an_hour(rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("siem_rules.forgotten.time.monotonic", lambda: now[0])
    told, most = Forgotten(rt), 1000
    went = Counter({("groups", "device:a"): most - 1, ("ids", "device:b"): 10**6})
    told.tell(went)
    told.tell(went)
    assert (facts(rt), counted(rt)) == ([], {"groups": most - 1, "ids": 10**6})
    went["groups", "device:a"] += 1
    told.tell(went)
    went["groups", "device:a"] += most
    told.tell(went)
    assert facts(rt) == [("groups", "device:a", most)]
    assert counted(rt)["groups"] == 2 * most
    now[0] = 3700.0
    told.tell(went)
    assert len(facts(rt)) == 1, "an hour without more is no fact"
    went["groups", "device:a"] += most
    told.tell(went)
    assert facts(rt)[1:] == [("groups", "device:a", most)]
    told.tell(went + Counter({("matches", f"device:{n}"): most + n for n in range(100)}))
    assert len(facts(rt)) == 1 + MOST
    assert ("matches", "device:99", most + 99) in facts(rt), "the worst first"


def test_what_the_detector_forgets_is_told(open_rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector's storm over more devices than there is room for."""
    monkeypatch.setattr(memory, "GROUPS", 50)
    monkeypatch.setattr(memory, "FLOOR", 0)
    tight = open_rt.settings.model_copy(update={"siem_forgotten_told": 20})
    object.__setattr__(open_rt, "settings", tight)
    lines: list[dict[str, Any]] = []
    for number in range(150):
        device(open_rt, f"cam-{number}")
        lines.append({
            "@timestamp": clock.iso(clock.now()), "host": {"name": f"cam-{number}"}, "process": {"name": "dropbear"},
            "message": f"Bad password attempt for 'root' from 198.51.100.23:{4000 + number}",
        })  # fmt: skip
    gateway = collector("gw")
    send(open_rt, gateway, documents(*lines))
    detector = Detector(open_rt, ruleset.ours())
    while detector.round():
        pass
    detector._keep_house()
    assert counted(open_rt)["groups"] >= 20
    ((what, sender, count),) = facts(open_rt)
    assert (what, sender) == ("groups", gateway.label)
    assert count == counted(open_rt)["groups"]
