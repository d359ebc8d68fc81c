"""Engine, connections and portable types: the same SQL on SQLite and PostgreSQL.

Rooms write SQLAlchemy Core against `metadata` and open a connection inside the function that needs it: `Database.read`
for looking, `Database.run` with a unit of work for writing (ADR 0021), `Database.write` in console commands that write
alone. On SQLite units share a transaction and its fsync (`lachan.writer`), and whoever writes has passed the gate between
processes; it is BEGIN IMMEDIATE (with deferred transactions racing writers fail at once, whatever the timeout), WAL and
synchronous=FULL. On PostgreSQL each unit is a transaction of its own.

**Lock order:** device rows by id, kill switch (shared), budgets sorted, containment; `FOR NO KEY UPDATE` (a foreign-key insert passes it), `FOR UPDATE` only where a unique column of `devices` changes; background pages use SKIP LOCKED.

Limits: inside a transaction a process must not wait for another process that needs one.
"""

import asyncio
import contextvars
import os
import random
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.types import TypeDecorator

from lachan import sqlite
from lachan.errors import DatabaseAway, DatabaseFull, LachanError
from lachan.loop_writer import LoopWriter
from lachan.outage import Outage
from lachan.sqlite import Eye
from lachan.units import RETRY_AFTER, RETRY_WHEN_FULL, R, Unit, unavailable
from lachan.writer import UnitWriter

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)
Json = sa.JSON
# SQLite only counts by itself for a plain INTEGER key; PostgreSQL wants 64 bits.
WAITING = "lachan_waiting"  # where a unit on PostgreSQL keeps what it has not sent yet (`lachan.statements.later`)
S = TypeVar("S", bound=sa.Select[Any])
PAUSE = (0.02, 0.06)  # seconds before that: at once, it would take its first row from the one that it gave way to
AGAIN = frozenset({"40P01", "40001"})  # deadlock, serialisation failure: the same unit may well succeed now
BigSerial = sa.BigInteger().with_variant(sa.Integer, "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC moment; SQLite keeps it as text without zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Refuse naive moments; convert the others to UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime may not be stored; use lachan.clock")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Give every stored moment its zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class LooseFolder(LachanError):
    """The data folder can be read by others."""

    title, hint = (
        "The data folder is open to others",
        "Run chmod 700 on it, then start again.",
    )


class NestedUnit(RuntimeError):
    """A programming error: inside a transaction another one of the same database was asked for."""


