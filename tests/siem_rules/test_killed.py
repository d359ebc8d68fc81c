"""``kill -9`` of the detector at each boundary of its round: no alert is lost, none is raised twice."""

import signal
import subprocess
import sys
from collections import Counter

import pytest
import sqlalchemy as sa

from lachan.runtime import Runtime
from siem_rules.detector import SLICE
from siem_rules.models import checkpoints
from tests.siem_rules.support import (
    EXPECTED,
    collector,
    detect,
    device,
    documents,
    joined,
    pairs,
    raised,
    send,
    shifted,
)
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


def test_killed_between_two_slices_of_one_record(open_rt: Runtime) -> None:
    """One batch opens more episodes than one unit writes; the checkpoint tells the line at which to go on."""
    for n in range(3 * SLICE):
        device(open_rt, f"cam-{n}")
    refused = {"module": "lachan", "dataset": "update", "action": "firmware-refused", "reason": "rollback"}
    lines = [{"event": refused, "host": {"name": f"cam-{n}"}, "message": "refused"} for n in range(3 * SLICE)]
    send(open_rt, collector("gw"), documents(*lines))
    run_and_die(open_rt, "between two slices")
    with open_rt.db.read() as connection:
        behind = connection.execute(sa.select(checkpoints.c.behind)).scalar_one()
    [[offset, line, _]] = behind.values()
    assert offset == 0
    assert 0 < line <= 2 * SLICE, "two slices are kept"
    before = raised(open_rt)
    assert before.total() == line
    detector = detect(open_rt)
    assert detector.counters["events"] == 3 * SLICE - line, "what was read is not read again"
    after = raised(open_rt)
    assert after.total() == 3 * SLICE
    assert set(after.values()) == {3 * SLICE}
    detect(open_rt)
    assert raised(open_rt) == after
