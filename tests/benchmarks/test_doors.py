"""The doors' benchmark: its goals are about rows that there are, and its quick run prints one document."""

import json
import subprocess
import sys

import pytest

from benchmarks.support import doors, table
from tests.house import tree


def test_goals_name_rows_that_are_measured() -> None:
    rows = {case.name for part in doors.cases(quick=False).values() for case in part}
    floors = {case.name for part in doors.cases(quick=False).values() for case in part if case.floor}
    named = {name for name, beside in table.GOALS if beside == doors.FLOOR}
    assert named == floors
    assert {name for name, _ in table.GOALS if "×8" in name or name.startswith("_bulk")} - {
        "enrol fresh ×8, SQLite"
    } <= rows


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_the_quick_run_prints_one_document() -> None:
    words = [sys.executable, "benchmarks/doors.py", "--quick", "--json", "--only", "status,device"]
    done = subprocess.run(words, cwd=tree.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert all({"name", "ours", "peer", "ratio", "goal", "met"} <= row.keys() and row["ours"] > 10 for row in rows)
