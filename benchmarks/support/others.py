"""Rows that other programs of benchmarks/ make, taken over as they are: each runs as a process of its own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.support.yardstick import TOP

PROGRAMS = {"tuf": "firmware"}  # a program named tuf.py would hide the library of that name from all of benchmarks/
FOLDER = Path(__file__).resolve().parents[1]


def rows(name: str, *, quick: bool, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Run ``benchmarks/<name>.py --json`` (or what `PROGRAMS` says) and give its rows, with the keys that they leave out.

    A program that is not there, or that fails before it measured, is told and has no rows.
    """
    name = PROGRAMS.get(name, name)
    program = FOLDER / f"{name}.py"
    if not program.exists():
        say(f"benchmarks/{name}.py is not there: its rows are left out")
        return []
    say(f"benchmarks/{name}.py")
    words = [sys.executable, str(program), "--json", *(["--quick"] if quick else [])]
    done = subprocess.run(words, cwd=TOP, capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)["rows"]
    except (ValueError, KeyError, TypeError):
        say(f"benchmarks/{name}.py gave no document (exit code {done.returncode}): {done.stderr[-400:]}")
        return []
    return [_complete(row) for row in found]


def _complete(row: dict[str, Any]) -> dict[str, Any]:
    known = dict.fromkeys(("ours", "peer", "ratio", "goal", "met")) | {"unit": "", "beside": "", "note": ""}
    whole = known | row
    if whole["goal"] is not None and not isinstance(whole["goal"], str):
        whole["goal"] = f"{whole['goal']:g}"
    return whole
