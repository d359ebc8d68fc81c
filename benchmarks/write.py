"""What the write path costs, per CPU-second of all server processes, beside step-ca and an older lachan in the same run.

    .venv/bin/python benchmarks/write.py [--quick] [--json [FILE]] [--only enrol,runs,…] [--growth] [--database sqlite,postgresql] [--rounds N]

Parts (`--only`; by default all but ``growth``, which `--growth` adds):

* ``enrol``: EST enrolment with a one-time secret over kept (×1, ×4, ×16 connections) and fresh TLS, renewal by mutual TLS,
  and how long one enrolment takes alone.
* ``runs``: alert row → device contained and all of our own points settled; and what a run costs itself.
* ``imports``: rows of a CSV by the command and at the people door.
* ``crl``, ``tuf``, ``ledger``: the rows of `crl.py`, `firmware.py` and `ledger.py` beside this program.
* ``growth``: enrolment at 10^4 and 10^6 devices and certificates, by process (half an hour and 4 GB of disk).

The peers are made once in ``$LACHAN_BENCH_CACHE`` (default ``~/.cache/lachan-benchmarks``): step-ca by Go from its module,
and lachan 990b298, the yardstick of the machine, from this repository. `--quick` (under a minute) uses what is there and
makes nothing. CPU is user and system time of all server processes, their children and their PostgreSQL; the load client is
a process of its own and not counted; wall time is never compared. Sides take turns, so trust ratios inside one run.

Returns 1 when a *must* of `benchmarks.support.table.GOALS` is missed, or a part failed.
"""

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from benchmarks.support import containment, enrolment, growth, imports, others, postgres, stepca, table, yardstick
from benchmarks.support.installation import Checkout
from benchmarks.support.table import Row

Say = Callable[[str], None]
PARTS = ("enrol", "runs", "imports", "crl", "tuf", "ledger", "growth")


def main() -> int:
    """Measure what was asked for, print one table, say where we lose."""
    args = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end, too
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", file=sys.stderr, flush=True)

    rows: list[dict[str, Any]] = []
    failed = []
    for part in args.only:
        try:
            if part in PART:
                rows += [row.document() for row in PART[part](args, say)]
            else:
                rows += others.rows(part, quick=args.quick, say=say)
        except Exception:  # noqa: BLE001 - the rows of the other parts are worth having
            failed.append(part)
            say(f"the part {part} failed:\n{traceback.format_exc()}")
    missed = table.show(table.document("benchmarks/write.py", rows), json_to=args.json)
    return 1 if failed else missed


def _enrol(args: argparse.Namespace, say: Say) -> list[Row]:
    step = stepca.program(make=not args.quick)
    if step is None:
        say("step-ca is not in the cache (and cannot be made, or --quick makes none): its rows are left out")
    sides, found = _sides(args, say), []
    for on_postgres in _databases(args, say):
        found += _told(
            say, enrolment.measure(sides, step, postgres=on_postgres, rounds=args.rounds, quick=args.quick, say=say)
        )
    return found


def _runs(args: argparse.Namespace, say: Say) -> list[Row]:
    sides, found = _sides(args, say), []
    for on_postgres in _databases(args, say):
        found += _told(say, containment.measure(sides, postgres=on_postgres, quick=args.quick, say=say))
    return found


def _imports(args: argparse.Namespace, say: Say) -> list[Row]:
    sides, found = _sides(args, say), []
    for on_postgres in _databases(args, say):
        found += _told(say, imports.measure(sides, postgres=on_postgres, quick=args.quick, say=say))
    return found


def _growth(args: argparse.Namespace, say: Say) -> list[Row]:
    found = []
    for on_postgres in _databases(args, say):
        found += _told(say, growth.measure(yardstick.OURS, postgres=on_postgres, quick=args.quick, say=say))
    return found


def _told(say: Say, found: list[Row]) -> list[Row]:
    """Tell rows as soon as they are there: what is interrupted later keeps them."""
    for row in found:
        say(f"    {row.name}: {row.ours or 0:.4g} {row.unit}, {row.beside or 'no peer'} {row.peer or 0:.4g}")
    return found


def _sides(args: argparse.Namespace, say: Say) -> list[Checkout]:
    """Give ours, and the yardstick where it is there or may be made."""
    old = yardstick.prepare(make=not args.quick)
    if old is None:
        say(f"lachan {yardstick.COMMIT} is not in the cache, and --quick makes none: its rows are left out")
    return [yardstick.OURS, *([old] if old else [])]


def _databases(args: argparse.Namespace, say: Say) -> list[bool]:
    """Give, for each database asked for and there, whether it is PostgreSQL."""
    if "postgresql" in args.database and not postgres.available():
        say("PostgreSQL's programs are not there: its rows are left out")
        return [False] if "sqlite" in args.database else []
    return [name == "postgresql" for name in args.database]


PART: dict[str, Callable[[argparse.Namespace, Say], list[Row]]] = {
    "enrol": _enrol,
    "runs": _runs,
    "imports": _imports,
    "growth": _growth,
}


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
    parser.add_argument("--growth", action="store_true", help="also at 10^4 and 10^6 devices and certificates")
    databases = ("sqlite", "postgresql")
    parser.add_argument("--database", type=_words(databases), default=None, metavar="NAME,…", help=", ".join(databases))
    parser.add_argument("--rounds", type=int, default=None, help="turns of each side in each case (default 3)")
    args = parser.parse_args()
    args.only = args.only or (["enrol"] if args.quick else [part for part in PARTS if part != "growth"])
    args.only += ["growth"] if args.growth and "growth" not in args.only else []
    args.database = args.database or (["sqlite"] if args.quick else list(databases))
    args.rounds = args.rounds or (1 if args.quick else 3)
    return args


if __name__ == "__main__":
    sys.exit(main())
