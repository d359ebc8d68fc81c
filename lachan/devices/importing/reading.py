"""Read an import file as rows: CSV with a header line (RFC 4180) or one JSON object per line.

The separator of CSV is the one of comma, semicolon and tab with which the header has a column ``name``. A row's number is
the line that it begins at, also when cells before it hold line breaks. Text is NFC, so that one name has one spelling.
A row that cannot be read is a row with a fault; only a file that is no table at all is `BadFile`.

Limits: UTF-8, with or without its mark; a line has at most `LONGEST` characters, a cell 131 072.
"""

import csv
import io
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from lachan import foreign
from lachan.errors import Invalid

LONGEST = 1 << 20  # characters of a line
SEPARATORS = ",;\t"


class BadFile(Invalid):
    """The import file cannot be read as a table at all."""

    title, hint = "Unreadable import file", "Send CSV with a header line, or one JSON object per line."


class Row(NamedTuple):
    """A row as the file has it: the line that it begins at, its cells by column, and why it cannot be read."""

    number: int
    values: dict[str, Any]
    fault: str = ""


def rows(stream: IO[bytes], *, json_lines: bool | None = None) -> Iterator[Row]:
    """Read the rows of a file, one at a time.

    Args:
        stream: the file's bytes; can seek.
        json_lines: whether it has one JSON object per line; by default its first character tells.

    Raises:
        BadFile: it is neither, is not UTF-8, or has a line without end.
    """
    if json_lines is None:
        json_lines = stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"
        stream.seek(0)
    text = io.TextIOWrapper(stream, "utf-8-sig", newline="")  # newline="": line breaks inside cells stay what they are
    try:
        yield from _json_rows(text) if json_lines else _csv_rows(_lines(text))
    except UnicodeDecodeError as error:
        raise BadFile(f"The file is not UTF-8: {error.reason} (byte 0x{error.object[error.start]:02x}).") from error
    finally:
        text.detach()


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    number = 0
    while line := text.readline(LONGEST):
        number += 1
        if len(line) == LONGEST:
            raise BadFile(f"Line {number} is longer than {LONGEST} characters.")
        yield line


def _json_rows(text: io.TextIOWrapper) -> Iterator[Row]:
    for number, line in enumerate(_lines(text), 1):
        if not line.strip():
            continue
        try:
            values = foreign.loads(line.encode("utf-8", "surrogatepass"), place="")
        except foreign.BadText as error:
            yield Row(number, {}, error.detail)
            continue
        if isinstance(values, dict):
            yield Row(number, values)
        else:
            yield Row(number, {}, "the line is no JSON object")


def _csv_rows(lines: Iterator[str]) -> Iterator[Row]:
    header, separator, before = _header(lines)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        number = before + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(number, {}, f"the line is no CSV: {error}")
            continue
        if cells:
            values = dict(zip(header, cells, strict=False))
            yield Row(number, values, "the row has more cells than the header" if len(cells) > len(header) else "")


def _header(lines: Iterator[str]) -> tuple[list[str], str, int]:
    """Give the columns, the separator, and how many lines the header took.

    Raises:
        BadFile: the first line that is not empty names no column ``name`` with any separator, or one column twice.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        for separator in SEPARATORS:
            try:
                header = [cell.strip() for cell in next(csv.reader([line], delimiter=separator, strict=True))]
            except csv.Error:
                continue
            if "name" in header:
                if twice := {column[:80] for column in header if header.count(column) > 1}:
                    raise BadFile(f"The first line names a column twice: {', '.join(sorted(twice))}.")
                return header, separator, number
        break
    raise BadFile(
        "The first line must name the columns, separated by comma, semicolon or tab, among them: "
        "name, vendor, model, serial_number, site."
    )
