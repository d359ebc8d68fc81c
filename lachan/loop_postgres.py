"""Scripts on PostgreSQL without a thread each: connections that an event loop waits for as it waits for its sockets (ADR 0036).

`LoopScripts` keeps a few connections for looks and a few for units of work. A step of a script is one flush (`lachan.prepared`): BEGIN and
the first statements, later ones, COMMIT with the last; the loop goes on while the server works. Only opening a connection takes a
thread. A unit that meets a deadlock or a serialisation failure runs again once, as in `Database.run`. Limits: one loop at a time;
whoever is cancelled while an answer is under way takes the connection with him, and what was sent as `Last` may have been kept.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.pq import TransactionStatus

from lachan import prepared
from lachan.database import AGAIN, PAUSE, Database
from lachan.scripts import Last, Make, R, play
from lachan.statements import Done, translated

MOST = 6  # connections of a kind


class _Connections:
    """The connections of one kind; whoever finds none waits in turn."""

    def __init__(self, connect: Callable[[], sa.Connection]) -> None:
        self._connect = connect
        self._idle: list[sa.Connection] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._open = 0

    async def take(self) -> sa.Connection:
        """Give a connection that nobody uses and that lives, as far as we have heard."""
        while not self._idle and self._open >= MOST:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._next()
                raise
        while self._idle:
            connection = self._idle.pop()
            if not _ear(connection).lost:
                return connection
            self._open -= 1
            _close(connection)
        self._open += 1
        try:
            return await asyncio.to_thread(self._connect)
        except BaseException:
            self._open -= 1
            self._next()
            raise

    def give(self, connection: sa.Connection) -> None:
        """Take it back; one that is broken or in the middle of something is closed."""
        if _driver(connection).pgconn.transaction_status == TransactionStatus.IDLE:
            self._idle.append(connection)
        else:
            self._open -= 1
            _close(connection)
            self.close()  # the others may be as dead, and each would fail one caller more
        self._next()

    def close(self) -> None:
        """Close those that nobody uses."""
        while self._idle:
            self._open -= 1
            _close(self._idle.pop())

    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


class LoopScripts:
    """Run scripts for one event loop: on PostgreSQL as told above, on SQLite where the loop stands (`lachan.loop_writer`).

    Args:
        db: the database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._looks, self._units = _Connections(db.loop_connection), _Connections(db.loop_connection)

    async def look(self, make: Make[R]) -> R:
        """Run a script that only looks; each of its steps is a snapshot of its own.

        Raises:
            Exception: what the script raised.
            DatabaseAway: the database cannot be read.
        """
        if self._db.dialect == "sqlite":
            return self._db.glance(lambda connection: play(connection, make()))
        with self._db.told(writing=False):
            connection = await self._looks.take()
            try:
                return await _played(connection, make, unit=False)
            finally:
                self._looks.give(connection)

    async def unit(self, make: Make[R]) -> R:
        """Run a script as a unit of work and give its result once that has committed.

        Raises:
            Exception: what the script raised; nothing of it was written then.
            sqlalchemy.exc.DBAPIError: of a statement, as by SQLAlchemy.
            DatabaseAway: the database was busy for too long, is full, broken or away.
        """
        if self._db.dialect == "sqlite":
            return await self._db.arun(lambda connection: play(connection, make()))
        with self._db.told(writing=True):
            try:
                return await self._once(make)
            except sa.exc.DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in AGAIN:
                    raise
            await asyncio.sleep(random.uniform(*PAUSE))
            return await self._once(make)

    async def _once(self, make: Make[R]) -> R:
        connection = await self._units.take()
        try:
            return await _played(connection, make, unit=True)
        except BaseException:
            await _rolled_back(connection)
            raise
        finally:
            self._units.give(connection)

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._looks.close()
        self._units.close()


async def _played(connection: sa.Connection, make: Make[R], *, unit: bool) -> R:
    script = make()
    committed = not unit
    try:
        asked = next(script)
        while True:
            if committed and unit:
                raise RuntimeError("A script asked for more after its last statements.")
            committed = not unit or isinstance(asked, Last)
            asked = script.send(await _step(connection, asked, begin=unit, commit=unit and committed))
    except StopIteration as end:
        if not committed:
            await _step(connection, [], begin=False, commit=True)
        found: R = end.value
        return found
    finally:
        script.close()


async def _step(connection: sa.Connection, asked: Any, *, begin: bool, commit: bool) -> list[Done]:
    made = [(call.compiled(connection), binds) for call, binds in asked]
    try:
        found = await prepared.aflush(
            _driver(connection), _ear(connection), connection.info.setdefault(prepared.KNOWN, set()),
            [(compiled.text, compiled.parameters(binds)) for compiled, binds in made], begin=begin, commit=commit,
        )  # fmt: skip
    except psycopg.Error as error:
        raise translated(connection, made[0][0].text if made else "COMMIT", None, error) from error
    return [
        Done(count, compiled.rows(rows) if compiled.row else [])
        for (compiled, _), (count, rows) in zip(made, found, strict=True)
    ]


async def _rolled_back(connection: sa.Connection) -> None:
    driver = _driver(connection)
    if driver.pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
        with suppress(psycopg.Error):  # it is closed then
            await prepared.arollback(driver, _ear(connection))


def _driver(connection: sa.Connection) -> psycopg.Connection[Any]:
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    return driver


def _ear(connection: sa.Connection) -> prepared.Ear:
    ear: prepared.Ear | None = connection.info.get("lachan_ear")
    if ear is None:
        ear = connection.info["lachan_ear"] = prepared.Ear(_driver(connection).pgconn)
    return ear


def _close(connection: sa.Connection) -> None:
    _ear(connection).close()
    with suppress(Exception):
        connection.invalidate()
    with suppress(Exception):
        connection.close()
