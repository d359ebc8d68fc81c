"""The program that measures the trust view gives its document, and nobody was refused meanwhile."""

import json
import subprocess
import sys

import pytest

from tests.house import tree


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_quick_run_prints_one_document() -> None:
    words = [sys.executable, "benchmarks/view.py", "--quick", "--database", "sqlite", "--json"]
    done = subprocess.run(words, cwd=tree.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["answers other than 200, SQLite"]["ours"] == 0.0
    assert rows["memory of a door, the largest, SQLite"]["met"]
    assert {name for name, row in rows.items() if row["goal"]} == {
        f"{what}, SQLite"
        for what in ("change seen by four doors, longest", "door at rest, the busiest", "memory of a door, the largest",
                     "answers other than 200")
    }  # fmt: skip
