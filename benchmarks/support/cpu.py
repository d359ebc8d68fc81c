"""CPU seconds of processes and of everything they started, from ``/proc``.

A process counts with its user and system time and with that of its children: the living ones, and those that ended and
were waited for. Wall time is never counted: the machine is shared.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def trees(roots: dict[str, int]) -> dict[str, float]:
    """Tell the CPU seconds of each named process with its descendants.

    A descendant that is itself named counts under its own name only, so the sum is that of all processes.
    """
    parents, used = _read()
    named = {pid: name for name, pid in roots.items()}
    found = dict.fromkeys(roots, 0.0)
    for pid, seconds in used.items():
        above = pid
        while above and above not in named:
            above = parents.get(above, 0)
        if above:
            found[named[above]] += seconds
    return found


def _read() -> tuple[dict[int, int], dict[int, float]]:
    parents, used = {}, {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = Path(f"/proc/{entry}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        parents[int(entry)] = int(fields[1])
        used[int(entry)] = sum(map(int, fields[11:15])) / _TICKS
    return parents, used


def quiet(total: Callable[[], float], *, idle: float, most: float = 60.0) -> None:
    """Wait until the processes do no more than they do at rest.

    Args:
        total: gives their CPU seconds so far.
        idle: CPU seconds a second at rest.
        most: seconds to wait at most.

    Raises:
        TimeoutError: they are still busy after ``most`` seconds.
    """
    step, end = 0.5, time.monotonic() + most
    before = total()
    while time.monotonic() < end:
        time.sleep(step)
        now = total()
        if now - before <= step * idle * 1.5 + 0.02:
            return
        before = now
    raise TimeoutError(f"still busy after {most:.0f} s")


def at_rest(total: Callable[[], float], seconds: float = 2.0) -> float:
    """Measure CPU seconds a second at rest: the smallest of a few looks."""
    looks = []
    for _ in range(3):
        before, began = total(), time.monotonic()
        time.sleep(seconds / 2)
        looks.append((total() - before) / (time.monotonic() - began))
    return min(looks)
