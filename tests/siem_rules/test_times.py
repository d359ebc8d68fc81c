"""Times that senders claim are classed and never moved: what a source may date, how its clock is learnt, heads without year and zone."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa

from lachan.identity.principal import PrincipalKind
from lachan.runtime import Runtime
from siem_rules.delivery import UNAUTHENTICATED, Delivery, Sender
from siem_rules.models import alerts
from siem_rules.schema import event, syslog
from siem_rules.schema.times import HOSTS, Clocks, Moment
from tests.siem_rules.support import collector, detect, device, documents, raised, send

NOW = datetime(2026, 11, 26, 15, tzinfo=UTC).timestamp()
HOUR, DAY = 3600.0, 86_400.0
CAMERA = Sender("device:1", PrincipalKind.DEVICE, "1", "cam-1", vendor="acme")
GATEWAY = Sender("collector:gw", PrincipalKind.COLLECTOR, "gw", "gw", "ward-7")


@pytest.mark.parametrize(
    ("sender", "off", "trusted"),
    [
        (CAMERA, 0, True), (CAMERA, -599, True), (CAMERA, -601, False), (CAMERA, 299, True), (CAMERA, 301, False),
        (CAMERA, -DAY * 365, False), (GATEWAY, -2 * HOUR, True), (GATEWAY, -6.9 * DAY, True), (GATEWAY, -7.1 * DAY, False),
        (GATEWAY, 301, False), (UNAUTHENTICATED, -601, False), (UNAUTHENTICATED, -1, True),
    ],
)  # fmt: skip
def test_a_claim_is_trusted_within_its_sources_lateness(sender: Sender, off: float, trusted: bool) -> None:
    moment = Clocks().judge(sender, "h", NOW, NOW + off)
    assert moment == Moment(NOW + off if trusted else NOW, NOW + off, trusted)
    assert Clocks().judge(sender, "h", NOW, None) == Moment(NOW, None, True)


def test_a_clock_that_is_steadily_wrong_is_learnt_and_its_times_keep_their_distances() -> None:
    clocks = Clocks()
    found = [clocks.judge(CAMERA, "", NOW + 60 * n, NOW + 60 * n + 3 * HOUR) for n in range(10)]
    assert [moment.trusted for moment in found] == [False] * 5 + [True] * 5
    assert [moment.at for moment in found[5:]] == [NOW + 60 * n for n in range(5, 10)]
    assert [moment.claimed for moment in found] == [NOW + 60 * n + 3 * HOUR for n in range(10)]
    assert clocks.judge(CAMERA, "", NOW + 700, NOW + 700).trusted, "a clock that was put right is right"
    assert not clocks.judge(CAMERA, "", NOW + 700, NOW + 700 - 3 * HOUR).trusted


def test_lines_that_were_held_back_do_not_look_like_a_clock() -> None:
    clocks = Clocks()
    held = [clocks.judge(CAMERA, "", NOW + n / 100, NOW - 2 * HOUR + 10 * n) for n in range(700)]
    assert not any(moment.trusted for moment in held if moment.claimed is not None and moment.claimed < NOW - 700)
    steady = [clocks.judge(CAMERA, "", NOW + 10, NOW + 5 * HOUR) for _ in range(1000)]
    assert not any(moment.trusted for moment in steady), "many lines at once are no history"


def test_hosts_of_one_sender_are_bounded_and_take_nothing_from_another() -> None:
    clocks = Clocks()
    for n in range(10):
        clocks.judge(CAMERA, "", NOW + 60 * n, NOW + 60 * n + 3 * HOUR)
    for n in range(10 * HOSTS):
        clocks.judge(GATEWAY, f"made-up-{n}", NOW, NOW + DAY)
    assert clocks.judge(CAMERA, "", NOW + 700, NOW + 700 + 3 * HOUR).trusted
    assert len(clocks._clocks[GATEWAY.label]) == HOSTS


def head(text: str) -> datetime:
    """The time of a head."""
    moment = syslog.moment(text)
    assert moment is not None
    return moment


@pytest.mark.parametrize(
    ("received", "text", "at"),
    [
        ("2026-12-31T23:59:58", "Dec 31 23:59:45", "2026-12-31T23:59:45"),
        ("2026-12-31T23:59:58", "Jan  1 00:00:01", "2027-01-01T00:00:01"),  # its clock is 3 s ahead
        ("2027-01-01T00:00:05", "Dec 31 23:59:59", "2026-12-31T23:59:59"),
        ("2026-11-25T15:00:00", "Nov 25 22:00:00", "2026-11-25T15:00:00"),  # shows Vietnamese time
        ("2026-12-31T17:30:00", "Jan  1 00:30:25", "2026-12-31T17:30:25"),
        ("2028-02-29T12:00:00", "Feb 29 11:59:59", "2028-02-29T11:59:59"),
    ],
)
@pytest.mark.parametrize("sender", [CAMERA, GATEWAY, UNAUTHENTICATED], ids=["device", "collector", "nobody"])
def test_a_head_without_year_and_zone_is_read_as_its_clock_meant_it(
    sender: Sender, received: str, text: str, at: str
) -> None:
    now, meant = (datetime.fromisoformat(one).replace(tzinfo=UTC).timestamp() for one in (received, at))
    assert Clocks().judge(sender, "cam", now, head(text)) == Moment(meant, meant, True)


def test_held_back_heads_are_read_as_before_and_not_trusted_without_a_before() -> None:
    """Two hours late, a head may be of either zone: what the host's clock showed before tells."""
    clocks, then, now = Clocks(), datetime(2026, 11, 26, 13, tzinfo=UTC), NOW
    assert not clocks.judge(GATEWAY, "cam", now, then).trusted
    live = datetime.fromtimestamp(NOW - 3 * HOUR, UTC)
    clocks.judge(GATEWAY, "in-utc", NOW - 3 * HOUR, live)
    clocks.judge(GATEWAY, "local", NOW - 3 * HOUR, live.astimezone(timezone(timedelta(hours=7))).replace(tzinfo=UTC))
    assert clocks.judge(GATEWAY, "in-utc", now, then) == Moment(NOW - 2 * HOUR, NOW - 2 * HOUR, True)
    shown = then.astimezone(timezone(timedelta(hours=7))).replace(tzinfo=UTC)
    assert clocks.judge(GATEWAY, "local", now, shown) == Moment(NOW - 2 * HOUR, NOW - 2 * HOUR, True)


