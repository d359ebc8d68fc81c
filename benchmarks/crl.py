"""What a revocation list of a million entries costs, in CPU-seconds of all processes, beside other makers of lists.

    .venv/bin/python benchmarks/crl.py [--quick] [--json [FILE]] [--database sqlite,postgresql]

`--quick` lists 10^5 entries on SQLite in under a minute. The parts are told in `benchmarks.support.crl`. Returns 1 when a
*must* of `benchmarks.support.table.GOALS` is missed.
"""

import argparse
import sys
import time

from benchmarks.support import crl, postgres, table
from benchmarks.support.table import Row


def main() -> int:
    """Measure, print one table, say where we lose."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10^5 entries on SQLite, under a minute")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write one JSON document; - prints it")
    parser.add_argument("--database", default=None, metavar="NAME,…", help="sqlite, postgresql")
    args = parser.parse_args()
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", file=sys.stderr, flush=True)

    found: list[Row] = []
    for database in (args.database or ("sqlite" if args.quick else "sqlite,postgresql")).split(","):
        if database == "postgresql" and not postgres.available():
            say("PostgreSQL's programs are not there: its rows are left out")
            continue
        found += crl.measure(postgres=database == "postgresql", quick=args.quick, say=say)
    return table.show(table.document("benchmarks/crl.py", [row.document() for row in found]), json_to=args.json)


if __name__ == "__main__":
    sys.exit(main())
