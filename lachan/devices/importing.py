"""Registers many devices from a CSV or NDJSON file: the good rows are taken, the bad ones given back with row and reason."""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from lachan.devices.models import NewDevice
from lachan.devices.service import register
from lachan.errors import Conflict, Invalid, NotFound
from lachan.events import DevicesImported
from lachan.identity import Principal
from lachan.work import outbox


class BadFile(Invalid):
    """The import file cannot be read as a table at all."""

    title, hint = "Unreadable import file", "Send CSV with a header line, or one JSON object per line."


@dataclass(frozen=True)
class BadRow:
    """A row that was not taken: its line number in the file, why, and what it said."""

    row: int
    reason: str
    values: dict[str, Any]


@dataclass(frozen=True)
class ImportResult:
    """What became of a file: ids of the devices taken, and the rows that were not."""

    accepted: tuple[str, ...]
    rejected: tuple[BadRow, ...]


def import_rows(connection: sa.Connection, rows: Iterable[tuple[int, Any]], *, actor: Principal) -> ImportResult:
    """Register the good rows and give the bad ones back with row and reason; one event for all.

    Args:
        connection: an open `Database.write`.
        rows: (line number, values or the error that stopped its parsing).
        actor: who imports.
    """
    accepted: list[str] = []
    rejected: list[BadRow] = []
    digest = hashlib.sha256()
    for number, values in rows:
        try:
            if isinstance(values, str):
                raise Invalid(values)
            new = NewDevice.model_validate({k: v for k, v in values.items() if v not in (None, "")})
            device = register(connection, new, actor=actor, record=False)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            rejected.append(BadRow(number, reason, dict(values)))
        except (NotFound, Invalid, Conflict) as error:
            reason = "vendor: not yours" if isinstance(error, NotFound) else error.detail
            rejected.append(BadRow(number, reason, values if isinstance(values, dict) else {}))
        else:
            accepted.append(device.id)
            digest.update(hashlib.sha256(b"\0" + new.model_dump_json().encode()).digest())
    if accepted or rejected:
        event = DevicesImported(accepted=len(accepted), rejected=len(rejected), merkle_root=digest.hexdigest())
        outbox.append(connection, event, actor=actor)
    return ImportResult(tuple(accepted), tuple(rejected))


def parse_file(path: Path) -> Iterator[tuple[int, Any]]:
    """The rows of a CSV or NDJSON file with their line numbers; a line that is no row yields the reason.

    Raises:
        BadFile: it is neither, or not UTF-8.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"{path.name}: {error}") from error
    return parse_text(text, json_lines=path.suffix in {".ndjson", ".jsonl", ".json"} or text.lstrip()[:1] == "{")


def parse_text(text: str, *, json_lines: bool) -> Iterator[tuple[int, Any]]:
    """The rows of a CSV or NDJSON text; see `parse_file`."""
    if json_lines:
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
                yield number, values if isinstance(values, dict) else "the line is no JSON object"
            except ValueError as error:
                yield number, f"the line is no JSON: {error}"
        return
    reader = csv.DictReader(text.splitlines(), strict=True)
    if not reader.fieldnames or "name" not in reader.fieldnames:
        raise BadFile("The first line must name the columns, among them: name, vendor, model, serial_number, site.")
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, f"the line is no CSV: {error}"
            continue
        extra = values.pop(None, None)
        yield reader.line_num, "the row has more cells than the header" if extra else values
