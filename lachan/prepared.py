"""Statements on PostgreSQL as its protocol means them: each prepared once per connection, several in one flush.

psycopg forgets all it has prepared at every ROLLBACK, which ends every reading, and its pipeline sends statement by
statement; here a statement keeps its name as long as the connection lives, and BEGIN, what must be prepared and the
statements leave in one message, with one Sync. It works on the `psycopg.pq.PGconn` below the connection, between whatever
else runs there. Parameters travel as text without a type: what the statement says of them (``$1::VARCHAR``) holds.

Limits: a connection that is interrupted while an answer is under way is closed; whoever changes a table's columns under
running processes gets PostgreSQL's "cached plan must not change result type" until they begin anew.
"""

import re
import select
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from itertools import count
from typing import Any

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

Rows = list[tuple[Any, ...]]
TEXT, BINARY = Format.TEXT, Format.BINARY
FAILED = (ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE)
_numbers = count(1)


def flush(
    driver: psycopg.Connection[Any],
    known: set[bytes],
    calls: Sequence[tuple[str, Sequence[Any]]],
    *,
    begin: bool,
    commit: bool = False,
) -> list[tuple[int, Rows]]:
    """Run statements one after the other, all in one flush.

    Args:
        driver: the connection; nothing may be under way on it.
        known: names that are prepared on it; grows.
        calls: texts, parameters written ``%s``, and their values.
        begin: begin a transaction before, if none is open.
        commit: commit it after, if none of them failed.

    Returns:
        For each statement the rows it changed or found, and what it returned.

    Raises:
        psycopg.Error: of the first that failed; those after it did not run.
    """
    made = [(*_named(text), *_dumped(driver, values)) for text, values in calls]
    try:
        driver.pgconn.enter_pipeline_mode()
        names = _put(driver, known, made, begin=begin, commit=commit)
        results = _received(driver.pgconn)
        driver.pgconn.exit_pipeline_mode()
    except BaseException:
        driver.close()  # nobody would read what is still to come
        raise
    for sent, result in zip(names, results, strict=True):
        if result.status in FAILED:
            raise error_from_result(result, encoding="utf-8")
        if sent:
            known.add(sent)
    return [_loaded(driver, result) for sent, result in zip(names, results, strict=True) if sent is None]


def _put(
    driver: psycopg.Connection[Any],
    known: set[bytes],
    made: list[tuple[bytes, bytes, list[Any], list[Format]]],
    *,
    begin: bool,
    commit: bool,
) -> list[bytes | None]:
    """Put all into libpq's buffer; for each result that will come: the name that it prepares, None if a statement ran."""
    pgconn, names = driver.pgconn, list[bytes | None]()
    if begin and not driver.autocommit and pgconn.transaction_status == TransactionStatus.IDLE:
        pgconn.send_query_params(_begin(driver), None)
        names.append(b"")
    for name, text, values, formats in made:
        if name not in known and name not in names:
            pgconn.send_prepare(name, text)
            names.append(name)
        pgconn.send_query_prepared(name, values, formats)
        names.append(None)
    if commit:
        pgconn.send_query_params(b"COMMIT", None)
        names.append(b"")
    pgconn.pipeline_sync()
    return names


@cache
def _named(text: str) -> tuple[bytes, bytes]:
    """A statement's name, the same on every connection of the process, and its text with numbered parameters."""
    numbers = count(1)
    numbered = re.sub("%([%s])", lambda found: "%" if found[1] == "%" else f"${next(numbers)}", text)
    return f"lachan_{next(_numbers)}".encode(), numbered.encode()


def _begin(driver: psycopg.Connection[Any]) -> bytes:
    level = driver.isolation_level
    return b"BEGIN" if level is None else f"BEGIN ISOLATION LEVEL {level.name.replace('_', ' ')}".encode()


def _dumped(driver: psycopg.Connection[Any], values: Sequence[Any]) -> tuple[list[Any], list[Format]]:
    """Values as PostgreSQL takes them, and their formats.

    Raises:
        psycopg.DataError: a text has a zero character, which PostgreSQL's cannot have.
    """
    made: list[Any] = []
    formats = [TEXT] * len(values)
    for place, value in enumerate(values):
        if value is None:
            made.append(None)
        elif isinstance(value, str):
            if "\0" in value:
                raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
            made.append(value.encode())
        elif isinstance(value, bool):
            made.append(b"t" if value else b"f")
        elif isinstance(value, int):
            made.append(b"%d" % value)
        elif isinstance(value, datetime):
            made.append(value.isoformat(" ").encode())
        elif isinstance(value, bytes):
            made.append(value)
            formats[place] = BINARY
        else:
            transformer = Transformer(driver)
            made.append(transformer.get_dumper(value, PyFormat.TEXT).dump(value))
    return made, formats


def _received(pgconn: PGconn) -> list[PGresult]:
    """Send what is to be sent, and wait for all results up to the Sync.

    Raises:
        psycopg.OperationalError: the connection is lost.
    """
    found: list[PGresult] = []
    poll, wanted = select.poll(), 0
    while True:
        more = select.POLLIN | select.POLLOUT if pgconn.flush() else select.POLLIN
        if more != wanted:
            poll.register(pgconn.socket, more)
            wanted = more
        if poll.poll()[0][1] == select.POLLOUT:
            continue
        try:
            pgconn.consume_input()
        except psycopg.OperationalError:
            if found and found[-1].status in FAILED:  # it said why
                raise error_from_result(found[-1], encoding="utf-8") from None
            raise
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                if pgconn.status:
                    raise psycopg.OperationalError("the connection is lost")
                continue
            if result.status == ExecStatus.PIPELINE_SYNC:
                return found
            found.append(result)


def _loaded(driver: psycopg.Connection[Any], result: PGresult) -> tuple[int, Rows]:
    rows: Rows = []
    if result.status == ExecStatus.TUPLES_OK and result.ntuples:
        transformer = Transformer(driver)
        transformer.set_pgresult(result)
        rows = transformer.load_rows(0, result.ntuples, tuple)
    return result.command_tuples or 0, rows
