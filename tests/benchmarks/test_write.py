"""The programs of benchmarks/ count what they say they count, and the quick run gives its document."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks.support import cpu, table
from benchmarks.support.table import Goal, Row
from tests.house import tree

SPEND = "import time\nwhile time.process_time() < 0.3: pass\n"


def test_cpu_of_living_and_of_ended_children_is_counted() -> None:
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPEND!r}]); print(); input()"
    words = [sys.executable, "-c", nested]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        assert 0.25 < cpu.trees({"one": process.pid})["one"] < 1.5
        found = cpu.trees({"one": process.pid, "above": os.getpid()})
        assert found["one"] == cpu.trees({"one": process.pid})["one"]
        assert found["above"] < cpu.trees({"above": os.getpid()})["above"], "what is named apart counts once"
        process.communicate("\n")


def test_quiet_waits_for_work_and_not_for_rest() -> None:
    busy = "import threading\nthreading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()\nprint()\ninput()"
    for program, rests in ((busy, False), ("print()\ninput()", True)):
        words = [sys.executable, "-uc", program]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            process.stdout.readline()
            if rests:
                cpu.quiet({"one": process.pid}, idle=0.1, most=60)
            else:  # however little of the machine it gets, and from another thread than the first
                with pytest.raises(TimeoutError):
                    cpu.quiet({"one": process.pid}, idle=100.0, most=2)
            process.kill()


def test_a_goal_is_about_the_ratio_or_our_own_figure() -> None:
    known = Row("enrol kept ×16, SQLite", 300.0, beside="step-ca", peer=400.0)
    assert (known.reached("must"), known.reached("aim")) == (True, False)
    assert replace(known, ours=200.0).reached("must") is False
    assert replace(known, ours=None).reached("must") is None, "what was not measured is neither met nor missed"
    assert Goal(1.3, of="ours", most=True).holds(1.31, 1.3) is False
    assert Row("nobody's goal", 1.0).document()["met"] is None


def test_missed_goals_decide_the_exit_code_and_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        Row(name, 0.001 if not goal.most else 1e9, beside=beside, peer=1.0)
        for (name, beside), goal in table.GOALS.items()
    ]
    assert table.show(table.document("test", [row.document() for row in rows]), json_to=None) == 1
    shown = capsys.readouterr().out
    assert shown.count("MISSED") == sum(goal.must is not None for goal in table.GOALS.values())
    assert "Where we lose" in shown


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_the_quick_run_prints_one_document() -> None:
    words = [sys.executable, "benchmarks/write.py", "--quick", "--json"]
    done = subprocess.run(words, cwd=tree.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stderr
    (row, *_) = json.loads(done.stdout)["rows"]
    assert {"name", "ours", "peer", "ratio", "goal", "met"} <= row.keys()
    assert row["ours"] > 10
