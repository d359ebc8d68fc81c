"""Health asks whether things move; what cannot be told is unknown, and no flood of questions costs more than one look."""

import errno
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from lachan import clock, devices, health
from lachan.devices import NewDevice
from lachan.errors import DatabaseAway, Unavailable
from lachan.health import Checked, HealthState, Standstill
from lachan.identity import system
from lachan.ledger import health as sealing
from lachan.ledger import sealer
from lachan.runtime import Runtime
from lachan.work.outbox import events
from siem_rules import health as detector
from siem_rules import segments
from soar_playbooks import health as reconciler
from soar_playbooks.models import enforcements
from tests.ledger.test_sealer import happen


def said(problems: object) -> str:
    return " ".join(problem.what for problem in problems)  # type: ignore[attr-defined]


def registered(rt: Runtime) -> str:
    with rt.db.write() as connection:
        new = NewDevice(name="cam-1", vendor="a", model="m", serial_number="s", site="h", ward="", place="", owner="")
        return devices.register(connection, new, actor=system("t")).id


@pytest.fixture
def minute(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A minute of the monotonic clock that passes when called; the wall clock stands."""
    late = [0.0]

    def passes() -> None:
        late[0] += health.STANDS + 1

    monkeypatch.setattr(health, "monotonic", lambda: time.monotonic() + late[0])
    return passes


def disk_of(monkeypatch: pytest.MonkeyPatch, *, size: int, free: int, inodes: int = 100) -> None:
    found = SimpleNamespace(f_frsize=1, f_blocks=size, f_bavail=free, f_files=1000, f_favail=inodes)
    monkeypatch.setattr(health.os, "statvfs", lambda _: found)


@pytest.mark.parametrize(
    ("size", "free", "inodes", "word", "grave"),
    [
        (24 << 20, 0, 100, "full", True), (1 << 40, 4096, 100, "full", True), (1 << 30, 1 << 29, 0, "full", True),
        (1 << 30, 40 << 20, 100, "40 MiB left", False), (1 << 30, 60 << 20, 100, "", False),
        (1 << 44, 9 << 30, 100, "left", False), (1 << 44, 11 << 30, 100, "", False),
    ],
)  # fmt: skip
def test_a_disk_is_told_of_in_good_time(
    rt: Runtime, monkeypatch: pytest.MonkeyPatch, size: int, free: int, inodes: int, word: str, grave: bool
) -> None:
    disk_of(monkeypatch, size=size, free=free, inodes=inodes)
    found = list(health.disk(rt))
    assert [problem.grave for problem in found] == ([grave] if word else [])
    assert word in said(found)


def test_a_clock_that_was_put_back_is_told_of(rt: Runtime) -> None:
    with clock.travel(timedelta(days=36)):
        happen(rt, 1)
    assert "in the future" in said(health.time_of_day(rt))
    with clock.travel(timedelta(days=36)):
        assert said(health.time_of_day(rt)) == ""


def test_facts_that_are_not_sealed_are_told_of_by_age_and_by_standing_still(
    rt: Runtime, minute: Callable[[], None]
) -> None:
    assert said(sealing.check(rt)) == ""
    happen(rt, 1)
    assert said(sealing.check(rt)) == "", "it is about to be sealed"
    with clock.travel(timedelta(minutes=2)):
        assert "are not sealed" in said(sealing.check(rt)), "a command sees it at once, by the fact's age"
    with rt.db.write() as connection:  # a clock that was ahead then, so that no age tells
        connection.execute(events.update().values(recorded_at=clock.now() + timedelta(days=36)))
    assert said(sealing.check(rt)) == ""
    minute()
    assert "are not sealed" in said(sealing.check(rt))


def test_sealed_facts_under_no_checkpoint_are_told_of(rt: Runtime, minute: Callable[[], None]) -> None:
    happen(rt, 3)
    sealer._append_leaves(rt, None)
    assert said(sealing.check(rt)) == ""
    minute()
    assert said(sealing.check(rt)) == "3 sealed facts are under no checkpoint."
    sealer_folder = rt.settings.data / "ledger"
    sealer_folder.mkdir(exist_ok=True)
    (sealer_folder / "stopped").write_text("another history\n")
    assert "another history" in said(sealing.check(rt))


def test_a_detector_that_stands_is_told_of_only_while_lines_wait(rt: Runtime, minute: Callable[[], None]) -> None:
    assert said(detector.check(rt)) == ""
    writer = segments.opened(rt).writer("one")
    writer.sync(writer.append(b"a line"))
    assert said(detector.check(rt)) == ""
    minute()
    assert "not moved in the stream one" in said(detector.check(rt))
    writer.close()


def test_a_point_that_is_not_reached_is_told_of(rt: Runtime) -> None:
    row = {
        "device_id": registered(rt), "point": "mosquitto", "containment_id": "c", "wanted": "quarantine", "state": "pending",
        "intent": "i", "updated_at": clock.now(),
    }  # fmt: skip
    with rt.db.write() as connection:
        connection.execute(enforcements.insert().values(**row))
    assert said(reconciler.check(rt)) == ""
    with clock.travel(timedelta(minutes=2)):
        assert said(reconciler.check(rt)) == "1 devices wait to be contained or released at mosquitto."
    with rt.db.write() as connection:
        connection.execute(enforcements.update().values(attempts=10))
    assert "mosquitto" in said(reconciler.check(rt)), "tried again and again is late, too"


def test_what_cannot_be_told_is_unknown_and_stops_no_other_check(rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_rt: Runtime) -> list[Standstill]:
        raise Unavailable("nobody answers")

    def broken(_rt: Runtime) -> list[Standstill]:
        raise ZeroDivisionError

    ground = {
        "away": away,
        "broken": broken,
        "sound": lambda _rt: [],
        "bad": lambda _rt: [Standstill(what="w", next="n")],
    }
    monkeypatch.setattr(health, "_GROUND", ground)
    found = {one.name: one for one in health.look(rt)}
    assert [found[name].state for name in ground] == [
        HealthState.UNKNOWN, HealthState.UNKNOWN, HealthState.OK, HealthState.WRONG,
    ]  # fmt: skip
    assert found["away"].unknown == "nobody answers"
    assert set(rt.wiring.health) <= set(found)


def test_a_hanging_check_holds_nobody_and_many_who_ask_cost_one_look(
    rt: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, looks = threading.Event(), []

    def look(_rt: Runtime) -> Iterator[Checked]:
        looks.append(1)
        go.wait(30)
        yield Checked("one")

    monkeypatch.setattr(health, "look", look)
    for _ in range(20):
        assert [one.state for one in health.now(rt, patience=0)] == [HealthState.UNKNOWN]
    go.set()
    assert [one.state for one in health.now(rt, patience=30)] == [HealthState.OK]
    assert len(looks) == 1
    assert health.now(rt, patience=0)[0].name == "one"


def test_a_full_disk_has_a_name_wherever_it_is_met() -> None:
    for kind in (errno.ENOSPC, errno.EDQUOT):
        met = RuntimeError("the segment")
        met.__cause__ = OSError(kind, "no room")
        assert health.no_room(met)
    assert not health.no_room(OSError(errno.EIO, "x"))
    assert not health.no_room(None)


def test_a_full_database_is_no_room_and_away_for_who_waits(rt: Runtime) -> None:
    happen(rt, 1)

    def unit(connection: sa.Connection) -> None:
        size = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={size}")
        connection.exec_driver_sql("CREATE TABLE filler (octets BLOB)")
        connection.exec_driver_sql("INSERT INTO filler VALUES (zeroblob(1000000))")

    with pytest.raises(DatabaseAway) as caught:
        rt.db.run(unit)
    assert (caught.value.status, caught.value.fields["retry_after"]) == (507, 30)
