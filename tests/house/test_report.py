"""The counts at the end of ``lachan test``, and that a skip in the wrong place does not pass."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lachan.launch import testcmd
from tests.house import tree

SKIP = "import pytest\ndef test_s():\n    pytest.skip('needs mosquitto: apt install mosquitto')\n"
MANY = "import pytest\n@pytest.mark.parametrize('i', range(12))\ndef test_m(i):\n    pass\n"
SILENT = SKIP.replace("needs mosquitto: apt install mosquitto", "not today")
MODULE = "import pytest\npytest.importorskip('a_library_nobody_made')\n"


def run(
    folder: Path, files: dict[str, str], *argv: str, ci: str = "", workers: int = 0
) -> tuple[int, str, dict[str, int]]:
    """Run a little suite under our report; its status, words and counts."""
    (folder / "pyproject.toml").write_text(
        "[tool.pytest.ini_options]\ntestpaths = ['tests']\nmarkers = ['slow', 'fault']\n"
    )
    for name, source in files.items():
        place = folder / "tests" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(source)
    counts = folder / "counts"
    counts.unlink(missing_ok=True)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "tests.support.report",
            "-p",
            "xdist.plugin",
            "-n",
            str(workers),
            *argv,
        ],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(tree.ROOT),
            "CI": ci,
            "LACHAN_TEST_COUNTS": str(counts),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert counts.exists(), done.stdout + done.stderr
    return done.returncode, done.stdout, json.loads(counts.read_text())


@pytest.mark.parametrize("workers", [0, 2])
def test_counts_and_reasons_are_printed(tmp_path: Path, workers: int) -> None:
    files = {"interop/test_a.py": SKIP, "pki/test_b.py": MANY}
    status, words, counts = run(tmp_path, files, workers=workers)
    assert status == 0, words
    assert "run 12   skipped 1 (7.7%)" in words
    assert "1 × needs mosquitto: apt install mosquitto" in words
    assert counts == {"run": 12, "skipped": 1, "status": 0}
    assert re.search(r"12 passed, 1 skipped", words.splitlines()[-1])


@pytest.mark.parametrize("source", [SILENT, MODULE], ids=["a test", "a whole module"])
def test_a_skip_that_does_not_say_what_to_install_fails_the_run_and_is_named(tmp_path: Path, source: str) -> None:
    status, words, _ = run(tmp_path, {"interop/test_a.py": source, "pki/test_b.py": MANY})
    assert status == 1
    assert "who skips says what to install, but these did not: tests/interop/test_a.py" in words


def test_under_ci_nothing_may_be_skipped(tmp_path: Path) -> None:
    status, words, counts = run(tmp_path, {"interop/test_a.py": SKIP, "pki/test_b.py": MANY}, ci="true")
    assert (status, counts["status"]) == (1, 1)
    assert "CI=true, so nothing may be skipped" in words


def test_a_failure_stays_a_failure(tmp_path: Path) -> None:
    status, words, counts = run(tmp_path, {"pki/test_b.py": "def test_f():\n    assert 0\n"})
    assert (status, counts["run"]) == (1, 1)
    assert "NOT ALLOWED" not in words


def test_the_long_ones_stay_out_unless_asked_for() -> None:
    assert testcmd.DEFAULT_MARKS in testcmd.arguments([])
    assert testcmd.DEFAULT_MARKS not in testcmd.arguments(["--all"])
    assert testcmd.ALL_MARKS in testcmd.arguments(["--all"])
    assert "--all" not in testcmd.arguments(["--all"])
    assert testcmd.arguments(["-m", "fault"])[-2:] == ["-m", "fault"]
    assert testcmd.DEFAULT_MARKS not in testcmd.arguments(["-m", "fault"])
    assert testcmd.arguments(["-n0"]).count("-n") == 0


def test_every_package_a_skip_names_is_installed_by_the_gate() -> None:
    listed = {line.split("#")[0].strip() for line in (tree.ROOT / ".ci" / "packages.txt").read_text().splitlines()} - {
        ""
    }
    named = {
        (package, tree.name(path))
        for path in tree.files(tree.ROOT / "tests")
        if path.suffix == ".py"
        for package in re.findall(r"\bpackage=\"([a-z0-9.+-]+)\"", path.read_text())
    }
    assert {(package, where) for package, where in named if package not in listed | {"golang-go"}} == set()
