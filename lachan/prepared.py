"""Statements on PostgreSQL as its protocol means them: each prepared once per connection, several in one flush.

psycopg forgets all it has prepared at every ROLLBACK, which ends every reading, and its pipeline sends statement by
statement; here a statement keeps its name as long as the connection lives, and BEGIN, what must be prepared and the
statements leave in one message, with one Sync. It works on the `psycopg.pq.PGconn` below the connection, between whatever
else runs there. Parameters travel as text without a type: what the statement says of them (``$1::VARCHAR``) holds.

Limits: a connection that is interrupted while an answer is under way is closed; whoever changes a table's columns under
running processes gets PostgreSQL's "cached plan must not change result type" until they begin anew.
"""

from __future__ import annotations

import asyncio
import re
import select
from collections.abc import Sequence
from datetime import datetime
from functools import cache, lru_cache
from itertools import count
from typing import Any

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

Rows = list[tuple[Any, ...]]
KNOWN = "lachan_prepared"  # where a connection remembers what is prepared on it
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
    return _taken_apart(driver, known, names, results)


async def aflush(
    driver: psycopg.Connection[Any],
    ear: Ear,
    known: set[bytes],
    calls: Sequence[tuple[str, Sequence[Any]]],
    *,
    begin: bool,
    commit: bool = False,
) -> list[tuple[int, Rows]]:
    """Do `flush` on an event loop, which goes on while the server works; arguments, result and errors are the same."""
    made = [(*_named(text), *_dumped(driver, values)) for text, values in calls]
    try:
        driver.pgconn.enter_pipeline_mode()
        names = _put(driver, known, made, begin=begin, commit=commit)
        results = await ear.received()
        driver.pgconn.exit_pipeline_mode()
    except BaseException:
        ear.close()
        driver.close()  # nobody would read what is still to come
        raise
    return _taken_apart(driver, known, names, results)


async def arollback(driver: psycopg.Connection[Any], ear: Ear) -> None:
    """Roll back, on an event loop.

    Raises:
        psycopg.Error: the connection is lost.
    """
    try:
        driver.pgconn.enter_pipeline_mode()
        driver.pgconn.send_query_params(b"ROLLBACK", None)
        driver.pgconn.pipeline_sync()
        await ear.received()
        driver.pgconn.exit_pipeline_mode()
    except BaseException:
        ear.close()
        driver.close()
        raise


def _taken_apart(
    driver: psycopg.Connection[Any], known: set[bytes], names: list[bytes | None], results: list[PGresult]
) -> list[tuple[int, Rows]]:
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
    """Give a statement's name, the same on every connection of the process, and its text with numbered parameters."""
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
        kind = type(value)
        if kind is str or isinstance(value, str):
            if "\0" in value:
                raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
            made.append(value.encode())
        elif value is None:
            made.append(None)
        elif kind is datetime:
            made.append(_moment(value))
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


@lru_cache(maxsize=256)  # a unit writes the same few moments many times
def _moment(value: datetime) -> bytes:
    return value.isoformat(" ").encode()


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
        if poll.poll()[0][1] != select.POLLOUT and _are_all(pgconn, found):
            return found


class Ear:
    """What an event loop hears of one connection: one registration for its whole life, and answers taken where they arrive.

    Args:
        pgconn: the connection; `close` comes before its own.

    Attributes:
        lost: whether the server said something that nobody asked for, as it does when it ends.
    """

    def __init__(self, pgconn: PGconn) -> None:
        self._pgconn, self._socket = pgconn, pgconn.socket
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiter: asyncio.Future[list[PGresult]] | None = None
        self._found: list[PGresult] = []
        self.lost = False

    async def received(self) -> list[PGresult]:
        """Do `_received` without stopping the loop."""
        loop = asyncio.get_running_loop()
        self._found, self._waiter = [], loop.create_future()
        if self._loop is not loop:
            loop.add_reader(self._socket, self._heard)
            self._loop = loop
        try:
            while self._pgconn.flush():  # noqa: ASYNC110 - more than the kernel takes at once, which is rare
                await asyncio.sleep(0.001)
            return await self._waiter
        finally:
            self._waiter = None

    def _heard(self) -> None:
        if self._waiter is None or self._waiter.done():
            self.close()
            self.lost = True  # nobody asked: the server hung up
            return
        try:
            if _are_all(self._pgconn, self._found):
                self._waiter.set_result(self._found)
        except psycopg.Error as error:
            self._waiter.set_exception(error)

    def close(self) -> None:
        """Hear no more."""
        loop, self._loop = self._loop, None
        if loop is not None and not loop.is_closed():
            loop.remove_reader(self._socket)


def _are_all(pgconn: PGconn, found: list[PGresult]) -> bool:
    """Take what has arrived; tell whether that is all up to the Sync.

    Raises:
        psycopg.OperationalError: the connection is lost.
    """
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
            return True
        found.append(result)
    return False


def _loaded(driver: psycopg.Connection[Any], result: PGresult) -> tuple[int, Rows]:
    rows: Rows = []
    if result.status == ExecStatus.TUPLES_OK and result.ntuples:
        transformer = Transformer(driver)
        transformer.set_pgresult(result)
        rows = transformer.load_rows(0, result.ntuples, tuple)
    return result.command_tuples or 0, rows
