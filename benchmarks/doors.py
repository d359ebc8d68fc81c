"""What the doors cost, per CPU-second of all server processes, beside the same run's floor and an older lachan.

    .venv/bin/python benchmarks/doors.py [--quick] [--json [FILE]] [--only status,device,bytes,bulk] [--rounds N] [--alone] [--hawkbit SCRIPT]

The floor is the product's own TLS protocol (or plain one) with an empty application: what a row costs more is its route's
own. The yardstick is lachan 990b298 from ``$LACHAN_BENCH_CACHE`` (default ``~/.cache/lachan-benchmarks``), made once;
`--quick` (under a minute) uses what is there and makes nothing; `--alone` leaves it out. CPU is user and system time of all
server processes, less what they spend at rest in the same time; wall time is never compared. Trust ratios inside one run.

Returns 1 when a *must* of `benchmarks.support.table.GOALS` is missed.
"""

import argparse
import signal
import sys
import time
from pathlib import Path

from benchmarks.support import doors, table, yardstick

PARTS = ("status", "device", "bytes", "bulk")


def main() -> int:
    """Measure what was asked for, print one table, say where we lose."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few requests, one round, under a minute")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write one JSON document; - prints it")
    parser.add_argument("--only", default="", metavar="PART,…", help=f"{', '.join(PARTS)} (with --quick the first two)")
    parser.add_argument("--rounds", type=int, default=None, help="turns of each side in each case (default 3)")
    parser.add_argument("--alone", action="store_true", help="without the yardstick")
    parser.add_argument(
        "--hawkbit", type=Path, metavar="SCRIPT", help="serves hawkBit: SCRIPT WORKDIR PORT; adds its row"
    )
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end, too
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", file=sys.stderr, flush=True)

    old = None if args.alone else yardstick.prepare(make=not args.quick)
    sides = [yardstick.OURS, *([old] if old else [])]
    parts = args.only.split(",") if args.only else PARTS[:2] if args.quick else PARTS
    rounds = args.rounds or (1 if args.quick else 3)
    found = doors.measure(sides, list(parts), rounds=rounds, quick=args.quick, say=say, hawkbit=args.hawkbit)
    rows = [row.document() for row in found]
    return table.show(table.document("benchmarks/doors.py", rows), json_to=args.json)


if __name__ == "__main__":
    sys.exit(main())
