"""Must show 5: from the bytes that a sender delivers to alerts and facts, each once, in whatever order they come."""

import threading
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from lachan import clock
from lachan.database import Database
from lachan.errors import DatabaseAway
from lachan.runtime import Runtime
from lachan.work import outbox
from siem_rules import ingest, ruleset
from siem_rules.detector import Detector, _go_on, main
from siem_rules.errors import DetectorReplaced
from siem_rules.models import alerts, checkpoints
from tests.siem_rules.support import (
    BENIGN,
    EXPECTED,
    RECORDING,
    collector,
    delayed,
    detect,
    device,
    documents,
    episodes,
    joined,
    pairs,
    raised,
    send,
    shifted,
)
from tests.support.wait import until

GATEWAY = collector("gw")
BAD = {
    "message": "Nov 22 16:18:57 camera authpriv.warn dropbear[53]: Bad password attempt for 'root' from 198.51.100.23:34099"
}


def test_recorded_attack_raises_each_expected_alert_once(open_rt: Runtime) -> None:
    assert not send(open_rt, GATEWAY, shifted(RECORDING)).errors
    detect(open_rt)
    assert raised(open_rt) == Counter(EXPECTED)


def test_benign_recording_raises_none(open_rt: Runtime) -> None:
    send(open_rt, GATEWAY, shifted(BENIGN))
    detector = detect(open_rt)
    assert detector.counters["events"] == len(pairs(BENIGN.read_bytes()))
    assert not raised(open_rt)


def test_sent_twice_raises_once(open_rt: Runtime) -> None:
    body = shifted(RECORDING)
    send(open_rt, GATEWAY, body)
    detect(open_rt)
    again = send(open_rt, GATEWAY, body)
    assert {item["create"]["status"] for item in again.items} == {201}, "the doors do not remember, the detector does"
    detect(open_rt)
    assert raised(open_rt) == Counter(EXPECTED)


def test_twenty_shuffles_raise_the_same_alerts_and_episodes(open_rt: Runtime) -> None:
    body = shifted(RECORDING)
    send(open_rt, collector("in-order"), body)
    detect(open_rt)
    wanted = episodes(open_rt, "in-order")
    assert len(wanted) == len(EXPECTED)
    for seed in range(20):
        sender = collector(f"shuffled-{seed}")
        parts = pairs(delayed(body, seed))
        assert joined(parts) != body
        for start in range(0, len(parts), 7):  # several deliveries, a detector round between them
            send(open_rt, sender, joined(parts[start : start + 7]))
            if seed % 2:
                detect(open_rt)
    detect(open_rt)
    for seed in range(20):
        assert episodes(open_rt, f"shuffled-{seed}") == wanted, seed
    assert raised(open_rt) == Counter(dict.fromkeys(EXPECTED, 21))


def test_equal_lines_without_id_count_each(open_rt: Runtime) -> None:
    line = {"@timestamp": clock.iso(clock.now())} | BAD
    send(open_rt, GATEWAY, documents(*[line] * 9))
    detect(open_rt)
    assert not raised(open_rt)
    send(open_rt, GATEWAY, documents(line))
    detect(open_rt)
    assert raised(open_rt) == Counter(["ssh_login_storm"])


def test_two_equal_lines_without_id_are_two_and_with_batch_key_resent_are_not_four(open_rt: Runtime) -> None:
    line = {"@timestamp": clock.iso(clock.now())} | BAD
    body = documents(*[line] * 6)
    send(open_rt, GATEWAY, body, batch="b-1")
    send(open_rt, GATEWAY, body, batch="b-1")
    detector = detect(open_rt)
    assert detector.counters["events"] == 6
    assert not raised(open_rt)
    send(open_rt, GATEWAY, body, batch="b-2")
    detect(open_rt)
    assert raised(open_rt) == Counter(["ssh_login_storm"])


def test_ids_are_the_senders_own(open_rt: Runtime) -> None:
    """Two senders may use the same `_id` for different lines."""
    line = {"@timestamp": clock.iso(clock.now())} | BAD
    for name in ("gw", "gw2"):
        answer = send(open_rt, collector(name), documents(line, ids="x"))
        assert answer.items[0]["create"]["status"] == 201
    assert detect(open_rt).counters["events"] == 2


