"""``kill -9`` of each role of a served installation, one after the other: it is started again, and the loop closes."""

import os
import signal
from pathlib import Path

import pytest

from tests.loop.conftest import Town, attack
from tests.support.wait import until


def roles(town: Town) -> dict[str, int]:
    """The role processes that live now: role → process id."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            state = (place / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"--role" in words and int(state[1]) == town.city.urls["pid"] and state[0] != "Z":
            found[words[words.index(b"--role") + 1].decode()] = int(place.name)
    return found


def kill(town: Town, role: str) -> None:
    """Kill it without a warning, and wait until another one runs in its place."""
    before = roles(town)[role]
    os.kill(before, signal.SIGKILL)
    until(lambda: roles(town).get(role, before) != before, timeout=30, every=0.05, what=f"{role} is started again")


@pytest.mark.timeout(180)
def test_each_role_is_started_again_and_the_loop_closes(town: Town) -> None:
    camera, _ = town.camera("killed-1", "killed")
    assert set(roles(town)) == {"sign", "doors", "detect", "work"}

    kill(town, "sign")
    until(lambda: camera.do("enrol", renew=True)["ok"], timeout=30, what="certificates are signed again")
    kill(town, "doors")
    until(lambda: camera.do("ask").get("status") == 200, timeout=30, what="the door is open again")

    kill(town, "work")
    kill(town, "detect")
    camera.must("bulk", lines=attack())  # taken and kept, whoever is awake
    town.contained("killed-1", timeout=60)
    until(lambda: camera.do("ask")["status"] == 403, what="the camera is refused")

    kill(town, "doors")
    until(lambda: camera.do("ask").get("status") == 403, timeout=30, what="a new door refuses it just so")
    town.release("killed-1")
    until(lambda: camera.do("ask").get("status") == 200, timeout=30, what="the camera is let in again")
    assert len(town.story.events("DeviceContained", "killed-1")) == 1
    assert set(roles(town)) == {"sign", "doors", "detect", "work"}
    camera.process.terminate()
