"""How soon a device that turns is refused at its open connection, whatever else goes on.

    .venv/bin/python benchmarks/urgent.py [--quick] [--json [FILE]] [--database sqlite,postgresql] [--rows idle,…]
        [--samples 200] [--old]

For each database one served installation; for each row 200 devices, one after the other: each sends the line that decides and
is timed until the connection that it holds open is closed or answers 403 (`benchmarks.support.street`). p50, p99 and the
longest, in wall milliseconds of the client, whose own threads make the load (`benchmarks.support.loads`) on the same machine.
Beside them stands the floor of the same run: an fsync of 4 KiB and one round trip over loopback TLS, and what idle costs over it. `errors of others` counts
what a polling neighbour and a reading person were not answered. ``--old`` measures the yardstick's commit instead.

Returns 1 when a *must* of `benchmarks.support.table.GOALS` is missed.
"""

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from pathlib import Path

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
    for database in (args.database or ("sqlite" if args.quick else "sqlite,postgresql")).split(","):
        if database == "postgresql" and not postgres.available():
            print("PostgreSQL's programs are not there: its rows are left out", file=sys.stderr)
            continue
        names = QUICK if args.quick and not args.rows else wanted
        found += measure(
            checkout, names, args.samples or (10 if args.quick else 200), on_postgres=database == "postgresql"
        )
    return table.show(table.document("benchmarks/urgent.py", [row.document() for row in found]), json_to=args.json)


def measure(checkout: Checkout, names: tuple[str, ...], samples: int, *, on_postgres: bool) -> list[Row]:
    """Measure rows on one database, in one installation."""
    where = "PostgreSQL" if on_postgres else "SQLite"
    began = time.monotonic()
    found: list[Row] = []
    with street(checkout, counts(names, samples), postgres=on_postgres) as made:
        with tempfile.TemporaryDirectory(dir=made.lab.folder) as folder:
            bare = floor(Path(folder), samples)
        found += [Row(f"floor, {where}, {part}", bare.quantile(share), "ms") for part, share in _PARTS]
        for name in names:
            print(f"[{time.monotonic() - began:5.0f} s] {where}: {name}", file=sys.stderr, flush=True)
            if name == TUF and not loads.known(checkout):
                continue
            seen = one(made, name, samples)
            note = f"{len(seen.seconds)} samples" + (f"; {seen.errors[0]}" if seen.errors else "")
            found += [Row(f"{name}, {where}, {part}", seen.quantile(share), "ms", note=note) for part, share in _PARTS]
            if name == "idle":
                found += [Row(f"idle over the floor, {where}, {part}", seen.quantile(share) - bare.quantile(share), "ms")
                          for part, share in _PARTS[:2]]  # fmt: skip
            found.append(Row(f"{name}, {where}, errors of others", float(len(seen.errors)), "answers"))
    return found


_PARTS = (("p50", 0.5), ("p99", 0.99), ("longest", 1.0))


def counts(names: tuple[str, ...], samples: int) -> Counts:
    """Tell how many devices the rows need."""
    others = {"dead": 60, "500 ": 500 + 12 * samples, "5 00": 5000 + 25 * samples, "half": LEAST}
    return Counts(
        turning=samples * len(names) + 4,
        others=max(
            LEAST, sum(count for start, count in others.items() if any(name.startswith(start) for name in names))
        ),
        evil=min(1000, 5 * samples) if any("vendor" in name for name in names) else 0,
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
                seen.errors.append(f"{who.name} was served again")
    return seen


if __name__ == "__main__":
    sys.exit(main())
