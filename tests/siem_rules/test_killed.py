"""``kill -9`` of the detector at each boundary of its round: no alert is lost, none is raised twice."""

import signal
import subprocess
import sys
from collections import Counter

import pytest

from lachan.runtime import Runtime
from tests.siem_rules.support import EXPECTED, collector, detect, joined, pairs, raised, send, shifted
from tests.siem_rules.support import RECORDING as FILE

PLACES = ["before the transaction", "inside, alert written", "committed, not known", "rebuilding"]


def run_and_die(rt: Runtime, place: str) -> None:
    """Run a detector in a process of its own until it kills itself."""
    command = [
        sys.executable,
        "-m",
        "tests.siem_rules.killed",
        str(rt.settings.data),
        str(rt.settings.database_url),
        place,
    ]
    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("place", PLACES)
def test_killed_detector_loses_and_doubles_nothing(open_rt: Runtime, place: str) -> None:
    parts = pairs(shifted(FILE))
    gateway = collector("gw")
    send(open_rt, gateway, joined(parts[:20]))
    detect(open_rt)  # half the storm is counted and checkpointed before
    for part in parts[20:]:
        send(open_rt, gateway, joined([part]))
    run_and_die(open_rt, place)

    detect(open_rt)
    assert raised(open_rt) == Counter(EXPECTED)
    detect(open_rt)
    assert raised(open_rt) == Counter(EXPECTED)
