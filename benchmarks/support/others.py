"""Rows that other programs of benchmarks/ make, taken over as they are: each runs as a process of its own."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.support.yardstick import TOP

FOLDER = Path(__file__).resolve().parents[1]
# By part; a program named tuf.py would hide the library of that name from all of benchmarks/.
PROGRAMS = {"crl": "crl.py", "tuf": "firmware.py", "ledger": "ledger.py"}


def rows(name: str, *, quick: bool, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Run the program of a part with ``--json FILE`` and give its rows, with the keys that they leave out.

    A program that is not there is told and has no rows.

    Raises:
        RuntimeError: it ended before it wrote its document.
    """
    program = FOLDER / PROGRAMS[name]
    if not program.exists():
        say(f"benchmarks/{program.name} is not there: its rows are left out")
        return []
    say(f"benchmarks/{program.name}")
    with tempfile.TemporaryDirectory(prefix="lb-") as folder:
        file = Path(folder) / "rows.json"
        words = [sys.executable, str(program), "--json", str(file), *(["--quick"] if quick else [])]
        done = subprocess.run(words, cwd=TOP, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if not file.exists():
            raise RuntimeError(
                f"benchmarks/{program.name} gave no document (code {done.returncode}): {done.stderr[-800:]}"
            )
        return [_complete(row) for row in json.loads(file.read_text("utf-8"))["rows"]]


def _complete(row: dict[str, Any]) -> dict[str, Any]:
    known = dict.fromkeys(("ours", "peer", "ratio", "goal", "met")) | {"unit": "", "beside": "", "note": ""}
    whole = known | row
    if whole["goal"] is not None and not isinstance(whole["goal"], str):
        whole["goal"] = f"{whole['goal']:g}"
    return whole
