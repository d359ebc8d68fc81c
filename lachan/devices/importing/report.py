"""What an import refused: rows in the order of the file, and the same as CSV whose cells no spreadsheet runs."""

import csv
import io
from collections.abc import Iterable, Iterator
from heapq import merge
from typing import TYPE_CHECKING

import orjson
import sqlalchemy as sa

from lachan.blobs import NoSuchBlob
from lachan.devices.importing.checking import BadRow
from lachan.devices.importing.models import REFUSED, refusals, store
from lachan.devices.models import NewDevice

if TYPE_CHECKING:
    from lachan.runtime import Runtime

PAGE = 500  # rows read at once


def rejected(rt: "Runtime", import_id: str) -> Iterator[BadRow]:
    """Read the refused rows of an import, by row."""
    return merge(_in_validation(rt, import_id), _in_applying(rt, import_id), key=lambda bad: bad.row)


def as_csv(bad_rows: Iterable[BadRow]) -> Iterator[str]:
    """Write refused rows as CSV, a line at a time: row, column and reason before the columns that a device has."""
    columns = tuple(NewDevice.model_fields)
    yield _line(["row", "column", "reason", *columns])
    for bad in bad_rows:
        yield _line([str(bad.row), *map(_inert, (bad.column, bad.reason, *(bad.values.get(c, "") for c in columns)))])


def _in_validation(rt: "Runtime", import_id: str) -> Iterator[BadRow]:
    try:
        pieces = store(rt.settings).open(import_id + REFUSED)
    except NoSuchBlob:
        return
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from (BadRow(**orjson.loads(line)) for line in lines)


def _in_applying(rt: "Runtime", import_id: str) -> Iterator[BadRow]:
    after = -1
    wanted = (refusals.c.row, refusals.c.column, refusals.c.reason, refusals.c["values"])
    while True:
        query = sa.select(*wanted).where(refusals.c.import_id == import_id, refusals.c.row > after)
        with rt.db.read() as connection:
            page = connection.execute(query.order_by(refusals.c.row).limit(PAGE)).mappings().all()
        yield from (BadRow(**row) for row in page)
        if len(page) < PAGE:
            return
        after = page[-1]["row"]


def _line(cells: list[str]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue()


def _inert(cell: str) -> str:
    return f"'{cell}" if cell[:1] in {"=", "+", "-", "@", "\t", "\r"} else cell