def test_impossible_days_and_times_are_no_claim() -> None:
    delivery = Delivery(
        CAMERA, datetime.fromtimestamp(NOW, UTC), "", (None,), (b'{"message":"Feb 31 12:00:00 cam sh: x"}',)
    )
    found = event.parse(delivery, 0)
    assert (found.at, found.claimed, found.trusted) == (NOW, None, True)


def storm(at: Any, *, gap: float = 1.0, host: str = "cam-1") -> list[dict[str, Any]]:
    """Twelve refused passwords and one that is taken, so many seconds apart."""
    words = [f"Bad password attempt for 'root' from 198.51.100.23:{4000 + n}" for n in range(12)]
    words.append("Password auth succeeded for 'root' from 198.51.100.23:55305")
    return [
        {"@timestamp": (at + timedelta(seconds=gap * n)).isoformat(), "host": {"name": host}, "process": {"name": "dropbear"}, "message": said}
        for n, said in enumerate(words)
    ]  # fmt: skip


def test_lines_of_two_hours_at_once_are_no_storm_and_keep_their_times(open_rt: Runtime) -> None:
    """An honest collector that was offline: twelve refusals over two hours, then a login; and a real storm an hour ago."""
    device(open_rt, "cam-1"), device(open_rt, "cam-2")
    now = datetime.now(UTC)
    spread = storm(now - timedelta(hours=2), gap=590)
    real = storm(now - timedelta(hours=1), host="cam-2")
    send(open_rt, collector("gw"), documents(*spread, *real))
    detect(open_rt)
    assert raised(open_rt) == {"ssh_login_storm": 1, "ssh_login_after_storm": 1}
    with open_rt.db.read() as connection:
        rows = connection.execute(sa.select(alerts)).mappings().all()
    assert {row["subject"] for row in rows} == {"cam-2"}
    assert {round((now - row["last_at"]).total_seconds()) for row in rows} <= set(range(3580, 3601))