def test_alert_tells_why(open_rt: Runtime) -> None:
    camera = device(open_rt, "cam-1")
    send(open_rt, camera, shifted(RECORDING))
    detect(open_rt)
    with open_rt.db.read() as connection:
        row = connection.execute(sa.select(alerts).where(alerts.c.rule_title.like("SSH login succ%"))).mappings().one()
        facts = [stored.event for stored in outbox.read(connection, names=("AlertRaised",))]
    assert row["device_id"] == camera.id
    assert row["subject_bound"] is True
    assert row["why"]["group"] == {"source.ip": "198.51.100.23"}
    assert row["why"]["fields"]["event.outcome"] == "success"
    assert 10 <= len(row["evidence"]) <= 20
    assert "Password auth succeeded for 'root'" in row["evidence"][-1]["line"]
    assert all(line["sender"] == camera.label for line in row["evidence"])
    fact = next(fact for fact in facts if fact.alert_id == row["id"])
    assert (fact.device_id, fact.outcome, fact.sources, fact.senders) == (camera.id, "success", 1, (camera.label,))
    assert (fact.site, fact.subject_bound, fact.severity) == ("ward-7", True, "critical")


def test_skewed_clock_of_one_source_holds_back_nobody(open_rt: Runtime) -> None:
    wrong, right = device(open_rt, "cam-wrong"), device(open_rt, "cam-right")
    for ahead in (timedelta(days=3650), timedelta(minutes=4), timedelta(days=-3650)):
        line = {"@timestamp": clock.iso(clock.now() + ahead), "message": "syslogd started"}
        send(open_rt, wrong, documents(line))
    send(open_rt, right, shifted(RECORDING))
    detect(open_rt)
    with open_rt.db.read() as connection:
        rows = connection.execute(sa.select(alerts.c.device_id, sa.func.count()).group_by(alerts.c.device_id)).all()
    assert dict(rows) == {right.id: 5, wrong.id: 1}  # the wrong clock itself is an alert


def test_detector_that_was_replaced_writes_nothing(open_rt: Runtime) -> None:
    send(open_rt, GATEWAY, documents({"message": "hello"}))
    first, second = Detector(open_rt, ruleset.ours()), Detector(open_rt, ruleset.ours())
    first.round()
    first.commit()
    send(open_rt, GATEWAY, shifted(RECORDING))
    with pytest.raises(DetectorReplaced):
        second.round()
    assert not raised(open_rt)
    first.round()
    assert raised(open_rt) == Counter(EXPECTED)


def test_a_commit_whose_answer_was_lost_replaces_nobody_and_raises_once(
    open_rt: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database takes the commit and is gone before it says so."""
    send(open_rt, GATEWAY, shifted(RECORDING))
    first, real = Detector(open_rt, ruleset.ours()), Database.run

    def lost(self: Database, *args: Any, **options: Any) -> Any:
        real(self, *args, **options)
        raise DatabaseAway("server closed the connection")

    with monkeypatch.context() as broken:
        broken.setattr(Database, "run", lost)
        detector, busy = _go_on(first, stopped := threading.Event())
    assert detector is first and not busy
    detector._saved = float("-inf")  # it is time to commit again
    detector, _ = _go_on(detector, stopped)
    assert detector is not first
    detector.commit()
    assert raised(open_rt) == Counter(EXPECTED)


def test_correlation_goes_on_after_a_restart(open_rt: Runtime) -> None:
    """Nine refusals before, one after: the window is rebuilt from the log, and what was alerted is not alerted again."""
    now = clock.now()
    lines = [{"@timestamp": clock.iso(now + timedelta(milliseconds=n))} | BAD for n in range(10)]
    send(open_rt, GATEWAY, documents(*lines[:9]))
    detect(open_rt)
    send(open_rt, GATEWAY, documents(lines[9]))
    detect(open_rt)  # each a new detector
    assert raised(open_rt) == Counter(["ssh_login_storm"])
    send(open_rt, GATEWAY, documents(lines[9]))
    detect(open_rt)
    assert raised(open_rt) == Counter(["ssh_login_storm"])
    with open_rt.db.read() as connection:
        assert connection.execute(sa.select(checkpoints.c.stream)).scalars().all() == ["bulk-0"]


def test_line_that_breaks_a_reader_blinds_nobody(open_rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    from siem_rules.schema import programs

    def broken(text: str) -> dict[str, object]:
        raise ValueError(text)

    monkeypatch.setitem(programs._READERS, "kernel", broken)
    send(open_rt, GATEWAY, documents({"message": "Nov 22 16:18:57 camera kernel: boom"}))
    send(open_rt, GATEWAY, shifted(RECORDING))
    detector = detect(open_rt)
    assert detector.counters["unreadable"] == 1
    assert raised(open_rt) == Counter(EXPECTED)


def test_process_wakes_within_a_moment_and_ends_cleanly(open_rt: Runtime) -> None:
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=main, args=(open_rt, stop), kwargs={"ready": ready.set})
    thread.start()
    assert ready.wait(30)
    send(open_rt, GATEWAY, shifted(RECORDING))
    until(lambda: raised(open_rt) == Counter(EXPECTED), timeout=30)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert ingest.backlog(open_rt) == 0