class Database:
    """One database, shared by the threads of a process.

    Args:
        url: SQLAlchemy URL; ``sqlite:///…`` or ``postgresql+psycopg://…`` (``postgresql://`` means the same).
        pool_size: most connections of this process; on SQLite its writer has up to two more.
        wait: seconds that a write waits for a busy SQLite database before it is `DatabaseAway`; on PostgreSQL that any lock is waited for.

    Raises:
        LooseFolder: the SQLite file's folder is readable by group or others.
    """

    def __init__(self, url: str, *, pool_size: int = 20, wait: float = 10) -> None:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.url: URL = parsed
        self.dialect: Literal["sqlite", "postgresql"] = (
            "sqlite" if parsed.get_backend_name() == "sqlite" else "postgresql"
        )
        if self.dialect == "sqlite" and parsed.database:
            check_folder(Path(parsed.database).parent)
        self.engine = sa.create_engine(
            parsed,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=30,
            connect_args={"timeout": 30} if self.dialect == "sqlite" else _postgres(wait),
        )
        self._reading = Outage("the database cannot be read", quiet=wait + 1)
        self._writing = Outage("the database cannot be written", quiet=wait + 1)
        self._pool_size = pool_size
        self._inside = threading.local()
        self._threads: ThreadPoolExecutor | None = None
        self._lanes: dict[bool, UnitWriter] = {}
        self._on_loop: LoopWriter | None = None
        self._wait = wait
        self._eye = Eye(parsed) if self.dialect == "sqlite" else None
        if self.dialect == "postgresql":
            sa.event.listen(self.engine, "before_cursor_execute", _send_waiting)
        if self.dialect == "sqlite":
            sa.event.listen(self.engine, "connect", sqlite.prepare)
            sa.event.listen(self.engine, "begin", sqlite.begin)
            if parsed.database:
                self._make_lanes(Path(parsed.database), wait)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Give a connection for looking only; what it writes is rolled back.

        Raises:
            DatabaseAway: the database is away, or kept locked what was to be read.
        """
        with self._told(self._reading), self.engine.connect().execution_options(lachan_read=True) as connection:
            yield connection

    def glances(self) -> sa.Connection:
        """Open a connection for one thread that looks often and briefly; the caller keeps and closes it.

        Each statement is a snapshot of its own, so there is nothing to begin and nothing to end (70 µs of 330 a look).
        """
        if self.dialect == "sqlite":
            return sqlite.glances(self.url)
        engine = sa.create_engine(self.url, poolclass=sa.pool.NullPool, connect_args=_postgres(10))
        return engine.connect().execution_options(isolation_level="AUTOCOMMIT", lachan_read=True)

    def glance(self, read: Callable[[sa.Connection], R]) -> R:
        """Run one statement that only looks, for those who look often and briefly.

        On SQLite, where reading waits for nobody, all threads share one connection for it; on PostgreSQL this is `read`.

        Raises:
            DatabaseAway: the database cannot be read.
        """
        if self._eye is None:
            with self.read() as connection:
                return read(connection)
        try:
            return self._eye.look(read)
        except sa.exc.DBAPIError as error:
            if (trouble := away(error)) is not None:
                raise trouble from error
            raise

    @contextmanager
    def glancing(self) -> Iterator[None]:
        """Stand around a look with a connection of `glances`, which is to be opened anew when this raises.

        Raises:
            DatabaseAway: the database is away, or kept locked what was to be read.
        """
        with self._told(self._reading):
            yield

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction of the caller's own: committed at the end of the block, rolled back by an exception.

        For those who write alone (console commands); others give `run` a unit, which shares its fsync.

        Raises:
            NestedUnit: the caller is inside a transaction of this database already.
            DatabaseAway: the database was busy for too long.
        """
        callbacks: list[Callable[[], None]] = []
        with self._transaction(callbacks) as connection:
            yield connection
        for callback in callbacks:
            callback()

    def run(self, unit: Unit[R], *, urgent: bool = False) -> R:
        """Run a unit of work in a transaction and give its result once that has committed.

        Args:
            unit: a function of the connection, without effect outside before its commit (`after_commit` is for that): it
                may run again after a deadlock or a serialisation failure, or after its group was rolled back, and on
                SQLite it runs in the writer's thread. It waits for no other thread, and its result holds no cursor.
            urgent: goes before what is not (what may lead to containment, runs, enforcement, release).

        Raises:
            Exception: what the unit raised; nothing of it was written then.
            NestedUnit: the caller is inside a transaction of this database already.
            DatabaseAway: the database was busy for too long, is full, broken or away.
        """
        self._refuse_nested()
        if self._lanes:
            return self._lanes[urgent].run(unit)
        callbacks: list[Callable[[], None]] = []
        try:
            found = self._run_once(unit, callbacks)
        except sa.exc.DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in AGAIN:
                raise
            time.sleep(random.uniform(*PAUSE))
            found = self._run_once(unit, callbacks)
        for callback in callbacks:
            callback()
        return found

    async def arun(self, unit: Unit[R], *, urgent: bool = False) -> R:
        """Do `run` for code on an event loop, which goes on meanwhile; on SQLite it takes no thread."""
        self._refuse_nested()
        if self._on_loop is not None:
            return await (self._lanes[True].arun(unit) if urgent else self._on_loop.arun(unit))
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._pool_size, thread_name_prefix="units")
        run = contextvars.copy_context().run
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: run(self.run, unit, urgent=urgent)
        )

    def loop_connection(self) -> sa.Connection:
        """Open a connection for `lachan.loop_postgres`, whose user begins and ends its transactions himself."""
        assert self.dialect == "postgresql"
        engine = sa.create_engine(self.url, poolclass=sa.pool.NullPool, connect_args=_postgres(self._wait))
        connection = engine.connect()
        connection.begin()  # SQLAlchemy's idea of it, and for good
        return connection

    def told(self, *, writing: bool) -> AbstractContextManager[None]:
        """Have what goes wrong in the block told once, and raise `DatabaseAway` for what speaks of the database."""
        return self._told(self._writing if writing else self._reading)

    @contextmanager
    def _transaction(self, callbacks: list[Callable[[], None]]) -> Iterator[sa.Connection]:
        """One transaction; ``callbacks`` gets what is to be called now that it has committed."""
        self._refuse_nested()
        with (
            self._lanes[False].lent() if self._lanes else nullcontext(),
            nullcontext() if self._lanes else self._told(self._writing),
            self.engine.connect().execution_options(lachan_write=True) as connection,
        ):
            info = connection.info  # of the driver's connection, which outlives this transaction
            info.pop("after_commit", None)
            info.pop(WAITING, None)
            self._inside.yes = True
            try:
                with connection.begin():
                    yield connection
                    if (waiting := info.get(WAITING)) is not None:
                        waiting.finish(connection)
            finally:
                self._inside.yes = False
                info.pop(WAITING, None)  # of a transaction that rolled back: whoever is next must not send it
            callbacks += connection.info.pop("after_commit", ())

    def _run_once(self, unit: Unit[R], callbacks: list[Callable[[], None]]) -> R:
        with self._transaction(callbacks) as connection:
            return unit(connection)

    @contextmanager
    def _told(self, outage: Outage) -> Iterator[None]:
        """Have an outage told of what happens in the block, and raise `DatabaseAway` for what speaks of the database."""
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            if (trouble := away(error)) is None:
                raise
            outage.failed(trouble)
            if getattr(error, "connection_invalidated", False):
                self.engine.dispose()  # the pool's others are as dead; each would fail one caller more
            raise trouble from error
        outage.worked()

    def _refuse_nested(self) -> None:
        if getattr(self._inside, "yes", False):
            raise NestedUnit("Inside a transaction its own connection is used; a second one would wait for the first.")

    def close(self) -> None:
        """Finish the units that wait, then give all connections back."""
        for lane in (self._on_loop, *self._lanes.values()):
            if lane is not None:
                lane.close()
        if self._threads is not None:
            self._threads.shutdown()
        if self._eye is not None:
            self._eye.close()
        self.engine.dispose()

    def _make_lanes(self, file: Path, wait: float) -> None:
        """Make the lanes of SQLite's writer: for what is urgent, for what is not, and for what a loop asks for."""
        engine = sqlite.writing(self.url, wait=wait)
        common: dict[str, Any] = {"wait": wait, "inside": self._inside, "outage": self._writing}
        urgent = UnitWriter(engine, file, urgent=True, **common)
        self._lanes = {True: urgent, False: UnitWriter(engine, file, urgent=False, before=urgent, **common)}
        self._on_loop = LoopWriter(engine, file, before=urgent, beside=self._lanes[False], **common)


