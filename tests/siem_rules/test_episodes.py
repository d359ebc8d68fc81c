"""One alert per rule and group until a person cuts it: dates make none, a close or a release does, and order does not matter."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from lachan import clock
from lachan.events import AlertRaised, ContainmentEnded
from lachan.identity import Principal, Role, system
from lachan.runtime import Runtime
from lachan.work import outbox
from lachan.work.jobs import jobs as job_rows
from siem_rules import alerts as alert_rows
from siem_rules import ruleset, service
from siem_rules.detector import Detector
from siem_rules.models import alerts
from tests.conftest import person
from tests.siem_rules.support import EXPECTED, RECORDING, collector, detect, device, documents, raised, send, shifted

PROBE = {"process": {"name": "sh"}, "message": "XMHDIPC: applet not found"}
ANALYST = person("an", Role.ANALYST)


def probe(at: datetime | None = None, **more: Any) -> dict[str, Any]:
    """A line that one rule finds, dated as asked."""
    return {"@timestamp": clock.iso(at or clock.now())} | PROBE | more


def rows(rt: Runtime) -> list[Any]:
    """All alerts in the order in which they were opened."""
    with rt.db.read() as connection:
        return list(connection.execute(sa.select(alerts).order_by(alerts.c.received_first)).mappings())


def facts(rt: Runtime) -> list[AlertRaised]:
    """What was told of them."""
    with rt.db.read() as connection:
        return [stored.event for stored in outbox.read(connection, names=("AlertRaised",), limit=5000)]


def released(rt: Runtime, camera: Principal) -> None:
    """What the end of a containment leaves for others to see."""
    ended = ContainmentEnded(device_id=camera.id, containment_id="c", by="person:binh")
    rt.db.run(lambda connection: outbox.append(connection, ended, actor=system("test")))


class Moving:
    """A clock that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = clock.now()
        monkeypatch.setattr("lachan.clock.now", lambda: self.now)

    def by(self, **span: float) -> None:
        """Go on."""
        self.now += timedelta(**span)


@pytest.fixture
def moving(monkeypatch: pytest.MonkeyPatch) -> Moving:
    """The clock of the test."""
    return Moving(monkeypatch)


@pytest.mark.parametrize("who", ["device", "collector"])
def test_dates_make_no_alerts_and_delay_nobody(open_rt: Runtime, who: str) -> None:
    """Three thousand lines dated hours apart: one alert; and who sends after them is found while most of them wait."""
    loud, victim = device(open_rt, "cam-loud"), device(open_rt, "cam-victim", site="elsewhere")
    begin, sender = clock.now() - timedelta(days=400), loud if who == "device" else collector("gw")
    lines = [probe(begin + timedelta(hours=2 * n), host={"name": "cam-loud"}) for n in range(3000)]
    for _ in range(7):
        send(open_rt, sender, documents(*lines))
    send(open_rt, victim, shifted(RECORDING))
    detector, rounds = Detector(open_rt, ruleset.ours()), 0
    while {fact.device_id for fact in facts(open_rt)} - {loud.id} != {victim.id}:
        detector.round()
        rounds += 1
    assert detector.counters["events"] < 10_000, "it waited behind the others"
    while detector.round():
        pass
    detector.commit()
    assert raised(open_rt) == dict.fromkeys(EXPECTED, 1) | {"busybox_probe": 2}
    [mine] = [row for row in rows(open_rt) if row["device_id"] == loud.id]
    assert mine["matches"] >= 1
    assert mine["last_at"] - mine["first_at"] < timedelta(days=8)


def test_a_close_and_the_end_of_a_containment_cut(open_rt: Runtime, moving: Moving) -> None:
    """The same line again, of the same second even, is news after a cut and none before."""
    camera, dated = device(open_rt, "cam-a"), clock.now()
    for _ in range(3):
        send(open_rt, camera, documents(probe(dated)))
        detect(open_rt)
        moving.by(seconds=20)
    assert [row["matches"] for row in rows(open_rt)] == [3]
    with open_rt.db.write() as connection:
        service.close(connection, ANALYST, rows(open_rt)[0]["id"], verdict="true_positive")
    moving.by(seconds=1)
    send(open_rt, camera, documents(probe(dated)))
    detect(open_rt)
    assert [(row["state"], row["matches"]) for row in rows(open_rt)] == [("closed", 3), ("open", 1)]
    moving.by(seconds=1)
    released(open_rt, camera)
    moving.by(seconds=1)
    for _ in range(2):
        send(open_rt, camera, documents(probe(dated)))
        detect(open_rt)
    assert [(row["state"], row["matches"]) for row in rows(open_rt)] == [("closed", 3), ("open", 1), ("open", 2)]
    assert [fact.alert_id for fact in facts(open_rt)] == [row["id"] for row in rows(open_rt)]
    other = device(open_rt, "cam-b")
    send(open_rt, other, documents(probe()))
    released(open_rt, camera)
    moving.by(seconds=1)
    send(open_rt, other, documents(probe()))
    detect(open_rt)
    assert len(facts(open_rt)) == 4, "another device's release cuts nothing"


