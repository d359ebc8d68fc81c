"""Rows of growth: the same enrolments at 10^4 and at 10^6 devices and certificates, by process, side by side in turns.

Both installations are filled before they are served: copies of one device and of its certificate, with names, keys and
fingerprints of their own (`benchmarks.support.rows`). What a process spends on an enrolment at the large one is divided by
what it spends at the small one; a process that spends less than `FLOOR` there is judged as if it spent that.
"""

from collections.abc import Callable
from contextlib import ExitStack

from benchmarks.support import cpu, est, http_client, rows
from benchmarks.support.enrolment import WARM, enrolled
from benchmarks.support.installation import Checkout, Installation
from benchmarks.support.table import Row

SIZES = (10_000, 1_000_000)
QUICK = (1_000, 20_000)
CONNECTIONS = 4
FLOOR = 0.05  # ms a certificate: the clock ticks every 10 ms, and a turn has hundreds
AT_REST = 20.0  # seconds


class Grown:
    """One served installation with so many devices and certificates."""

    def __init__(self, lab: Installation, size: int, wanted: int) -> None:
        self.lab = lab
        first = rows.candidates(lab, 1, prefix="first")
        lab.open()
        enrolled(lab, first)
        lab.settle()
        lab.close()
        rows.grow(lab, size)
        self.unsent = [est.enrol(one) for one in rows.candidates(lab, wanted + WARM)]
        lab.open()
        self.spent = dict.fromkeys(lab.pids, 0.0)
        self.idle = dict.fromkeys(lab.pids, 0.0)
        self.done = 0
        self.turn(WARM, counted=False)

    def turn(self, count: int, *, counted: bool = True) -> None:
        """Enrol so many devices, and add what each process spent until rest."""
        sent, self.unsent = self.unsent[:count], self.unsent[count:]
        plan = http_client.Plan(self.lab.urls["device"], self.lab.root, http_client.spread(sent, CONNECTIONS))
        self.lab.settle()
        with http_client.Load(plan) as load:  # after the wait: a door closes connections that say nothing for long
            before = self.lab.cpu()
            load.go()
            self.lab.settle()
            after = self.lab.cpu()
        if counted:
            self.done += count
            for role in self.spent:
                self.spent[role] += after[role] - before[role]

    def each(self, role: str) -> float:
        """Give the milliseconds that a process (or ``all``) spends on an enrolment."""
        spent = sum(self.spent.values()) if role == "all" else self.spent[role]
        return 1000 * spent / self.done


def measure(checkout: Checkout, *, postgres: bool, quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Measure ours at both sizes: the ratio in each process, and what each does at rest."""
    where = "PostgreSQL" if postgres else "SQLite"
    turns, count = (1, 100) if quick else (4, 300)
    with ExitStack() as open_ones:
        grown = []
        for size in QUICK if quick else SIZES:
            say(f"{where}: filling {size} devices and certificates")
            lab = open_ones.enter_context(Installation(checkout, postgres=postgres))
            grown.append(Grown(lab, size, turns * count))
        for number in range(turns):
            say(f"{where}: enrolments at both sizes, round {number + 1} of {turns}")
            for one in grown if number % 2 else reversed(grown):
                one.turn(count)
        say(f"{where}: at rest")
        for one in grown:
            one.idle = cpu.each_at_rest(one.lab.pids, AT_REST / 4 if quick else AT_REST)
    return _rows(grown[0], grown[1], "10^3 → 2·10^4" if quick else "10^4 → 10^6", where)


def _rows(small: Grown, large: Grown, sizes: str, where: str) -> list[Row]:
    found = []
    for role in [*small.spent, "all"]:
        few, many = small.each(role), large.each(role)
        ratio = max(many, FLOOR) / max(few, FLOOR)
        note = f"{few:.2f} → {many:.2f} ms an enrolment"
        found.append(Row(f"growth {sizes}, {role}, {where}", ratio, "times", note=note))
    for role, seconds in large.idle.items():
        few, many = 1000 * small.idle[role], 1000 * seconds
        found.append(Row(f"at rest, {role}, {where}", many, "CPU ms a second", sizes.partition(" ")[0], few))
    return found
