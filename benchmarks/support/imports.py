"""Rows of importing devices: one CSV by ``lachan device import``, one by the people door, until the last row is there.

The command's own CPU counts with that of all server processes: it applies the rows itself. An answer 202 is waited for by
looking whether the devices are there, whatever the job behind it is called.
"""

import resource
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.support.installation import Checkout, Installation
from benchmarks.support.rows import Rows
from benchmarks.support.table import Row

TRIAL, AIM, MOST, LEAST = 2000, 12.0, 100_000, 4000  # rows tried, CPU seconds aimed at, rows at most and at least


class Imports:
    """One installation that takes files."""

    def __init__(self, lab: Installation) -> None:
        self.lab = lab
        lab.open()
        self.rows = Rows(lab)
        self.admin = lab.admin()
        self.files = 0

    def file(self, count: int) -> Path:
        """Write a file of so many devices that nobody knows yet."""
        self.files += 1
        path = self.lab.folder / f"{self.files}.csv"
        lines = ["name,vendor,model,serial_number,site,ward,address"]
        lines += [
            f"imp{self.files}-{i:07d},Vendor {i % 12},M{i % 40},SN{self.files}-{i:08d},site-{i % 500},Ward {i % 126},"
            f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}"
            for i in range(count)
        ]
        path.write_text("\n".join(lines) + "\n")
        return path

    def by_command(self, count: int) -> float:
        """Import by the command; gives CPU seconds."""
        path = self.file(count)
        before, own = self.lab.total(), _children()
        self.lab.lachan("device", "import", str(path))
        own = _children() - own
        return self._end(count, before) + own

    def by_http(self, count: int) -> float:
        """Import at the people door; gives CPU seconds."""
        text = self.file(count).read_bytes()
        before = self.lab.total()
        headers = {"Content-Type": "text/csv", "Idempotency-Key": f"bench-{self.files}"}
        self.admin.post("/api/v1/devices/import", content=text, headers=headers, timeout=600).raise_for_status()
        return self._end(count, before)

    def _end(self, count: int, before: float) -> float:
        query = f"SELECT count(*) FROM devices WHERE name >= 'imp{self.files}-' AND name < 'imp{self.files}.'"
        end = time.monotonic() + 600
        while self.rows.one(query) < count:
            if time.monotonic() > end:
                raise TimeoutError(f"{self.lab.checkout.name}: only {self.rows.one(query)} of {count} rows came in")
            time.sleep(0.2)
        self.lab.settle()
        return self.lab.total() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(checkouts: list[Checkout], *, postgres: bool, quick: bool, say: Callable[[str], None]) -> list[Row]:
    """Measure both ways, ours beside the yardstick."""
    where = "PostgreSQL" if postgres else "SQLite"
    rates: dict[tuple[str, str], float] = {}
    with ExitStack() as open_ones:
        sides = {}
        for checkout in checkouts:
            say(f"{where}: founding and serving {checkout.name}")
            sides[checkout.name] = Imports(open_ones.enter_context(Installation(checkout, postgres=postgres)))
        for way in ("command", "HTTP"):
            for name, side in sides.items():
                run = side.by_command if way == "command" else side.by_http
                trial = run(TRIAL)
                count = TRIAL if quick else int(min(MOST, max(LEAST, AIM * TRIAL / trial)))
                say(f"{where}: import of {count} rows by {way}: {name}")
                rates[name, way] = count / (run(count) if count != TRIAL else trial)
    others = [one.name for one in checkouts[1:]]
    return [
        Row(f"import rows by {way}, {where}", rates["lachan", way], beside=name, peer=rates.get((name, way)))
        for way in ("command", "HTTP")
        for name in others or [""]
    ]
