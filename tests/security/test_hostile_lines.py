"""Log lines as weapons: none may stop, blind or slow down the detector (a hostile device, collector or neighbour)."""

import json
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from api import spool
from lachan import clock
from lachan.identity.principal import NOBODY
from lachan.runtime import Runtime
from siem_rules import alerts as alert_rows
from siem_rules import bulk, engine, ingest, ruleset
from siem_rules.binding import Binding
from siem_rules.delivery import Delivery, Sender
from siem_rules.detector import Detector
from siem_rules.errors import BacklogFull
from siem_rules.models import alerts
from siem_rules.schema.event import parse
from tests.siem_rules.support import EXPECTED, RECORDING, collector, detect, device, documents, raised, send, shifted

PROBE = "Nov 22 16:19:02 camera authpriv.info sh: XMHDIPC: applet not found"


def probe(host: str, **more: Any) -> dict[str, Any]:
    return {"@timestamp": clock.iso(clock.now()), "host": {"name": host}, "message": PROBE, **more}


def test_a_nul_in_a_line_is_kept_as_something_that_every_database_keeps(open_rt: Runtime) -> None:
    """PostgreSQL refuses NUL in text; one forged line, unauthenticated even, must not end detection for the city."""
    camera = device(open_rt, "cam-a")
    send(open_rt, NOBODY, documents(probe("x\0y")))
    send(open_rt, camera, documents(probe("cam\0b")))
    send(open_rt, camera, shifted(RECORDING))
    detect(open_rt)
    assert raised(open_rt)["ssh_login_after_storm"] == 1
    with open_rt.db.read() as connection:
        subjects = set(connection.execute(sa.select(alerts.c.subject)).scalars())
    assert not any("\0" in subject for subject in subjects)
    assert "x\ufffdy" in subjects


