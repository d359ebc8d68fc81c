"""Find every fault of an import's rows: of their own, among each other, and against the registry.

Of rows that want the same name or the same vendor's serial number, the first good one has it. What the file said so far
lies in a scratch database on disk, so that memory does not grow with the file; the registry is asked a page at a time, by
its two unique indexes. Limits: what others register meanwhile is found when the rows are applied.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import sqlalchemy as sa
from pydantic import ValidationError

from lachan.database import Database
from lachan.devices.importing.reading import Row
from lachan.devices.models import NewDevice, devices
from lachan.errors import NotFound
from lachan.identity import Permission, Principal, require

PAGE = 500  # rows of one look into the registry
MOST_FAULTS = 20  # of one row that are told
LONGEST_CELL = 300  # characters of a cell that are given back; no field may have as many
_KNOWN = tuple(NewDevice.model_fields)
_SCRATCH = """
PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-16000; PRAGMA locking_mode=EXCLUSIVE;
CREATE TABLE seen (row INTEGER PRIMARY KEY, name TEXT UNIQUE, vendor TEXT, serial_number TEXT,
                   UNIQUE (vendor, serial_number)) STRICT;
BEGIN;
"""


@dataclass(frozen=True)
class Good:
    """A row that can be registered: the line that it begins at and the device's fields in canonical JSON (RFC 8785)."""

    row: int
    fields: bytes


@dataclass(frozen=True)
class BadRow:
    """A row that was not taken.

    Attributes:
        row: the line that it begins at.
        column: the first column that is at fault; empty where it is no single one.
        reason: every fault, each with its column.
        values: what the row said, as text, in the columns that a device has.
    """

    row: int
    column: str
    reason: str
    values: dict[str, str] = field(default_factory=dict)


class Checker:
    """Check the rows of one file, page after page.

    Args:
        db: has the registry.
        actor: who imports; a manufacturer may name its own vendor only.

    Raises:
        Forbidden: they may not register devices.
    """

    def __init__(self, db: Database, actor: Principal) -> None:
        require(actor, Permission.DEVICES_WRITE)
        self._db, self._actor = db, actor
        self._scratch = sqlite3.connect("", isolation_level=None)  # a file without a name, gone when it is closed
        self._scratch.executescript(_SCRATCH)

    def close(self) -> None:
        """Forget the file."""
        self._scratch.close()

    def page(self, rows: Sequence[Row]) -> tuple[list[Good], list[BadRow]]:
        """Check the next rows; give the good ones and the bad ones, both in order."""
        fit: list[tuple[Row, NewDevice]] = []
        bad: list[BadRow] = []
        for row in rows:
            made = self._validate(row)
            if isinstance(made, BadRow):
                bad.append(made)
            else:
                fit.append((row, made))
        names, serials = self._registered([new for _, new in fit])
        free = []
        for row, new in fit:
            if new.name in names:
                bad.append(refused(row, "name", f"{new.name} is registered."))
            elif (new.vendor, new.serial_number) in serials:
                bad.append(refused(row, "serial_number", f"{new.serial_number} of {new.vendor} is registered."))
            else:
                free.append((row, new))
        first = self._firsts(free)
        bad += [self._twice(row, new) for row, new in free if row.number not in first]
        good = [Good(row.number, orjson.dumps(new.__dict__, option=orjson.OPT_SORT_KEYS))
                for row, new in free if row.number in first]  # fmt: skip
        return good, sorted(bad, key=lambda one: one.row)

    def _validate(self, row: Row) -> NewDevice | BadRow:
        if row.fault:
            return BadRow(row.number, "", row.fault, _shown(row))
        try:
            new = NewDevice.model_validate({k: v for k, v in row.values.items() if v is not None and v != ""})
            if self._actor.vendor is not None:
                require(self._actor, Permission.DEVICES_WRITE, vendor=new.vendor)
        except ValidationError as error:
            faults = error.errors(include_url=False, include_context=False)[:MOST_FAULTS]
            told = [(".".join(map(str, fault["loc"]))[:80], _words(fault)) for fault in faults]
            return BadRow(
                row.number, told[0][0], "; ".join(f"{column}: {words}" for column, words in told), _shown(row)
            )
        except NotFound:
            return refused(row, "vendor", "not yours")
        return new

    def _registered(self, page: Sequence[NewDevice]) -> tuple[set[str], set[tuple[str, str]]]:
        """Give the names and the vendors' serial numbers of a page that are taken."""
        if not page:
            return set(), set()
        pair = sa.tuple_(devices.c.vendor, devices.c.serial_number)
        with self._db.read() as connection:
            names = connection.scalars(sa.select(devices.c.name).where(devices.c.name.in_([new.name for new in page])))
            found = set(names)
            asked = [(new.vendor, new.serial_number) for new in page]
            rows = connection.execute(sa.select(devices.c.vendor, devices.c.serial_number).where(pair.in_(asked)))
            return found, {(row.vendor, row.serial_number) for row in rows}

    def _firsts(self, page: Sequence[tuple[Row, NewDevice]]) -> set[int]:
        """Remember a page and tell which of its rows are the first with their name and serial number."""
        if not page:
            return set()
        values = [(row.number, new.name, new.vendor, new.serial_number) for row, new in page]
        self._scratch.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?, ?, ?)", values)
        between = (values[0][0], values[-1][0])
        return {row for (row,) in self._scratch.execute("SELECT row FROM seen WHERE row BETWEEN ? AND ?", between)}

    def _twice(self, row: Row, new: NewDevice) -> BadRow:
        same = self._scratch.execute("SELECT row FROM seen WHERE name = ?", (new.name,)).fetchone()
        if same:
            return refused(row, "name", f"{new.name} is in row {same[0]} already")
        query = "SELECT row FROM seen WHERE vendor = ? AND serial_number = ?"
        (same_row,) = self._scratch.execute(query, (new.vendor, new.serial_number)).fetchone()
        return refused(row, "serial_number", f"{new.serial_number} of {new.vendor} is in row {same_row} already")


def refused(row: Row, column: str, why: str) -> BadRow:
    """Give a row that is at fault in one column."""
    return BadRow(row.number, column, f"{column}: {why}", _shown(row))


def _words(fault: Any) -> str:
    value = fault["input"]
    if fault["type"] == "string_pattern_mismatch" and isinstance(value, str) and not value.isprintable():
        return "no line breaks or control characters"
    return str(fault["msg"])


def _shown(row: Row) -> dict[str, str]:
    cells = {key: row.values[key] for key in _KNOWN if row.values.get(key) not in (None, "")}
    return {key: value[:LONGEST_CELL] if isinstance(value, str) else _scalar(value) for key, value in cells.items()}


def _scalar(value: Any) -> str:
    return str(value) if isinstance(value, bool | int | float) else f"({type(value).__name__})"
