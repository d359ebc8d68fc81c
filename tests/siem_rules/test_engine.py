"""The engine's memory: capped, counted, forgotten in time; and a log that is shortened under the detector."""

import pytest

from lachan.identity.principal import PrincipalKind
from lachan.runtime import Runtime
from siem_rules import detector, engine, memory, ruleset, segments
from siem_rules.binding import Binding
from siem_rules.delivery import Sender
from siem_rules.engine import Engine
from siem_rules.schema.event import LogEvent, Place
from siem_rules.windows import EVENTS, EventCount, Group
from tests.siem_rules.support import BENIGN, EXPECTED, RECORDING, collector, detect, raised, send, shifted

SENDER = Sender("collector:gw", PrincipalKind.COLLECTOR, "gw", "gw", "ward-7")
UNBOUND = Binding(False, None, "", "", ("claim", SENDER.label, ""))
SOURCE = {"product": "linux", "category": "authentication", "service": "dropbear"}


def refusals(made: Engine, *, addresses: int, each: int = 1, received: float = 0.0) -> int:
    """Feed refused logins from many addresses; return the number of findings."""
    found = 0
    for number in range(addresses):
        for again in range(each):
            fields = {
                "event.action": "ssh-login",
                "event.outcome": "failure",
                "source.ip": f"10.0.{number // 250}.{number % 250}",
            }
            event = LogEvent(fields, SENDER, received + again, Place("s", number, again), SOURCE)
            found += len(made.process(event, received=received))
    return found


def new_engine() -> Engine:
    """An engine with our rules in which nobody may speak of anybody."""
    return Engine(ruleset.ours(), lambda event, subject: UNBOUND)


def test_groups_are_capped_and_eviction_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CLAIM_GROUPS", 10)
    made = new_engine()
    refusals(made, addresses=50)
    assert made.groups == 10
    assert made.forgotten == {("groups", SENDER.label): 40}
    assert made.claims.entries == 10


def test_remembered_matches_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CLAIM_ENTRIES", 400)
    made = new_engine()
    refusals(made, addresses=10, each=60)
    assert 300 <= made.claims.entries <= 400
    assert made.groups == 20, "ten storms, and ten that wait for a login"
    assert made.forgotten["matches", SENDER.label] >= 600 - made.claims.entries


def test_one_group_is_capped_and_still_counts() -> None:
    group = Group[int](EventCount(3), 60.0)
    for number in range(EVENTS + 100):
        group.add(float(number), 0, number)
    assert len(group.entries) == len(group.times[0]) == EVENTS
    assert group.evicted == 100
    assert len(group.moments) <= EVENTS
    assert len(group.episodes) == 1


def test_idle_groups_are_forgotten_by_the_time_of_receipt() -> None:
    made = new_engine()
    refusals(made, addresses=5, received=1000.0)
    made.expire(1000.0 + 60)
    assert made.groups == 5
    made.expire(1000.0 + 600)
    assert (made.groups, made.claims.entries, made._alert_groups) == (0, 0, {})


def test_story_slots_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "ALERT_GROUPS", 3)
    made = new_engine()
    assert refusals(made, addresses=6, each=10, received=1000.0) == 6
    assert made.counters["alert_groups_merged"] == 3
    made.expire(9000.0)
    refusals(made, addresses=3, each=10, received=9000.0)
    assert made.counters["alert_groups_merged"] == 3


def test_log_that_is_shortened_under_the_detector(open_rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 2000)
    monkeypatch.setattr(detector, "KEEP_BYTES", 4000)
    gateway = collector("gw")
    for number in range(10):
        send(open_rt, gateway, shifted(BENIGN).replace(b'"benign-', b'"b%d-' % number))
    monkeypatch.setattr(detector, "_LATENESS", -10_000.0)  # as if all of it were hours old
    made = detect(open_rt)
    monkeypatch.setattr(detector, "_HOUSEKEEPING", -1.0)
    stream = open_rt.settings.data / "logs" / "bulk-0"
    before = len(segments.segment_files(stream))
    made.round()
    assert len(segments.segment_files(stream)) < before
    send(open_rt, gateway, shifted(RECORDING))
    detect(open_rt)  # rebuilds from a place that retention has removed
    assert set(raised(open_rt)) == set(EXPECTED)
