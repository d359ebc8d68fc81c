"""Units of work that wait for their turn, and what comes of them (ADR 0021; `lachan.writer` runs them)."""

import asyncio
import contextvars
import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from lachan.errors import DatabaseAway, DatabaseFull

R = TypeVar("R")
Unit = Callable[[sa.Connection], R]

RETRY_WHEN_FULL = 30  # seconds that a caller is told to wait when a disk is full
RETRY_AFTER = 2  # seconds that a caller is told to wait when the database is busy or broken
# What speaks of the database and not of the statement: BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, CORRUPT, FULL,
# CANTOPEN, PROTOCOL, NOTADB (sqlite.org/rescode.html).
TROUBLE = frozenset({5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 26})


def unavailable(error: BaseException) -> DatabaseAway | None:
    """Give the error for callers if SQLite, and not what they asked of it, is in trouble; None otherwise."""
    orig = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    code = getattr(orig, "sqlite_errorcode", 0) & 0xFF if isinstance(orig, sqlite3.Error) else 0
    if code == sqlite3.SQLITE_FULL:
        return DatabaseFull(f"The database has no room: {orig}.", retry_after=RETRY_WHEN_FULL)
    if code in TROUBLE:
        return DatabaseAway(f"The database cannot be used: {orig}.", retry_after=RETRY_AFTER)
    return None


class Waiting:
    """Somebody who waits for a turn, with what comes of it.

    Whoever takes the claim first has it: the lane, which then runs the unit, or the one who asked, who then gives up.
    """

    __slots__ = ("_claim", "_context", "callbacks", "done", "error", "future", "result", "unit")

    def __init__(self, unit: Unit[Any], future: "asyncio.Future[None] | None" = None) -> None:
        self.unit, self.future = unit, future
        self.callbacks: Sequence[Callable[[], None]] = ()
        self.error: BaseException | None = None
        self.result: Any = None
        self.done = threading.Lock()
        self.done.acquire()
        self._claim = threading.Lock()
        self._context = contextvars.copy_context()

    def claim(self) -> bool:
        """Take it; False if the other side was quicker."""
        return self._claim.acquire(blocking=False)

    def run(self, connection: sa.Connection) -> None:
        """Run the unit and keep what comes of it; a second run forgets the first."""
        callbacks: list[Callable[[], None]] = []
        connection.info["after_commit"] = callbacks  # `lachan.database.after_commit` adds to it
        self.callbacks, self.error, self.result = callbacks, None, None
        try:
            self.result = self._context.run(self.unit, connection)
        except BaseException as error:  # noqa: BLE001 - it belongs to who asked, the writer lives on
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Keep an error as what comes of it."""
        self.error, self.callbacks, self.result = error, (), None

    def answer(self) -> Any:
        """Give the result to who asked, after the callbacks.

        Raises:
            Exception: what the unit raised.
            DatabaseAway: the database could not be written.
        """
        if self.error is not None:
            raise unavailable(self.error) or self.error
        for callback in self.callbacks:
            callback()
        return self.result


class Loan(Waiting):
    """Somebody who writes by himself (`Database.write`) and borrows the gate for it."""

    __slots__ = ("returned",)

    def __init__(self) -> None:
        super().__init__(lambda _connection: None)
        self.returned = threading.Event()
