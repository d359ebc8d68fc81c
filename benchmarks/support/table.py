"""Rows of a benchmark, what each must reach, one table, one JSON document.

A row compares ours with a peer of the same run (``ratio``) or stands alone. Its goal is either about the ratio (``x``) or
about our own figure; `GOALS` is the whole list: *must* decides the exit code, *aim* is told only.
"""

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RATE = "per CPU-second"


@dataclass(frozen=True)
class Goal:
    """What a row must reach, and what it aims at.

    Attributes:
        must: bound that decides `Row.met`; None for a row that aims only.
        aim: bound that is told besides.
        of: ``ratio`` (ours to the peer) or ``ours``.
        most: the bound is an upper one.
    """

    must: float | None = None
    aim: float | None = None
    of: str = "ratio"
    most: bool = False

    def holds(self, value: float | None, bound: float | None) -> bool | None:
        """Tell whether a value keeps a bound; None where there is no bound."""
        if bound is None:
            return None
        return value is not None and (value <= bound if self.most else value >= bound)

    def text(self) -> str:
        """Write it for the table."""
        sign, unit = "≤" if self.most else "≥", "x" if self.of == "ratio" else ""
        parts = [f"{sign} {self.must:g}{unit}"] if self.must is not None else []
        return ", ".join([*parts, *([f"aim {sign} {self.aim:g}{unit}"] if self.aim is not None else [])])


