"""What the write path costs, per CPU-second of all server processes, beside step-ca and an older lachan in the same run.

    .venv/bin/python benchmarks/write.py [--quick] [--json [FILE]] [--only enrol,…] [--database sqlite,postgresql] [--rounds N]

Parts (`--only`, by default all but ``growth``, which `--growth` adds):

* ``enrol``: EST enrolment with a one-time secret over kept (×1, ×4, ×16 connections) and fresh TLS, renewal by mutual TLS,
  and how long one enrolment takes alone.

The peers are made once in ``$LACHAN_BENCH_CACHE`` (default ``~/.cache/lachan-benchmarks``): step-ca by Go from its module,
and lachan 990b298, the yardstick of the machine, from this repository. `--quick` (under a minute) uses what is there and
makes nothing. CPU is user and system time of all server processes, their children and their PostgreSQL; the load client is
a process of its own and not counted; wall time is never compared. Sides take turns, so trust ratios inside one run.

Returns 1 when a *must* of `benchmarks.support.table.GOALS` is missed.
"""

import argparse
import sys
import time
from collections.abc import Callable

from benchmarks.support import enrolment, postgres, stepca, table, yardstick
from benchmarks.support.table import Row

Say = Callable[[str], None]
PARTS = ("enrol",)


def main() -> int:
    """Measure what was asked for, print one table, say where we lose."""
    args = _arguments()
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", file=sys.stderr, flush=True)

    found: list[Row] = []
    for part in args.only:
        found += PART[part](args, say)
    rows = [row.document() for row in found]
    return table.show(table.document("benchmarks/write.py", rows), json_to=args.json)


def _enrol(args: argparse.Namespace, say: Say) -> list[Row]:
    old = yardstick.prepare(make=not args.quick)
    step = stepca.program(make=not args.quick)
    for name, there in (("lachan " + yardstick.COMMIT, old), ("step-ca", step)):
        if there is None:
            say(f"{name} is not in the cache (and cannot be made, or --quick makes none): its rows are left out")
    sides = [yardstick.OURS, *([old] if old else [])]
    found = []
    for database in args.database:
        if database == "postgresql" and not postgres.available():
            say("PostgreSQL's programs are not there: its rows are left out")
            continue
        found += enrolment.measure(
            sides, step, postgres=database == "postgresql", rounds=args.rounds, quick=args.quick, say=say
        )
    return found


PART: dict[str, Callable[[argparse.Namespace, Say], list[Row]]] = {"enrol": _enrol}


def _words(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        chosen = text.split(",")
        if strange := [word for word in chosen if word not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(strange)}: known are {', '.join(known)}")
        return chosen

    return read


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small case, under a minute")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write one JSON document; - prints it")
    parser.add_argument("--only", type=_words(PARTS), default=None, metavar="PART,…", help=", ".join(PARTS))
    databases = ("sqlite", "postgresql")
    parser.add_argument("--database", type=_words(databases), default=None, metavar="NAME,…", help=", ".join(databases))
    parser.add_argument("--rounds", type=int, default=None, help="turns of each side in each case (default 3)")
    args = parser.parse_args()
    args.only = args.only or (["enrol"] if args.quick else list(PARTS))
    args.database = args.database or (["sqlite"] if args.quick else list(databases))
    args.rounds = args.rounds or (1 if args.quick else 3)
    return args


if __name__ == "__main__":
    sys.exit(main())
