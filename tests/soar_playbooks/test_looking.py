"""What looking costs: a turn of the reconciler is a page, whatever is contained, and verifying many reads as often as one."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from api.device.enforcement import DeviceDoor
from api.models import door_orders, door_status
from lachan import clock, trust
from lachan.database import metadata
from lachan.enforcement import PointLook
from lachan.runtime import Runtime
from lachan.settings import Settings
from lachan.work.jobs import Job, jobs
from soar_playbooks.containment import approvals, reconciler
from soar_playbooks.models import containments
from tests.soar_playbooks.points import FilePoint
from tests.soar_playbooks.support import AN, BINH, new_device, rows, work
from tests.soar_playbooks.test_reconciler import contain, driven  # noqa: F401
from tests.support import statements


class Heard:
    """A runtime whose statements are counted."""

    def __init__(self, rt: Runtime, recorder: statements.Recorder) -> None:
        self.rt, self.recorder = rt, recorder

    def during(self, call: Callable[[], object]) -> int:
        self.recorder.during(call)
        return len(self.recorder.heard)


@pytest.fixture
def heard(settings: Settings) -> Iterator[Heard]:
    with statements.recorder() as recorder:
        rt = Runtime.open(settings)
        metadata.create_all(rt.db.engine)
        yield Heard(rt, recorder)
        rt.close()


def test_a_turn_costs_the_same_whatever_is_contained(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements and rows of a turn are those of a page; the next one goes on from there, and round again."""
    monkeypatch.setattr(reconciler, "PAGE", 4)
    rt, read, look = heard.rt, list[int](), DeviceDoor.look

    def counted(point: DeviceDoor, rt: Runtime, wanted: Any, **more: Any) -> PointLook:
        found = look(point, rt, wanted, **more)
        read.append(len(wanted) + len(found.levels))
        return found

    monkeypatch.setattr(DeviceDoor, "look", counted)
    counts = []
    for number in range(30):
        contain(rt, new_device(rt, f"cam-{number:02}").id)
        if number in {7, 29}:
            work(rt)
            rt.dismiss(reconciler.Places)  # from the beginning
            counts.append([heard.during(lambda: reconciler.reconcile(rt)) for _ in range(2)])
    assert counts[0] == counts[1]
    assert max(read) <= 4 + 2 * 4
    if (
        rt.db.dialect == "sqlite"
    ):  # PostgreSQL reads small tables whole; tests/interop/postgresql/test_periodic.py has big ones
        assert statements.scans(rt.db, heard.recorder.during(lambda: reconciler.reconcile(rt))) == []


def test_every_row_has_its_turn(driven: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(reconciler, "PAGE", 4)
    point = FilePoint(driven)
    for number in range(11):
        contain(driven, new_device(driven, f"cam-{number:02}").id)
    work(driven)
    before = point.read()
    point.state.write_text("{}")
    for _ in range(3):
        reconciler.reconcile(driven)
    work(driven)
    assert len(before) == 11
    assert point.read() == before


def test_what_our_own_points_forgot_is_driven_again_page_by_page(rt: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders that somebody deleted, and orders of devices that are contained no more, are found within a round."""
    monkeypatch.setattr(reconciler, "PAGE", 4)
    devices = [new_device(rt, f"cam-{number:02}") for number in range(11)]
    for device in devices:
        contain(rt, device.id)
    work(rt)
    (stale, *_) = rows(rt, door_orders)
    with rt.db.write() as connection:
        connection.execute(door_orders.delete())
    for _ in range(3):
        reconciler.reconcile(rt)
    work(rt)
    assert {row["device_id"] for row in rows(rt, door_orders)} == {device.id for device in devices}
    mine = next(row["id"] for row in rows(rt, containments) if row["device_id"] == stale["device_id"])
    for person in (AN, BINH):
        rt.db.run(lambda c, person=person: approvals.release(rt, c, person, containment_id=mine))
    work(rt)
    with rt.db.write() as connection:
        connection.execute(door_orders.insert().values(**stale))
    for _ in range(3):
        reconciler.reconcile(rt)
    work(rt)
    assert stale["device_id"] not in {row["device_id"] for row in rows(rt, door_orders)}


def test_verifying_many_reads_as_often_as_verifying_one(heard: Heard) -> None:
    """One join over the batch; what is written is a row and a fact each."""
    rt, costs = heard.rt, dict[int, int]()
    for many in (1, 10):
        door = {"door": "d", "position": str(trust.Horizon(0)), "seen_at": clock.now()}
        rt.db.run(lambda c, door=door: c.execute(door_status.insert().values(**door)))
        for number in range(many):
            contain(rt, new_device(rt, f"cam-{many}-{number}").id)
        found = [row for row in rows(rt, jobs) if row["kind"] == "soar.verify"]
        together = [Job(row["id"], row["kind"], row["payload"], 1, 1) for row in found]
        assert len(together) == many
        costs[many] = heard.during(lambda together=together: reconciler.verify(rt, together))
        rt.db.run(lambda c: c.execute(jobs.delete().where(jobs.c.kind == "soar.verify")))
        rt.db.run(lambda c: c.execute(door_status.delete()))
    assert costs[10] - costs[1] <= 2 * 9