URGENT = (
    "half load of ingest", "import of 100 000 rows", "4 cameras silent, one hostile, assessed", "dead webhook receiver",
    "16 threads enrolling", "the device renewing in a burst", "TUF of 20 000 releases", "500 alerts of others waiting",
    "5 000 alerts of others waiting", "50 000 lines dated hours apart", "a hostile vendor's 1 000 devices",
)  # fmt: skip
_OLD, _STEP, _FLOOR = "990b298", "step-ca", "floor"
GOALS: dict[tuple[str, str], Goal] = {
    ("enrol kept ×4, SQLite", _OLD): Goal(5),
    ("enrol kept ×16, SQLite", _OLD): Goal(5),
    ("enrol kept ×4, SQLite", _STEP): Goal(0.7),
    ("enrol kept ×16, SQLite", _STEP): Goal(0.7, aim=1.5),
    ("enrol fresh ×1, SQLite", _OLD): Goal(2.5),
    ("enrol fresh ×8, SQLite", _OLD): Goal(2.5),
    ("re-enrol kept ×24, SQLite", _OLD): Goal(6),
    ("enrol kept ×1, PostgreSQL", _OLD): Goal(3),
    ("enrol kept ×16, PostgreSQL", _OLD): Goal(5),
    ("one enrolment alone p50, SQLite", _OLD): Goal(1, most=True),
    ("one enrolment alone p99, SQLite", _OLD): Goal(1, most=True),
    ("one enrolment alone p50, PostgreSQL", _OLD): Goal(1, most=True),
    ("one enrolment alone p99, PostgreSQL", _OLD): Goal(1, most=True),
    ("run's own work, SQLite", ""): Goal(400, of="ours"),
    ("run's own work, PostgreSQL", ""): Goal(100, of="ours"),
    ("alert → settled, SQLite", _OLD): Goal(100, aim=200, of="ours"),
    ("import rows by command, SQLite", _OLD): Goal(6000, of="ours"),
    ("import rows by HTTP, SQLite", _OLD): Goal(6000, of="ours"),
    **{(f"CRL of 10^6, {database}", ""): Goal(3, of="ours", most=True) for database in ("SQLite", "PostgreSQL")},
    **{(f"CRL of 10^6, {database}, memory", ""): Goal(300, of="ours", most=True) for database in ("SQLite", "PostgreSQL")},
    **{(f"ledger {what}, {database}", beside): goal
       for what, goal in (("verify", Goal(1)), ("verify memory", Goal(200, of="ours", most=True)),
                          ("export memory", Goal(200, of="ours", most=True)))
       for database in ("SQLite", "PostgreSQL") for beside in ((_OLD,) if what == "verify" else ("", _OLD))},
    **{(f"search, {where}, p99", ""): Goal(15, of="ours", most=True) for where in ("SQLite", "PostgreSQL")},
    **{(f"search, console, {where}, p99", ""): Goal(aim=15, of="ours", most=True) for where in ("SQLite", "PostgreSQL")},
    **{(f"{what} ×8", _FLOOR): Goal(0.8) for what in ("OCSP GET cached", "CRL", "firmware poll", "EST cacerts")},
    ("OCSP nonce ×1", _OLD): Goal(400, of="ours"),
    ("OCSP nonce ×16", _OLD): Goal(1200, of="ours"),
    ("64 KiB ranges ×8", _OLD): Goal(10),
    ("artifact bytes ×4", _OLD): Goal(4),
    ("_bulk 1 line ×1", _OLD): Goal(450, of="ours"),
    ("_bulk 1 line ×16", _OLD): Goal(1200, of="ours"),
    ("_bulk 720 lines ×1", _OLD): Goal(1.5),
    ("firmware poll ×8", "hawkBit"): Goal(8),
    ("import rows by command, PostgreSQL", _OLD): Goal(6000, of="ours"),
    ("import rows by HTTP, PostgreSQL", _OLD): Goal(6000, of="ours"),
    **{(f"{what}, {where}", ""): Goal(bound, of="ours", most=True)
       for what, bound in (("change seen by four doors, longest", 100), ("door at rest, the busiest", 8),
                           ("memory of a door, the largest", 250), ("answers other than 200", 0))
       for where in ("SQLite", "PostgreSQL")},
    **{(f"idle over the floor, {where}, {part}", ""): Goal(bound, of="ours", most=True)
       for part, bound in (("p50", 60), ("p99", 150)) for where in ("SQLite", "PostgreSQL")},
    **{(f"{load}, {where}, {part}", ""): Goal(bound, of="ours", most=True)
       for load in (*URGENT, "idle") for part, bound in (("p99", 1000), ("errors of others", 0), ("served again", 0))
       for where in ("SQLite", "PostgreSQL") if (load, part) != ("idle", "p99")},
    **{(f"growth 10^4 → 10^6, {role}, {where}", ""): Goal(1.3, of="ours", most=True)
       for role in ("sign", "doors", "detect", "work", "postgresql", "supervisor", "all")
       for where in ("SQLite", "PostgreSQL")},
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line: ``ours`` beside ``peer`` (of ``beside``), in ``unit``."""

    name: str
    ours: float | None
    unit: str = RATE
    beside: str = ""
    peer: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours to the peer's."""
        return self.ours / self.peer if self.ours is not None and self.peer else None

    @property
    def goal(self) -> Goal | None:
        """What it must reach."""
        return GOALS.get((self.name, self.beside))

    def reached(self, bound: str) -> bool | None:
        """Tell whether ``must`` or ``aim`` is reached; None where there is none, or nothing was measured."""
        if self.goal is None or self.ours is None:
            return None
        return self.goal.holds(getattr(self, self.goal.of), getattr(self.goal, bound))

    def document(self) -> dict[str, Any]:
        """Give it as JSON."""
        found = {key: _short(value) for key, value in asdict(self).items()}
        goal = self.goal.text() if self.goal else None
        return {**found, "ratio": _short(self.ratio), "goal": goal, "met": self.reached("must"),
                "aim_met": self.reached("aim")}  # fmt: skip


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def document(command: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Put rows under the command that made them and the machine they were made on."""
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "machine": platform.machine()}
    return {"command": command, "machine": machine, "rows": rows}


def show(found: dict[str, Any], *, json_to: str | None) -> int:
    """Print the table and where we lose; write the document; returns 1 when a *must* is missed.

    Args:
        found: of `document`.
        json_to: a file for the JSON; ``-`` prints it instead of the table, which then goes to standard error.
    """
    out = sys.stderr if json_to == "-" else sys.stdout
    rows = found["rows"]
    width = max((len(row["name"]) for row in rows), default=4)
    print(f"{'':<{width}}  {'ours':>9} {'peer':>9}  {'ratio':>6}  unit", file=out)
    for row in rows:
        ratio = f"{row['ratio']:.2f}x" if row.get("ratio") is not None else ""
        verdict = {True: "met", False: "MISSED", None: ""}[row["met"]]
        if row["goal"] and row.get("aim_met") is not None:
            verdict += ", aim met" if row["aim_met"] else ", aim missed"
        words = [
            row.get("unit", ""),
            f"beside {row['beside']}" if row.get("beside") else "",
            row["goal"] or "",
            verdict,
        ]
        text = "; ".join(word.strip(", ") for word in [*words, row.get("note", "")] if word)
        print(
            f"{row['name']:<{width}}  {_figure(row['ours'])} {_figure(row.get('peer'))}  {ratio:>6}  {text}", file=out
        )
    lost = [row for row in rows if row["met"] is False or row.get("aim_met") is False or _behind(row)]
    print("\nWhere we lose:" if lost else "\nNothing lost.", file=out)
    for row in lost:
        ratio = f"{row['ratio']:.2f}x {row['beside']}" if row.get("ratio") is not None else _figure(row["ours"]).strip()
        print(f"  {row['name']}: {ratio}{', goal ' + row['goal'] if row['goal'] else ''}", file=out)
    if json_to == "-":
        print(json.dumps(found, indent=1, ensure_ascii=False))
    elif json_to:
        Path(json_to).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return int(any(row["met"] is False for row in rows))


def _behind(row: dict[str, Any]) -> bool:
    return row.get("unit") == RATE and row.get("ratio") is not None and row["ratio"] < 1


def _figure(value: float | None) -> str:
    return f"{'–' if value is None else f'{value:.1f}' if value < 1000 else f'{value:.0f}':>9}"
