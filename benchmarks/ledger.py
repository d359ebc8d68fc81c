"""What a large ledger costs: sealing, exporting and verifying a million events, per CPU-second, and the memory of each.

    .venv/bin/python benchmarks/ledger.py [--quick] [--json [FILE]] [--events N] [--postgresql] [--alone]

Beside lachan 990b298 in the same run, with at most 100 000 events: it keeps all of them in memory. `--quick` (20 000 events,
under a minute) uses the yardstick only if it is there; `--alone` never does. Returns 1 when a *must* is missed.
"""

import argparse
import sys
import time

from benchmarks.support import ledger, table, yardstick


def main() -> int:
    """Measure, print one table, write JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small ledger, under a minute")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write one JSON document; - prints it")
    parser.add_argument("--events", type=int, default=None, metavar="N", help="how many (default a million)")
    parser.add_argument("--postgresql", action="store_true", help="on PostgreSQL instead of SQLite")
    parser.add_argument("--alone", action="store_true", help="without the yardstick")
    args = parser.parse_args()
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", file=sys.stderr, flush=True)

    old = None if args.alone else yardstick.prepare(make=not args.quick)
    sides = [yardstick.OURS, *([old] if old else [])]
    found = ledger.measure(sides, postgres=args.postgresql, quick=args.quick, count=args.events, say=say)
    rows = [row.document() for row in found]
    return table.show(table.document("benchmarks/ledger.py", rows), json_to=args.json)


if __name__ == "__main__":
    sys.exit(main())
