"""The yardstick of the machine: lachan at a fixed commit, run beside the commit under test.

Its tree and its environment lie in a cache folder outside this tree (`CACHE`); making them takes a minute or two once.
"""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

from benchmarks.support.installation import Checkout

COMMIT = "990b298"
CACHE = Path(os.environ.get("LACHAN_BENCH_CACHE", Path.home() / ".cache" / "lachan-benchmarks"))
TOP = Path(__file__).resolve().parents[2]
OURS = Checkout("lachan", TOP, Path(sys.executable))


def prepare(*, make: bool = True) -> Checkout | None:
    """Give the yardstick's checkout, made on first use; None when it is not there and ``make`` is false.

    Raises:
        CalledProcessError: this tree is no git repository with that commit, or the environment cannot be made.
    """
    top = CACHE / f"lachan-{COMMIT}"
    found = Checkout(COMMIT, top, top / ".venv" / "bin" / "python")
    if found.python.exists():
        return found
    if not make:
        return None
    print(f"making lachan {COMMIT} in {top} (once)", file=sys.stderr)
    top.mkdir(parents=True, exist_ok=True)
    packed = top / "tree.tar"
    subprocess.run(["git", "-C", str(TOP), "archive", "-o", str(packed), COMMIT], check=True)
    with tarfile.open(packed) as tree:
        tree.extractall(top, filter="data")
    packed.unlink()
    env = {key: value for key, value in os.environ.items() if not key.startswith(("LACHAN_", "PYTHON", "VIRTUAL"))}
    base = Path(sys.base_prefix) / "bin" / "python3"
    subprocess.run([str(base), "-m", "lachan", "--help"], cwd=top, env=env, check=True, stdout=subprocess.DEVNULL)
    return found
