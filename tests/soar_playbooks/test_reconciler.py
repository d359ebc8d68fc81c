"""Points are driven to the wanted level and back, survive their own loss of memory, and nobody else's work is undone."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from lachan import clock
from lachan.enforcement import Level
from lachan.runtime import Runtime
from lachan.work.jobs import Job, jobs
from soar_playbooks.containment import approvals, reconciler, service
from soar_playbooks.containment.guards import Facts
from soar_playbooks.models import enforcements
from soar_playbooks.states import ACTOR
from tests.soar_playbooks.points import FilePoint
from tests.soar_playbooks.support import AN, BINH, new_device, one_containment, rows, told, work


@pytest.fixture
def driven(rt: Runtime) -> Runtime:
    """A runtime whose only enforcement point is a file."""
    return replace(rt, wiring=replace(rt.wiring, enforcement=("tests.soar_playbooks.points:FilePoint",)))


def contain(rt: Runtime, device_id: str, level: Level = Level.QUARANTINE) -> None:
    facts = Facts(device_id=device_id, subject_bound=True, outcome="success", sources=1)
    with rt.db.write() as connection:
        asked = service.Request(device_id=device_id, level=level, reason="t", principal=ACTOR, facts=facts)
        service.request(rt, connection, asked)


def release(rt: Runtime) -> None:
    for person in (AN, BINH):
        with rt.db.write() as connection:
            approvals.release(rt, connection, person, containment_id=one_containment(rt)["id"])


def test_there_and_back_with_evidence(driven: Runtime) -> None:
    device, point = new_device(driven), FilePoint(driven)
    contain(driven, device.id)
    work(driven)
    assert point.read() == {device.id: "quarantine"}
    (settled,) = told(driven, "EnforcementSettled")
    assert (settled.point, settled.evidence["file"], settled.evidence["level"]) == ("file", "quarantine", "quarantine")
    release(driven)
    work(driven)
    assert point.read() == {}
    assert point.changes(device.id) == ["quarantine", "none"]
    assert told(driven, "EnforcementSettled")[1].evidence["level"] == "none"


def test_a_point_that_forgot_is_driven_again(driven: Runtime) -> None:
    device, point = new_device(driven), FilePoint(driven)
    contain(driven, device.id)
    work(driven)
    point.state.write_text("{}")  # as a broker that came back with an older state file
    reconciler.reconcile(driven)
    work(driven)
    assert point.read() == {device.id: "quarantine"}


def test_a_release_that_a_point_forgot_is_driven_again(driven: Runtime) -> None:
    device, point = new_device(driven), FilePoint(driven)
    contain(driven, device.id)
    work(driven)
    release(driven)
    work(driven)
    point.state.write_text(json.dumps({device.id: "quarantine"}))
    reconciler.reconcile(driven)
    work(driven)
    assert point.read() == {}


def test_what_the_point_contains_without_a_row_of_ours_is_left_alone(driven: Runtime) -> None:
    device, point = new_device(driven), FilePoint(driven)
    point.state.write_text(json.dumps({device.id: "quarantine"}))
    reconciler.reconcile(driven)
    work(driven)
    assert point.read() == {device.id: "quarantine"}


def test_a_quiet_world_tells_nothing_new(driven: Runtime) -> None:
    contain(driven, new_device(driven).id)
    work(driven)
    for _ in range(3):
        reconciler.reconcile(driven)
        work(driven)
    assert len(told(driven, "EnforcementSettled")) == 1


def test_a_point_that_is_away_is_tried_again_and_the_last_wish_counts(driven: Runtime) -> None:
    device, point = new_device(driven), FilePoint(driven)
    point.down.touch()
    contain(driven, device.id)
    work(driven)
    (row,) = rows(driven, enforcements)
    assert (row["state"], row["attempts"]) == ("pending", 1)
    assert "PointUnavailable" in row["last_error"]
    release(driven)
    work(driven)
    point.down.unlink()
    with clock.travel(timedelta(minutes=1)):
        work(driven)
    assert point.changes(device.id) == []
    assert rows(driven, enforcements)[0]["state"] == "settled"


def test_a_device_that_is_contained_again_is_driven_again(driven: Runtime) -> None:
    device, point = new_device(driven), FilePoint(driven)
    contain(driven, device.id)
    work(driven)
    release(driven)
    work(driven)
    contain(driven, device.id, Level.ISOLATE)
    work(driven)
    assert point.changes(device.id) == ["quarantine", "none", "isolate"]


def test_a_worker_that_was_taken_over_drives_nothing(driven: Runtime) -> None:
    """The older fence is refused before the point is asked for anything; the newer one drives the same wish."""
    device, point = new_device(driven), FilePoint(driven)
    contain(driven, device.id)
    (row,) = [row for row in rows(driven, jobs) if row["kind"] == "soar.enforce"]
    with driven.db.write() as connection:
        connection.execute(jobs.update().where(jobs.c.id == row["id"]).values(fence=3))
    reconciler.enforce(driven, Job(row["id"], row["kind"], row["payload"], 1, 2))
    assert (point.read(), rows(driven, enforcements)[0]["attempts"]) == ({}, 0)
    reconciler.enforce(driven, Job(row["id"], row["kind"], row["payload"], 1, 3))
    assert point.read() == {device.id: "quarantine"}
