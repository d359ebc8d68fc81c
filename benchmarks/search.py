"""What a search over the registry costs, in milliseconds of CPU of all server processes, request by request.

    .venv/bin/python benchmarks/search.py [--quick] [--json [FILE]] [--database sqlite,postgresql] [--devices N]

A CSV of cameras in 126 wards is imported (10^5 rows; `--quick` 10^4, SQLite), then a person signed in at the people door asks
for wards in four spellings, serial numbers, addresses, pieces of names, and for what nobody has: `/api/v1/devices?q=`, and the
console's `/fleet?q=`. Beside them stand what many have (the piece ``cam``), what many have at the end of the alphabet, and the
same page without a search. CPU is that of the scheduler's own account (``/proc/PID/task/*/schedstat``). Returns 1 when a *must*
is missed.
"""

import argparse
import random
import statistics
import sys
from contextlib import closing
from pathlib import Path
from unicodedata import normalize

import httpx

from benchmarks.support import cpu, postgres, table
from benchmarks.support.installation import Checkout, Installation
from benchmarks.support.rows import Rows
from benchmarks.support.table import Row

MANY, FEW = 100_000, 10_000
ASKED = 200
NAMES = ("Ba Đình", "Hoàn Kiếm", "Cầu Giấy", "Đống Đa", "Hai Bà Trưng", "Tây Hồ")
LETTERS = "ABCDEFGHIKLMNOPQRSTUV"  # 21; six names and these make the city's 126 wards


def main() -> int:
    """Measure, print one table, say where we lose."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10^4 devices on SQLite, under a minute")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write one JSON document; - prints it")
    parser.add_argument("--database", default=None, metavar="NAME,…", help="sqlite, postgresql")
    parser.add_argument("--devices", type=int, default=0, metavar="N", help="how many devices there are")
    args = parser.parse_args()
    found: list[Row] = []
    for database in (args.database or ("sqlite" if args.quick else "sqlite,postgresql")).split(","):
        if database == "postgresql" and not postgres.available():
            print("PostgreSQL's programs are not there: its rows are left out", file=sys.stderr)
            continue
        found += measure(args.devices or (FEW if args.quick else MANY), on_postgres=database == "postgresql")
    return table.show(table.document("benchmarks/search.py", [row.document() for row in found]), json_to=args.json)


def measure(count: int, *, on_postgres: bool) -> list[Row]:
    """Import so many devices, ask, and give a row for each kind of question."""
    where = "PostgreSQL" if on_postgres else "SQLite"
    here = Checkout("lachan", Path(__file__).parents[1], Path(sys.executable))
    with Installation(here, postgres=on_postgres) as lab:
        city = lab.folder / "city.csv"
        city.write_text(_city(count), "utf-8")
        lab.lachan("device", "import", str(city))
        Rows(lab).checkpoint()  # as after a rest: PostgreSQL's own housekeeping is not a search's cost
        lab.open()
        with closing(lab.admin()) as person:
            mixed = [_question(count) for _ in range(ASKED)]
            rows = []
            for name, path, pieces in (
                ("search", "/api/v1/devices", mixed), ("search, console", "/fleet", mixed),
                ("what all have", "/api/v1/devices", ["cam"] * 50), ("what many have, last", "/api/v1/devices", ["tay ho"] * 50),
                ("a page without a search", "/api/v1/devices", [""] * 50),
            ):  # fmt: skip
                spent = sorted(_spent(lab, person, path, piece) for piece in pieces)
                for part, value in (("p50", statistics.median(spent)), ("p99", spent[int(len(spent) * 0.99) - 1])):
                    rows.append(Row(f"{name}, {where}, {part}", value * 1000, "CPU ms", note=f"{count} devices"))
        lab.close()
    return rows


def _city(count: int) -> str:
    lines = ["name,vendor,model,serial_number,site,ward,place,address"]
    for n in range(count):
        ward = f"Phường {NAMES[n * len(NAMES) // count]} {LETTERS[n * 126 // count % 21]}"
        lines.append(
            f"cam-{n:07},Bench,M{n % 40},SN{n:08},site-{n % 500},{ward},Ngõ {n % 90} Phố Huế,10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"
        )
    return "\n".join(lines) + "\n"


def _question(count: int) -> str:
    n, name = random.randrange(count), f"{random.choice(NAMES)} {random.choice(LETTERS)}"
    return random.choice(
        [name, name.upper(), normalize("NFD", name), name.lower().replace("đ", "d"), f"SN{n:08}", f"{n:07}",
         f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}", f"cam-{n // 100:05}", "không có ai"]
    )  # fmt: skip


def _spent(lab: Installation, person: httpx.Client, path: str, piece: str) -> float:
    """Ask once; give the CPU seconds that the doors and PostgreSQL spent until they were at rest again."""
    roots = {role: lab.pids[role] for role in ("doors", "postgresql") if role in lab.pids}
    before = cpu.precise(roots)
    person.get(path, params={"q": piece} if piece else {}).raise_for_status()
    return cpu.precise(roots) - before


if __name__ == "__main__":
    sys.exit(main())
