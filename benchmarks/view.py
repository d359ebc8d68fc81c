"""How soon four door processes see a change of trust, and what a door weighs at rest, with 10^5 devices contained of 10^6.

    .venv/bin/python benchmarks/view.py [--quick] [--json [FILE]] [--database sqlite,postgresql]

For each database: 10^6 devices, 10^5 of them contained, 10^5 refused certificates, `lachan serve --doors 4`. Then: CPU of each
door over 20 s without a request; 200 changes, each a transaction of its own and without a wake-up, until the last of the four
answers by it; 10^4 changes in one transaction; memory of each door (proportional set size). `--quick` is a small city, in a
minute. The CPU figures are the scheduler's own; wall times include the client's 5 ms between two questions and, on a shared
machine, whatever else it does.

Returns 1 when a *must* of `benchmarks.support.table.GOALS` is missed.
"""

import argparse
import signal
import sys
import time

from benchmarks.support import postgres, table, view, yardstick


def main() -> int:
    """Measure what was asked for, print one table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small city, under a minute")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write one JSON document; - prints it")
    parser.add_argument("--database", default="sqlite,postgresql", metavar="NAME,…", help="sqlite, postgresql")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end, too
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", file=sys.stderr, flush=True)

    rows = []
    for name in args.database.split(","):
        if name == "postgresql" and not postgres.available():
            say("PostgreSQL is not installed: left out")
            continue
        rows += view.measure(yardstick.OURS, postgres=name == "postgresql", quick=args.quick, say=say)
    found = table.document("benchmarks/view.py", [row.document() for row in rows])
    return table.show(found, json_to=args.json)


if __name__ == "__main__":
    sys.exit(main())