def test_one_detector_that_runs_on_sees_the_cut(open_rt: Runtime, moving: Moving) -> None:
    """Its memory holds the episode; the line after the cut is found all the same, and at once enough."""
    camera = device(open_rt, "cam-a")
    detector = Detector(open_rt, ruleset.ours())
    for _ in range(2):
        send(open_rt, camera, documents(probe()))
        detector.round()
        detector.commit()
        moving.by(seconds=1)
        released(open_rt, camera)
        moving.by(seconds=1)
    assert [row["matches"] for row in rows(open_rt)] == [1, 1]


def test_what_was_received_before_the_cut_joins_what_was_cut(open_rt: Runtime, moving: Moving) -> None:
    """A line that waited in a queue while its alert was closed and another one opened by who came first."""
    camera = device(open_rt, "cam-a")
    send(open_rt, camera, documents(probe()))
    first = Detector(open_rt, ruleset.ours())
    first.round()
    first.commit()
    moving.by(seconds=5)
    send(open_rt, camera, documents(probe()))  # waits
    moving.by(seconds=5)
    with open_rt.db.write() as connection:
        service.close(connection, ANALYST, rows(open_rt)[0]["id"], verdict="false_positive")
    moving.by(seconds=5)
    gateway = collector("gw")
    send(open_rt, gateway, documents(probe(host={"name": "cam-a"})))
    first._backlog.scan()
    first._backlog.charge_account("vendor:acme", 60.0)  # the collector's turn comes first
    detect_all(first)
    assert [(row["state"], row["matches"]) for row in rows(open_rt)] == [("closed", 2), ("open", 1)]
    assert [fact.senders for fact in facts(open_rt)] == [(camera.label,), (gateway.label,)]


def detect_all(detector: Detector) -> None:
    """Let a detector do what waits."""
    while detector.round():
        pass
    detector.commit()


def test_an_episode_that_goes_on_after_a_quiet_time_is_told_again(open_rt: Runtime, moving: Moving) -> None:
    """Nobody closed it: it stays one alert, but somebody is told, and its sources count anew."""
    camera = device(open_rt, "cam-a")
    send(open_rt, camera, documents(probe()))
    detect(open_rt)
    with open_rt.db.write() as connection:
        service.acknowledge(connection, ANALYST, rows(open_rt)[0]["id"])
    moving.by(seconds=alert_rows.QUIET + 1)
    send(open_rt, collector("gw"), documents(probe(host={"name": "cam-a"})))
    detect(open_rt)
    moving.by(seconds=60)
    send(open_rt, collector("gw"), documents(probe(host={"name": "cam-a"})))
    detect(open_rt)
    [row] = rows(open_rt)
    assert (row["matches"], row["state"], row["sources"], len(row["evidence"])) == (3, "open", 1, 2)
    assert [(fact.alert_id, fact.sources) for fact in facts(open_rt)] == [(row["id"], 1)] * 2
    send(open_rt, camera, documents(probe()))
    detect(open_rt)
    assert [fact.sources for fact in facts(open_rt)] == [1, 1, 2], "two that speak now are two"


def test_an_alert_waits_in_the_turn_of_who_delivered_the_line_that_decided(open_rt: Runtime) -> None:
    """Not of the first by name of all who were heard: that one would pay for another's flood."""
    camera, gateway = device(open_rt, "cam-a"), collector("gw")
    for sender in (gateway, camera):
        send(open_rt, sender, documents(probe(host={"name": "cam-a"})))
        detect(open_rt)
    assert [fact.senders for fact in facts(open_rt)] == [(gateway.label,), tuple(sorted((gateway.label, camera.label)))]
    with open_rt.db.read() as connection:
        query = sa.select(job_rows.c.sender).where(job_rows.c.kind == "soar.alert").order_by(job_rows.c.id)
        assert list(connection.execute(query).scalars()) == [gateway.label, camera.label]


@pytest.mark.parametrize("kept", [True, False], ids=["one detector", "a new detector"])
@pytest.mark.parametrize("cut", ["closed", "open"])
def test_who_attacks_after_a_clock_was_put_back_is_found(
    open_rt: Runtime, moving: Moving, *, kept: bool, cut: str
) -> None:
    """What was seen, closed or left open while the clock was 36 days ahead hides nothing of what comes then."""
    camera = device(open_rt, "cam-a")
    detector = Detector(open_rt, ruleset.ours())
    moving.by(days=36)
    send(open_rt, camera, shifted(RECORDING))
    detect_all(detector)
    before = raised(open_rt)
    assert before == dict.fromkeys(EXPECTED, 1)
    if cut == "closed":
        for row in rows(open_rt):
            with open_rt.db.write() as connection:
                service.close(connection, ANALYST, row["id"], verdict="true_positive")
    moving.by(days=-36)
    for number in range(2):
        moving.by(minutes=10)
        send(open_rt, camera, shifted(RECORDING).replace(b'"recording-', b'"again-%d-' % number))
        detect_all(detector if kept else Detector(open_rt, ruleset.ours()))
    assert set(raised(open_rt) - before) == set(EXPECTED), "each of them again"
    assert all(row["received_first"] <= clock.now() for row in rows(open_rt)[: len(EXPECTED)])
    assert len(rows(open_rt)) == 2 * len(EXPECTED), "and the second time joins what the first one opened"