def test_a_finding_that_cannot_be_written_does_not_stop_the_others(
    open_rt: Runtime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    genuine = alert_rows.record

    def record(connection: sa.Connection, finding: engine.Finding, fetch: alert_rows.Fetch) -> str:
        if finding.rule.name == "busybox_probe":
            genuine(connection, finding, fetch)
            raise ValueError("the database cannot keep it")
        return genuine(connection, finding, fetch)

    monkeypatch.setattr(alert_rows, "record", record)
    send(open_rt, device(open_rt, "cam-a"), shifted(RECORDING))
    detector = detect(open_rt)
    assert detector.counters["unrecorded"] == 1
    assert raised(open_rt)["ssh_login_after_storm"] == 1
    assert raised(open_rt)["busybox_probe"] == 0  # what it had begun to write was taken back


@pytest.mark.parametrize(
    "message",
    [
        "sh: + " + "http://" * 37_000,
        "dropbear[1]: Password auth succeeded for '" + "'" * 260_000,
        "dropbear[1]: Bad password attempt for '" + "' from " * 37_000,
        "dropbear[1]: Exit before auth from <" + "1:" * 130_000,
        "login: " + "FAILED LOGIN " * 20_000,
        "<1>1 t h a p m " + "[" * 260_000,
        "<1>1 t h a p m " + "[\\]" * 80_000,
        " " * 260_000,
        "a:" * 130_000,
    ],
)
def test_no_line_takes_long(message: str) -> None:
    """CPU seconds of this thread for one line of the largest size, through parser, all rules and their explanation."""
    head = "" if message.startswith("<") else "Nov 22 16:19:02 camera authpriv.info "
    document = {"message": head + message, "process": {"command_line": message, "executable": message}}
    document |= {"url": {"full": message}, "user": {"name": message}, "event": {"category": "process"}}
    delivery = Delivery(Sender.of(NOBODY), datetime.now(UTC), "", (None,), (json.dumps(document).encode(),))
    mind = engine.Engine(ruleset.ours(), lambda *_: Binding(False, None, "x", "", ("claim", "nobody:nobody", "x")))
    begin = time.thread_time()
    event = parse(delivery, 0)
    for product, category in (("linux", "process_creation"), ("linux", "authentication"), ("linux", "")):
        event.source.update(product=product, category=category)
        mind.process(event, received=0.0)
    for rule in ruleset.ours().rules.values():
        rule.matcher.explain(event.fields)
    assert time.thread_time() - begin < 0.5


def test_a_small_gzip_of_millions_of_actions_is_refused(open_rt: Runtime) -> None:
    """Each action costs an answer of a kilobyte; 100 KB on the wire must not become gigabytes in the door."""
    for body in (b'{"index":{}}\n{}\n' * (bulk.MOST_ITEMS + 1), b"\n" * (8 * bulk.MOST_ITEMS) + b"{}\n"):
        with pytest.raises(bulk.BulkRefused) as caught:
            bulk.read(body, default_index="logs")
        assert caught.value.status == 413
    assert len(bulk.read(b'{"index":{}}\n{}\n' * 1000, default_index="logs")) == 1000


def test_a_flood_of_one_sender_keeps_nobody_else_out(open_rt: Runtime) -> None:
    """The detector lags because of one: that one is told to wait, the others are heard."""
    loud, quiet = device(open_rt, "cam-loud"), device(open_rt, "cam-quiet")
    ingest.instance(open_rt)._high_water = 1 << 20
    with pytest.raises(BacklogFull):
        for _ in range(100):
            send(open_rt, loud, documents({"message": "x" * 40_000}))
    assert 1 << 16 <= ingest.backlog(open_rt) < 1 << 18
    assert not send(open_rt, quiet, documents({"message": "y"})).errors
    detect(open_rt)
    ingest.instance(open_rt)._checked = 0.0
    assert not send(open_rt, loud, documents({"message": "z"})).errors


def test_waiting_bodies_of_one_sender_leave_room_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait on disk, in files without a name, and what is given back is there again."""
    monkeypatch.setattr(spool, "OF_ONE", 3 << 20)
    room, piece = spool.Spool(tmp_path / "spool"), b"x" * (1 << 20)
    with spool.Body(room, "device:a") as first, spool.Body(room, "device:a") as second:
        for _ in range(3):
            first.add(piece)
        with pytest.raises(spool.SpoolFull):
            second.add(b"y")
        with spool.Body(room, "device:b") as other:
            other.add(b"little")
            other.add(piece)
            assert other.read() == b"little" + piece
        assert first.read() == 3 * piece
        assert len(first._start) == 0
    assert list((tmp_path / "spool").iterdir()) == []
    with spool.Body(room, "device:a") as again:
        for _ in range(3):
            again.add(piece)
    assert (room._taken, room._all) == (Counter(), 0)


def test_an_address_takes_no_name_from_anybody(open_rt: Runtime) -> None:
    """A manufacturer registers a device whose "address" is its rival's name, or what all cameras call themselves."""
    rival = device(open_rt, "cam-rival")
    for number, address in enumerate(("cam-rival", "cam-rival", "cam-rival", "camera")):
        device(open_rt, f"squatter-{number}", address=address)
    send(open_rt, collector("gw"), documents(probe("cam-rival")))
    bare = {name: value for name, value in probe("").items() if name != "host"}  # its syslog head says "camera"
    send(open_rt, rival, documents(bare))
    detect(open_rt)
    with open_rt.db.read() as connection:
        rows = connection.execute(sa.select(alerts.c.device_id, alerts.c.subject_bound)).all()
    assert rows
    assert {tuple(row) for row in rows} == {(rival.id, True)}


@pytest.mark.parametrize("batch", ["", "key"])
def test_a_database_that_was_away_costs_no_line(open_rt: Runtime, batch: str) -> None:
    """Whoever attacks while the database restarts is found all the same, once."""
    send(open_rt, device(open_rt, "cam-a"), shifted(RECORDING), batch=batch)
    detector = Detector(open_rt, ruleset.ours())
    genuine, calls = detector.engine.process, 0

    def process(event: Any, *, received: float) -> Any:
        nonlocal calls
        calls += 1
        if calls % 10 == 0:
            raise sa.exc.OperationalError("SELECT", {}, Exception("gone away"))
        return genuine(event, received=received)

    detector.engine.process = process  # type: ignore[method-assign]
    failures = 0
    while True:
        try:
            if not detector.round():
                break
        except sa.exc.OperationalError:
            failures += 1
    detector.commit()
    assert failures > 1
    assert raised(open_rt) == dict.fromkeys(EXPECTED, 1)