@pytest.mark.parametrize("off", [timedelta(hours=3), timedelta(days=-8), timedelta(days=-400)], ids=str)
@pytest.mark.parametrize("who", ["collector", "device"])
def test_lines_dated_at_will_match_alone_and_never_together(open_rt: Runtime, off: timedelta, who: str) -> None:
    """Dated outside of what its source may: a single event still alerts, as of its receipt, and says what it claimed."""
    camera = device(open_rt, "cam-1")
    now = datetime.now(UTC)
    probe = {"@timestamp": (now + off).isoformat(), "host": {"name": "cam-1"}, "process": {"name": "sh"}, "message": "XMHDIPC: applet not found"}  # fmt: skip
    send(open_rt, camera if who == "device" else collector("gw"), documents(*storm(now + off), probe))
    detector = detect(open_rt)
    found = set(raised(open_rt))
    assert found - {"clock_far_ahead"} == {"busybox_probe"}
    assert ("clock_far_ahead" in found) == (off > timedelta(0))
    assert detector.engine.counters["untrusted_times"] >= 13
    with open_rt.db.read() as connection:
        row = connection.execute(sa.select(alerts).where(alerts.c.rule_title.like("Bot asks%"))).mappings().one()
    assert abs((row["last_at"] - now).total_seconds()) < 60
    assert row["why"]["time"]["trusted"] is False
    assert datetime.fromisoformat(row["why"]["time"]["claimed"]) == (now + off).replace(
        microsecond=(now.microsecond // 1000) * 1000
    )
    assert probe["@timestamp"] in row["evidence"][0]["line"]


def test_a_storm_over_new_year_is_one(open_rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals in December and the login in January, by a clock that is three seconds ahead of ours."""
    device(open_rt, "cam-22")
    new_year = datetime(2026, 12, 31, 23, 59, 58, tzinfo=UTC)
    monkeypatch.setattr("lachan.clock.now", lambda: new_year)
    said = [f"<38>Dec 31 23:59:{45 + n} cam-22 dropbear[99]: Bad password attempt for 'root' from 198.51.100.79:{4045 + n}" for n in range(10)]  # fmt: skip
    said.append("<38>Jan  1 00:00:01 cam-22 dropbear[99]: Password auth succeeded for 'root' from 198.51.100.79:4099")
    send(open_rt, collector("gw"), documents(*({"message": line, "host": {"name": "cam-22"}} for line in said)))
    detect(open_rt)
    assert raised(open_rt) == {"ssh_login_storm": 1, "ssh_login_after_storm": 1}
    with open_rt.db.read() as connection:
        times = connection.execute(sa.select(alerts.c.first_at, alerts.c.last_at)).all()
    assert all(abs((at - new_year).total_seconds()) < 60 for row in times for at in row)


def test_local_time_alerts_nobody(open_rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera whose clock is right and shows Vietnamese time, on an ordinary evening and over New Year."""
    camera = device(open_rt, "cam-10")
    for now, line in (
        (datetime(2026, 11, 25, 15, tzinfo=UTC), "Nov 25 22:00:00 cam-10 ntpd[7]: peer synchronised"),
        (datetime(2026, 12, 31, 17, 30, tzinfo=UTC), "Jan  1 00:30:25 cam-10 login[412]: root login on 'pts/0' from '198.51.100.77'"),
    ):  # fmt: skip
        monkeypatch.setattr("lachan.clock.now", lambda now=now: now)
        send(open_rt, camera, documents({"message": line}))
        detect(open_rt)
    assert raised(open_rt) == {"telnet_factory_login": 1}
    with open_rt.db.read() as connection:
        [first] = connection.execute(sa.select(alerts.c.first_at)).scalars()
    assert first == datetime(2026, 12, 31, 17, 30, 25, tzinfo=UTC)
