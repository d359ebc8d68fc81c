"""The kill switch is turned at once, whatever contains beside it, and is ordered against what has looked at it.

Run on SQLite here, on PostgreSQL by tests/interop/postgresql.
"""

import threading
import time
from itertools import count
from pathlib import Path

import pytest

from lachan import devices
from lachan.devices import Criticality, Device, NewDevice
from lachan.enforcement import Level
from lachan.runtime import Runtime
from lachan.settings import Settings
from soar_playbooks import service as room
from soar_playbooks.containment import approvals, service
from soar_playbooks.containment.guards import Facts
from soar_playbooks.states import ACTOR
from tests.soar_playbooks.support import ADMIN, told

THREADS, SOON = 16, 1.0  # seconds until the switch is on
LONG = 30.0  # seconds; a test that waits so long has failed


@pytest.fixture
def settings(data: Path, database_url: str) -> Settings:
    many = {f"budget_{scope}": 10**6 for scope in ("site", "model", "detector", "sender")}
    return Settings.load(data, database_url=database_url, people_port=0, device_port=0, status_port=0, **many)


def asked(device_id: str) -> service.Request:
    facts = Facts(device_id=device_id, subject_bound=True, outcome="success", sources=1)
    return service.Request(device_id=device_id, level=Level.QUARANTINE, reason="test", principal=ACTOR, facts=facts)


def many(rt: Runtime, number: int) -> list[Device]:
    """So many normal devices."""
    new = (
        NewDevice(name=f"cam-{n}", vendor="Acme", model="C1", serial_number=f"sn-{n}", site="hk") for n in range(number)
    )
    with rt.db.write() as connection:
        return [devices.register(connection, each, actor=ADMIN, criticality=Criticality.NORMAL) for each in new]


@pytest.mark.timeout(120)
def test_a_stream_of_containments_does_not_keep_the_switch_from_being_turned(rt: Runtime) -> None:
    """Sixteen threads contain, one device after the other; the switch is on soon, and from then on each of them waits."""
    made, turn, stop = many(rt, 200), count(), threading.Event()
    states, took, raised = list[tuple[float, str]](), list[float](), list[BaseException]()

    def contain() -> None:
        try:
            while not stop.is_set():
                device = made[next(turn) % len(made)]
                began = time.monotonic()
                row = rt.db.run(lambda c: service.request(rt, c, asked(device.id)), urgent=True)
                took.append(time.monotonic() - began)
                states.append((began, row.guard))
                if row.state == "active":  # and is let go again, so that there is always one to be contained
                    rt.db.run(lambda c: service.end(rt, c, service.locked(c, row.id, ACTOR), actor=ACTOR, reason="t"))
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=contain) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    while len(states) < THREADS and not raised:
        time.sleep(0.01)
    began = time.monotonic()
    room.set_kill_switch(rt, ADMIN, active=True, reason="stop")
    turned = time.monotonic()
    while not any(since > turned for since, _ in states) and not raised:
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join(LONG)
    assert raised == []
    assert turned - began <= max(SOON, 2 * max(took))  # a machine that is busy with other things is slow at all of it
    assert {guard for since, guard in states if since > turned} == {"kill-switch"}


def test_the_switch_says_when_it_was_turned_and_tells_it_once(rt: Runtime) -> None:
    for active in (False, True, True, False):
        room.set_kill_switch(rt, ADMIN, active=active, reason=str(active))
        with rt.db.read() as connection:
            found = approvals.kill_switch_state(connection)
        assert (found.active, found.reason, found.by) == (active, str(active), ADMIN.label)
    assert [event.active for event in told(rt, "KillSwitchChanged")] == [True, False]
