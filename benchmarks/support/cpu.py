"""CPU seconds of processes and of everything they started, from ``/proc``.

A process counts with its user and system time and with that of its children: the living ones, and those that ended and
were waited for. Wall time is never counted: the machine is shared.
"""

import os
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def trees(roots: dict[str, int]) -> dict[str, float]:
    """Tell the CPU seconds of each named process with its descendants.

    A descendant that is itself named counts under its own name only, so the sum is that of all processes.
    """
    found = dict.fromkeys(roots, 0.0)
    for name, _, seconds in _members(roots):
        found[name] += seconds
    return found


def total(roots: dict[str, int]) -> float:
    """Tell the CPU seconds of all named processes with their descendants."""
    return sum(trees(roots).values())


def precise(roots: dict[str, int]) -> float:
    """Tell the CPU seconds of the living threads of these processes and their descendants, to the nanosecond.

    The scheduler's own account (``/proc/PID/task/*/schedstat``): for one request, where `total` counts in ticks of 10 ms.
    What a thread spent that has ended meanwhile is not in it.
    """
    spent = 0
    for _, pid, _ in _members(roots):
        for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                spent += int(thread.read_text("utf-8").split()[0])
            except OSError:  # it ended meanwhile
                continue
    return spent / 1e9


def _members(roots: dict[str, int]) -> list[tuple[str, int, float]]:
    """Give (name, process id, CPU seconds) of each process that belongs to a named one."""
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
    named = {pid: name for name, pid in roots.items()}
    found = []
    for pid, seconds in used.items():
        above = pid
        while above and above not in named:
            above = parents.get(above, 0)
        if above:
            found.append((named[above], pid, seconds))
    return found


def _running(roots: dict[str, int]) -> bool:
    """Tell whether a thread of these processes runs, waits for a processor, or for the disk."""
    for _, pid, _ in _members(roots):
        try:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                if (thread / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] in {"R", "D"}:
                    return True
        except OSError:  # it ended meanwhile
            continue
    return False


def quiet(roots: dict[str, int], *, idle: float, most: float = 120.0) -> None:
    """Wait until the processes do no more than they do at rest, in two looks after one another.

    On a crowded machine a busy process may get next to no CPU for half a second: one that waits for a processor is not
    at rest either.

    Args:
        roots: process ids by name; their descendants are meant too.
        idle: CPU seconds a second at rest.
        most: seconds to wait at most.

    Raises:
        TimeoutError: they are still busy after ``most`` seconds.
    """
    step, end, calm = 0.4, time.monotonic() + most, 0
    before = total(roots)
    while time.monotonic() < end:
        time.sleep(step)
        now = total(roots)
        calm = calm + 1 if now - before <= step * idle * 1.5 + 0.02 and not _running(roots) else 0
        if calm == 2:
            return
        before = now
    raise TimeoutError(f"still busy after {most:.0f} s")


def at_rest(roots: dict[str, int], seconds: float = 2.0) -> float:
    """Measure CPU seconds a second at rest: the smallest of a few looks."""
    looks = []
    for _ in range(3):
        before, began = total(roots), time.monotonic()
        time.sleep(seconds / 2)
        looks.append((total(roots) - before) / (time.monotonic() - began))
    return min(looks)


def each_at_rest(roots: dict[str, int], seconds: float) -> dict[str, float]:
    """Measure the CPU seconds a second that each named process spends when nobody asks for anything."""
    before, began = trees(roots), time.monotonic()
    time.sleep(seconds)
    after, took = trees(roots), time.monotonic() - began
    return {name: (after[name] - before[name]) / took for name in roots}