def _postgres(wait: float) -> dict[str, Any]:
    """Give the parameters with which nobody waits for ever: for a server that says nothing, or for a lock."""
    return {
        "connect_timeout": max(2, round(wait)), "options": f"-c lock_timeout={round(wait * 1000)}",
        "prepare_threshold": None,  # psycopg's prepared statements are gone at each rollback; lachan.prepared keeps ours
    }  # fmt: skip


def after_commit(connection: sa.Connection, callback: Callable[[], None]) -> None:
    """Call ``callback`` once the surrounding transaction has committed; never if it rolls back.

    It runs in the thread, or on the event loop, of who asked for the transaction, and must not block.
    """
    waiting = connection.info.setdefault("after_commit", [])
    if callback not in waiting:  # one wake-up is enough
        waiting.append(callback)


def away(error: sa.exc.SQLAlchemyError) -> DatabaseAway | None:
    """Give the error for callers if the database, and not what they asked of it, is in trouble; None otherwise.

    On PostgreSQL that is: no connection, too many of them, a server that stops or starts, no room (classes 08, 53, 57P, 58),
    a lock that somebody did not give back in time (55P03).
    """
    if isinstance(error, sa.exc.TimeoutError):
        return DatabaseAway("All connections to the database are taken.", retry_after=RETRY_AFTER)
    if not isinstance(error, sa.exc.DBAPIError):
        return None
    state = getattr(error.orig, "sqlstate", None) or ""
    if state == "53100":  # disk_full
        return DatabaseFull(f"The database has no room: {error.orig}.", retry_after=RETRY_WHEN_FULL)
    if error.connection_invalidated or state.startswith(("08", "53", "57P", "58", "55P03")):
        return DatabaseAway(f"The database is away: {error.orig}.", retry_after=RETRY_AFTER)
    if isinstance(error, sa.exc.OperationalError) and not state and not isinstance(error.orig, sqlite3.Error):
        return DatabaseAway(f"The database is away: {error.orig}.", retry_after=RETRY_AFTER)
    return unavailable(error)


def for_update(statement: S, connection: sa.Connection) -> S:
    """Lock the selected rows until the transaction ends; SQLite's writer already has the whole file."""
    return statement.with_for_update() if connection.dialect.name == "postgresql" else statement


def insert_ignore(
    connection: sa.Connection,
    table: sa.Table,
    values: Mapping[str, Any],
    *,
    index: Sequence[str],
) -> bool:
    """Insert unless a row with the same ``index`` columns exists; tell whether it was inserted."""
    if connection.dialect.name == "postgresql":  # each dialect costs a quarter of a second to import
        from sqlalchemy.dialects.postgresql import insert
    else:
        from sqlalchemy.dialects.sqlite import insert  # type: ignore[assignment]
    statement = insert(table).values(**values).on_conflict_do_nothing(index_elements=list(index))
    return connection.execute(statement.returning(sa.literal(1))).first() is not None


def check_folder(folder: Path) -> None:
    """Refuse a data folder that others may enter; make it if it is missing.

    Raises:
        LooseFolder: group or others have any right on it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(os.stat(folder).st_mode) & 0o077:
        raise LooseFolder(f"{folder} has mode {stat.S_IMODE(os.stat(folder).st_mode):04o}, wanted 0700.")


def _send_waiting(connection: sa.Connection, *_statement: object) -> None:
    """Send what waits for its turn before a statement that SQLAlchemy runs."""
    if (waiting := connection.info.get(WAITING)) is not None:
        waiting.send(connection)
