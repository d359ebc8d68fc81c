"""What is shown is what was sealed: rows are found by columns, told by bodies, and a column that says another is named."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from lachan import devices
from lachan.devices import NewDevice
from lachan.identity import Role, system
from lachan.ledger import copies, sealer
from lachan.program import cli
from lachan.runtime import Runtime
from lachan.work import outbox
from lachan.work.outbox import events
from tests.api.conftest import doors, town  # noqa: F401
from tests.api.support import Town

ELSE = "01920000-0000-7000-8000-000000000000"
CHANGES: dict[str, Any] = {
    "id": ELSE, "name": "DeviceRetired", "actor": "person:mallory", "device_id": ELSE, "vendor": "evilcorp",
    "happened_at": datetime(2020, 1, 1, tzinfo=UTC), "recorded_at": datetime(2020, 1, 1, tzinfo=UTC),
    "leaf_hash": b"\0" * 32,
}  # fmt: skip


def registered(rt: Runtime, name: str, vendor: str = "acme") -> str:
    new = NewDevice(name=name, vendor=vendor, model="m", serial_number=name, site="s")
    return rt.db.run(lambda c: devices.register(c, new, actor=system("t"))).id


def change(rt: Runtime, which: str, /, **values: Any) -> None:
    with rt.db.write() as c:
        c.execute(events.update().where(events.c.device_id == which).values(**values))


@pytest.mark.parametrize("column", CHANGES)
def test_a_column_that_says_another_is_named(rt: Runtime, column: str) -> None:
    one, other = registered(rt, "cam-1"), registered(rt, "cam-2")
    assert list(copies.compare(rt.db)) == []
    change(rt, one, **{column: CHANGES[column]})
    (found,) = copies.compare(rt.db)
    assert (column in found.detail) or ("hash" in found.detail and column == "leaf_hash")
    assert other not in str(found)


@pytest.mark.parametrize("body", [b"\xff", b"{}", b"[]", b'{"id": 1}'])
def test_a_body_that_was_damaged_is_named_and_stops_no_feed(rt: Runtime, body: bytes) -> None:
    one = registered(rt, "cam-1")
    change(rt, one, body=body)
    assert any("cannot be read" in finding.detail for finding in copies.compare(rt.db))
    with rt.db.read() as c:
        (fact,) = outbox.read(c, device_id=one)
    assert fact.event is None, "what is unknown is called so"


def test_pages_are_all_read(rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "PAGE", 2)
    ids = [registered(rt, f"cam-{n}") for n in range(7)]
    for one in (ids[0], ids[6]):
        change(rt, one, actor="person:mallory")
    assert len(list(copies.compare(rt.db))) == 2


def test_feeds_and_timelines_show_what_was_sealed(doors: Town) -> None:  # noqa: F811
    rt = doors.rt
    one, theirs = registered(rt, "cam-1"), registered(rt, "cam-2", vendor="bolt")
    analyst, maker = doors.sign_in("an", Role.ANALYST), doors.sign_in("m", Role.MANUFACTURER, vendor="acme")
    change(rt, one, actor="person:mallory", happened_at=CHANGES["happened_at"])
    change(rt, theirs, vendor="acme")  # it would be shown to the other manufacturer
    with doors.client("people") as client:
        path = f"/api/v1/devices/{one}/timeline"
        shown = client.get(path, headers=analyst.headers).json()
        text = json.dumps(shown)
        assert "mallory" not in text and "system:t" in text and "2020-01-01" not in text
        assert client.get(f"/api/v1/devices/{theirs}/timeline", headers=maker.headers).status_code == 404
        feed = json.dumps(client.get("/api/v1/events", headers=maker.headers).json())
        assert "cam-2" not in feed
    with rt.db.read() as c:
        assert [fact.device_id for fact in outbox.read(c, vendor="acme", names=("DeviceRegistered",))] == [one]
        assert outbox.read(c, device_id=theirs, vendor="acme") == []


def test_the_command_and_doctor_name_what_differs(rt: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    one = registered(rt, "cam-1")
    (rt.settings.data / "initialised").touch()
    data = ["--data", str(rt.settings.data), "--json"]
    (rt.settings.data / "ledger").mkdir(exist_ok=True)

    def doctor() -> dict[str, str]:
        cli.main(["doctor", *data])
        rows = json.loads(capsys.readouterr().out)
        return next(row for row in rows if row["what"] == "ledger's rows")

    assert doctor()["state"] == "ok"
    change(rt, one, vendor="evilcorp")
    found = doctor()
    assert found["state"] == "missing" and "evilcorp" in found["next"]


def test_an_installation_verifies_its_own_rows(ledger_rt: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    rt = ledger_rt
    one = registered(rt, "cam-1")
    (rt.settings.data / "initialised").touch()

    def verify() -> tuple[int, dict[str, Any]]:
        code = cli.main(["ledger", "verify", "--data", str(rt.settings.data), "--json"])
        return code, json.loads(capsys.readouterr().out)

    assert verify() == (0, {"ok": True, "size": None})
    sealer.seal_now(rt)
    code, said = verify()
    assert (code, said["ok"]) == (0, True) and said["size"] >= 1
    change(rt, one, actor="person:mallory")
    code, said = verify()
    assert (code, said["count"]) == (1, 1) and "person:mallory" in said["findings"][0]
    with rt.db.read() as c:
        (body,) = c.execute(sa.select(events.c.body).where(events.c.device_id == one)).scalars().all()
    forged = body.replace(b'"system:t"', b'"person:mallory"')
    change(rt, one, body=forged)
    code, said = verify()
    assert code == 1 and any("changed" in finding for finding in said["findings"])
