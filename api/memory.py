"""`Marks`: how far the tables have come that answers in memory are made of, so that such an answer is never past a change.

An answer is kept beside the marks that it was made under: revisions of certificates' states, numbers of CRLs, changes of
releases. Before it is given again the marks are asked for. On SQLite that is exact: the database itself tells, in a few
microseconds, whether anybody has committed since the last look (``PRAGMA data_version``), and only then they are read again.
On PostgreSQL they are read again when the last look began `LOOK` seconds ago, one look for all who wait, in a thread: an
answer is at most that much, and the look itself, behind a commit (ADR 0032). Cost at rest: none, nobody looks unasked.

Limits: of one event loop. What is given under marks must be read after them: `now` first, then the rows.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from lachan.database import Database, away
from lachan.errors import DatabaseAway
from lachan.statements import Statement
from ota_signing.models import slots
from pki.authorities import Hierarchy, forget, hierarchy
from pki.errors import AuthorityMissing
from pki.models import crls, revisions

LOOK = 0.02  # seconds that marks of PostgreSQL are believed
AUTHORITIES = 2.0  # seconds that the authorities' certificates are believed
R = TypeVar("R")


@dataclass(frozen=True)
class Mark:
    """What the tables were when they were looked at; compare the parts that an answer depends on.

    Attributes:
        revisions: by authority, how often certificates of it changed their state.
        crls: by authority, the number of the CRL in force.
        firmware: grows with every change of what devices are offered.
    """

    revisions: Mapping[str, int]
    crls: Mapping[str, int]
    firmware: int


def _part(kind: str, name: Any, number: Any) -> sa.Select[Any]:
    return sa.select(sa.literal(kind, sa.String).label("kind"), name.label("name"), number.label("number"))


_MARKS = Statement(
    sa.union_all(
        _part("revision", revisions.c.authority, revisions.c.revision),
        _part("crl", crls.c.authority, sa.func.max(crls.c.number)).group_by(crls.c.authority),
        _part("firmware", sa.literal("", sa.String),
              sa.func.coalesce(sa.cast(sa.func.sum(slots.c.revision + slots.c.published), sa.BigInteger), 0)),
    )
)  # fmt: skip


class Marks:
    """The marks of one door.

    Args:
        db: the database.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._exact = db.dialect == "sqlite"
        self._eye: sa.Connection | None = None
        self._cursor: Any = None
        self._mark: Mark | None = None
        self._version = -1
        self._until = 0.0
        self._looking: asyncio.Future[Mark] | None = None
        self._authorities: tuple[float, Hierarchy] | None = None

    def fresh(self) -> Mark | None:
        """Give the marks if they are known to hold now; None when somebody must look.

        Raises:
            DatabaseAway: SQLite does not answer.
        """
        if not self._exact:
            return self._mark if time.monotonic() < self._until else None
        return self._guarded(self._peek)

    async def now(self) -> Mark:
        """Give the marks as they are.

        Raises:
            DatabaseAway: the database does not answer.
        """
        mark = self.fresh()
        if mark is not None:
            return mark
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look())
        return await asyncio.shield(self._looking)

    async def look(self, read: Callable[[sa.Connection], R]) -> R:
        """Read the database: on SQLite here and now, on PostgreSQL in a thread.

        Raises:
            DatabaseAway: it does not answer.
        """
        if self._exact:
            return self._guarded(lambda: read(self._opened()))
        return await asyncio.to_thread(self._read, read)

    async def hierarchy(self) -> Hierarchy:
        """Give root and issuing authorities, at most `AUTHORITIES` seconds old.

        Raises:
            AuthorityMissing: there are none.
        """
        return self.authorities() or await self.hierarchy_anew()

    def authorities(self) -> Hierarchy | None:
        """Give what `hierarchy` does if nobody has to look for it."""
        until, known = self._authorities or (0.0, None)
        return known if time.monotonic() < until else None

    async def hierarchy_anew(self) -> Hierarchy:
        """Give root and issuing authorities as they are now, for who misses one.

        Raises:
            AuthorityMissing: there are none.
        """
        found = await asyncio.to_thread(self._hierarchy)
        known = self._authorities[1] if self._authorities else None
        if known is not None and known == found:
            found = known  # the same object: what was made of it holds
        self._authorities = (time.monotonic() + AUTHORITIES, found)
        return found

    def close(self) -> None:
        """Close what looks."""
        if self._eye is not None:
            self._eye.close()
            self._eye = self._cursor = None
            self._version = -1

    def _hierarchy(self) -> Hierarchy:
        forget(self._db)
        try:
            return hierarchy(self._db)
        except AuthorityMissing:
            self._authorities = None
            raise

    def _peek(self) -> Mark:
        self._opened()
        try:
            version = self._cursor.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error as error:
            raise DatabaseAway(f"The database does not answer: {error}.", retry_after=1) from error
        if version != self._version or self._mark is None:
            self._take(self._read_marks(self._opened()))
            self._version = version  # of before the reading: what is committed meanwhile is another version
        assert self._mark is not None
        return self._mark

    async def _look(self) -> Mark:
        began = time.monotonic()
        mark = self._take(await asyncio.to_thread(self._read, self._read_marks))
        self._until = began + LOOK
        return mark

    def _take(self, rows: list[Any]) -> Mark:
        found: dict[str, dict[str, int]] = {"revision": {}, "crl": {}, "firmware": {}}
        for kind, name, number in rows:
            found[kind][name] = int(number)
        mark = Mark(found["revision"], found["crl"], found["firmware"].get("", 0))
        if self._mark != mark:
            self._mark = mark
        return self._mark

    def _read_marks(self, connection: sa.Connection) -> list[Any]:
        return _MARKS.all(connection)

    def _read(self, read: Callable[[sa.Connection], R]) -> R:
        with self._db.read() as connection:
            return read(connection)

    def _opened(self) -> sa.Connection:
        if self._eye is None:
            self._eye = self._db.glances()
            self._cursor = self._eye.connection.driver_connection.cursor()  # type: ignore[union-attr]
        return self._eye

    def _guarded(self, read: Callable[[], R]) -> R:
        try:
            return read()
        except sa.exc.DBAPIError as error:
            self.close()  # the next look opens another
            if (trouble := away(error)) is not None:
                raise trouble from error
            raise
        except Exception:
            self.close()
            raise
