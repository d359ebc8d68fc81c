"""`kill -9` of any role while devices turn: what was acknowledged is cut, once, whoever was killed between the line and the cut."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.support import loads, yardstick
from benchmarks.support.street import Counts, Street, bulk, said, street
from lachan.program.serve import ROLES
from tests.support import need
from tests.support.wait import until

OTHERS, TIMES = 40, 3
pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def made(request: pytest.FixtureRequest) -> Iterator[Street]:
    """A street, served."""
    if on_postgres := request.param == "postgresql":
        need.program("initdb", package="postgresql")
    counts = Counts(turning=4 * TIMES * len(ROLES), others=OTHERS * len(ROLES) + 100, evil=0, fresh=0)
    with street(yardstick.OURS, counts, postgres=on_postgres) as found:
        yield found


def process(made: Street, role: str) -> int:
    """The process of a role that lives now, a child of the supervisor."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words, parent = (
                (place / "cmdline").read_bytes().split(b"\0"),
                (place / "stat").read_text().rpartition(")")[2].split(),
            )
        except (FileNotFoundError, ProcessLookupError):
            continue
        if role.encode() in words and int(parent[1]) == made.lab.urls["pid"] and parent[0] != "Z":
            return int(place.name)
    return 0


def acknowledged(made: Street, name: str, *, within: float = 60) -> None:
    """Have the collector deliver the deciding line of a device, under one id, until the door has taken it."""
    body = json.dumps({"create": {"_index": "l", "_id": name}}) + "\n" + json.dumps(said(host={"name": name})) + "\n"
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            answer = made.admin.post("/_bulk", content=body, headers=made.quarter.headers, timeout=10)
            if answer.is_success and not answer.json()["errors"]:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise TimeoutError(f"nobody took {name}'s line")


@pytest.mark.parametrize("role", ROLES)
def test_what_was_acknowledged_is_cut_once_whoever_is_killed(made: Street, role: str) -> None:
    made.lab.settle()
    names = [f"que-{next(made.quarter.left):07}" for _ in range(OTHERS)]
    told = threading.Thread(target=lambda: [acknowledged(made, name) for name in names])
    told.start()
    for number in range(TIMES):
        who = next(made.turning)
        until(lambda: process(made, role), timeout=60, what=f"{role} is started again")
        pid = process(made, role)
        assert pid > 1, "0 would be this very group of processes"
        killed = threading.Timer(0.01 * number, os.kill, (pid, signal.SIGKILL))
        killed.start()
        until(lambda who=who: _said(made, who), timeout=60, what="its line is taken")  # type: ignore[misc]
        killed.join()
        until(lambda who=who: made.control(who), timeout=60, what=f"{who.name} is refused")  # type: ignore[misc]
    told.join(90)
    assert not told.is_alive()
    listed = ", ".join(f"'{name}'" for name in names)
    cut = f"SELECT count(*) FROM containments c JOIN devices d ON d.id = c.device_id WHERE d.name IN ({listed})"
    until(
        lambda: made.quarter.rows.one(f"{cut} AND c.state = 'active'") == OTHERS, timeout=90, what="all of them are cut"
    )
    assert made.quarter.rows.one(cut) == OTHERS, "none twice"
    alerts = f"SELECT count(*) FROM alerts a JOIN devices d ON d.id = a.device_id WHERE d.name IN ({listed})"
    assert made.quarter.rows.one(alerts) == OTHERS, "one alert each, whatever was sent again"
    assert made.quarter.rows.one("SELECT count(*) FROM jobs WHERE state = 'poisoned'") == 0


def _said(made: Street, who: loads.est.Enrolled) -> bool:
    """Whether the device's line was acknowledged, on a connection of its own; 403 says that it was before."""
    try:
        live = made.live(who)
    except OSError:
        return False
    try:
        return live.ask(bulk([said()]))[0] in {200, 201, 403}
    finally:
        live.close()
