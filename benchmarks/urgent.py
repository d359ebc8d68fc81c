"""How soon a device that turns is refused at its open connection, whatever else goes on.

    .venv/bin/python benchmarks/urgent.py [--quick] [--json [FILE]] [--database sqlite,postgresql] [--rows idle,…]
        [--samples 200] [--old]

For each database one served installation; for each row 200 devices, one after the other: each sends the line that decides and
is timed until the connection that it holds open is closed or answers 403 (`benchmarks.support.street`). p50, p99 and the
longest, in wall milliseconds of the client, whose own threads make the load (`benchmarks.support.loads`) on the same machine.
Beside them stands the floor of the same run: an fsync of 4 KiB and one round trip over loopback TLS, and what idle costs over it. `errors of others` counts
what a polling neighbour and a reading person were not answered, `served again` the devices that a second connection let in after the
first was refused. ``--old`` measures the yardstick's commit instead. Every row is told, and written to the JSON file, when it is there.

Returns 1 when a *must* of `benchmarks.support.table.GOALS` is missed.
"""

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.support import loads, postgres, table, yardstick
from benchmarks.support.bare import floor
from benchmarks.support.installation import Checkout
from benchmarks.support.street import Counts, Seen, Street, street
from benchmarks.support.table import Row

ROWS: dict[str, loads.Load] = {
    "idle": loads.idle,
    "half load of ingest": loads.ingest,
    "import of 100 000 rows": loads.importing,
    "4 cameras silent, one hostile, assessed": loads.assessed,
    "dead webhook receiver": loads.dead_webhook,
    "16 threads enrolling": loads.enrolling,
    "the device renewing in a burst": loads.idle,  # the load is the sample's own
    "TUF of 20 000 releases": loads.tuf,
    "500 alerts of others waiting": loads.waiting(500),
    "5 000 alerts of others waiting": loads.waiting(5000),
    "50 000 lines dated hours apart": loads.hours_apart,
    "a hostile vendor's 1 000 devices": loads.hostile_vendor,
}
RENEWING, TUF = "the device renewing in a burst", "TUF of 20 000 releases"
QUICK = ("idle", "the device renewing in a burst", "500 alerts of others waiting")


def main() -> int:
    """Measure what was asked for, print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three rows of 10 samples on SQLite, under a minute")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write one JSON document; - prints it")
    parser.add_argument("--database", default=None, metavar="NAME,…", help="sqlite, postgresql")
    parser.add_argument("--rows", default="", metavar="NAME,…", help="rows whose names begin so")
    parser.add_argument("--samples", type=int, default=0, metavar="N", help="devices a row")
    parser.add_argument("--old", action="store_true", help=f"measure {yardstick.COMMIT} instead")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end, too
    checkout = (yardstick.prepare() or yardstick.OURS) if args.old else yardstick.OURS
    wanted = tuple(name for name in ROWS if not args.rows or name.startswith(tuple(args.rows.split(","))))
    found: list[Row] = []

    def tell(rows: list[Row]) -> None:
        """Keep rows as soon as they are there: a run takes long, and one that is ended has lost nothing."""
        found.extend(rows)
        for row in rows:
            print(f"    {row.name}: {row.ours:.1f} {row.unit} {row.note}", file=sys.stderr, flush=True)
        if args.json not in {None, "-"}:
            Path(args.json).write_text(json.dumps(_document(found, checkout), indent=1, ensure_ascii=False), "utf-8")

    for database in (args.database or ("sqlite" if args.quick else "sqlite,postgresql")).split(","):
        if database == "postgresql" and not postgres.available():
            print("PostgreSQL's programs are not there: its rows are left out", file=sys.stderr)
            continue
        names = QUICK if args.quick and not args.rows else wanted
        samples = args.samples or (10 if args.quick else 200)
        measure(checkout, names, samples, tell, on_postgres=database == "postgresql")
    return table.show(_document(found, checkout), json_to=args.json)


def _document(found: list[Row], checkout: Checkout) -> dict[str, Any]:
    return table.document(f"benchmarks/urgent.py, {checkout.name}", [row.document() for row in found])


def measure(
    checkout: Checkout, names: tuple[str, ...], samples: int, tell: Callable[[list[Row]], None], *, on_postgres: bool
) -> None:
    """Measure rows on one database, in one installation, each when what the one before left is done."""
    where = "PostgreSQL" if on_postgres else "SQLite"
    began = time.monotonic()
    with street(checkout, counts(names, samples), postgres=on_postgres) as made:
        with tempfile.TemporaryDirectory(dir=made.lab.folder) as folder:
            bare = floor(Path(folder), samples)
        tell([Row(f"floor, {where}, {part}", bare.quantile(share), "ms") for part, share in _PARTS])
        for name in names:
            print(f"[{time.monotonic() - began:5.0f} s] {where}: {name}", file=sys.stderr, flush=True)
            if name == TUF and not loads.known(checkout):
                continue
            made.lab.settle(most=900)
            seen = one(made, name, samples)
            note = f"{len(seen.seconds)} samples" + (f"; {seen.errors[0]}" if seen.errors else "")
            rows = [Row(f"{name}, {where}, {part}", seen.quantile(share), "ms", note=note) for part, share in _PARTS]
            if name == "idle":
                rows += [Row(f"idle over the floor, {where}, {part}", seen.quantile(share) - bare.quantile(share), "ms")
                         for part, share in _PARTS[:2]]  # fmt: skip
            rows.append(Row(f"{name}, {where}, errors of others", float(len(seen.errors)), "answers"))
            rows.append(Row(f"{name}, {where}, served again", float(len(seen.again)), "devices"))
            tell(rows)


_PARTS = (("p50", 0.5), ("p99", 0.99), ("longest", 1.0))


def counts(names: tuple[str, ...], samples: int) -> Counts:
    """Tell how many devices the rows need."""
    others = {"dead": 60, "500 ": 500 + 12 * samples, "5 00": 5000 + 25 * samples, "half": LEAST}
    return Counts(
        turning=samples * len(names) + 4,
        others=max(
            LEAST, sum(count for start, count in others.items() if any(name.startswith(start) for name in names))
        ),
        evil=min(1000, 10 * samples) if any("vendor" in name for name in names) else 0,
        fresh=30 * samples if any("enrolling" in name for name in names) else 0,
    )


LEAST = 100


def one(made: Street, name: str, samples: int, *, load: loads.Load | None = None) -> Seen:
    """Take the samples of one row, under its own load or a smaller one."""
    seen = Seen()
    with (load or ROWS[name])(made), made.bystanders(seen):
        for _, who in zip(range(samples), made.turning, strict=False):
            with loads.renewing(made, who) if name == RENEWING else contextlib.nullcontext():
                seen.seconds.append(made.sample(who))
            if not made.control(who):
                seen.again.append(who.name)
    return seen


if __name__ == "__main__":
    sys.exit(main())
