"""The enforcement point `device-door`: it believes what running doors say they act on, and nothing else."""

from datetime import timedelta

import pytest

from api.device.enforcement import ALIVE, DeviceDoor
from api.models import door_status
from lachan import clock, trust
from lachan.enforcement import Level, Target, points
from lachan.runtime import Runtime
from lachan.trust import Answer
from tests.api.support import Town
from tests.api.test_device_access import ask, contain, release
from tests.support.wait import until


def target(device) -> Target:
    return Target(device_id=device.id, name=device.name, vendor=device.vendor, site=device.site)


def test_it_is_registered(rt: Runtime) -> None:
    assert isinstance(points(rt)["device-door"], DeviceDoor)


def test_containment_settles_when_the_running_door_acts_on_it(doors: Town) -> None:
    rt, camera = doors.rt, doors.add_device("cam-1")
    point, goal, credential = DeviceDoor(rt), target(camera), doors.authority.device(camera)
    with doors.client("device", credential) as client:
        assert client.get("/device/v1/self").status_code == 200
        contain(doors, camera.id, Answer.DENY)
        point.apply(rt, goal, Level.EVICT, intent="i1")
        evidence = until(lambda: (found := point.verify(rt, goal, Level.EVICT)).settled and found, timeout=10)
    assert evidence.detail["doors"] == 1
    assert evidence.detail["connections_closed"] == 1
    assert point.observe(rt) == {camera.id: Level.EVICT}
    release(doors, camera.id)
    until(lambda: point.release(rt, goal, intent="i2").settled, timeout=10)
    assert point.observe(rt) == {}
    assert ask(doors, credential).status_code == 200


def test_an_order_without_a_decision_never_settles(doors: Town) -> None:
    """The door acts on trust alone: were the signal missing, the point must not claim that traffic stopped."""
    camera = doors.add_device("cam-1")
    point, goal = DeviceDoor(doors.rt), target(camera)
    assert not point.apply(doors.rt, goal, Level.QUARANTINE, intent="i").settled
    contain(doors, camera.id, Answer.LIMITED)
    assert not point.verify(doors.rt, goal, Level.QUARANTINE).settled
    until(lambda: point.verify(doors.rt, goal, Level.DEGRADE).settled, timeout=10)


def test_every_running_door_counts_and_a_dead_one_does_not(rt: Runtime, town: Town) -> None:
    camera = town.add_device("cam-1")
    point, goal = DeviceDoor(rt), target(camera)
    with rt.db.write() as connection:
        for door, seen in (("a", trust.Horizon(10**6)), ("b", trust.Horizon(1))):
            connection.execute(door_status.insert().values(door=door, position=str(seen), seen_at=clock.now()))
    contain(town, camera.id, Answer.QUARANTINE)
    behind = point.apply(rt, goal, Level.QUARANTINE, intent="i")
    assert (behind.settled, behind.detail["behind"]) == (False, 1)
    with clock.travel(ALIVE + timedelta(seconds=1)):
        assert point.verify(rt, goal, Level.QUARANTINE).settled  # neither runs: nobody gets in
    with rt.db.write() as connection:
        connection.execute(door_status.update().values(position=str(trust.Horizon(10**6))))
    assert point.verify(rt, goal, Level.QUARANTINE).settled


def test_the_same_intent_again_keeps_its_number(rt: Runtime, town: Town) -> None:
    camera, other = town.add_device("cam-1"), town.add_device("cam-2")
    point, goal = DeviceDoor(rt), target(camera)
    contain(town, camera.id, Answer.QUARANTINE)
    first = point.apply(rt, goal, Level.QUARANTINE, intent="i").detail["number"]
    contain(town, other.id, Answer.QUARANTINE)
    assert point.apply(rt, goal, Level.QUARANTINE, intent="i").detail["number"] == first
    contain(town, camera.id, Answer.QUARANTINE)
    assert point.apply(rt, goal, Level.QUARANTINE, intent="i").detail["number"] == first
    assert point.apply(rt, goal, Level.QUARANTINE, intent="j").detail["number"] > first


@pytest.mark.parametrize("level", list(Level))
def test_a_plan_says_what_would_change_and_changes_nothing(rt: Runtime, town: Town, level: Level) -> None:
    point, goal = DeviceDoor(rt), target(town.add_device("cam-1"))
    assert bool(point.plan(rt, goal, level)) is (level is not Level.OBSERVE)
    assert point.observe(rt) == {}
