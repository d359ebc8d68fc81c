"""Engine, connections and portable types: the same SQL on SQLite and PostgreSQL.

Rooms write SQLAlchemy Core against `metadata` and open a connection inside the function that needs it: `Database.read`
for looking, `Database.write` for one transaction. On SQLite `write` is BEGIN IMMEDIATE (with deferred transactions racing
writers fail at once, whatever the timeout), WAL and synchronous=FULL. Limits: inside `write` a process must not wait for
another process that needs `write`.
"""

import asyncio
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.types import TypeDecorator

from lachan.errors import LachanError

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
S = TypeVar("S", bound=sa.Select[Any])
R = TypeVar("R")
Unit = Callable[[sa.Connection], R]
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


class Database:
    """One database, shared by the threads of a process.

    Args:
        url: SQLAlchemy URL; ``sqlite:///…`` or ``postgresql+psycopg://…`` (``postgresql://`` means the same).
        pool_size: most connections of this process.

    Raises:
        LooseFolder: the SQLite file's folder is readable by group or others.
    """

    def __init__(self, url: str, *, pool_size: int = 20) -> None:
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
            connect_args={"timeout": 30} if self.dialect == "sqlite" else {},
        )
        if self.dialect == "sqlite":
            sa.event.listen(self.engine, "connect", _sqlite_pragmas)
            sa.event.listen(self.engine, "begin", _sqlite_begin)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for looking only; what it writes is rolled back."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction: committed at the end of the block, rolled back by an exception."""
        with self.engine.connect().execution_options(lachan_write=True) as connection:
            connection.info.pop("after_commit", None)
            with connection.begin():
                yield connection
            for callback in connection.info.pop("after_commit", ()):
                callback()

    def run(self, unit: "Unit[R]", *, urgent: bool = False) -> R:
        """Run a unit of work in a transaction and give its result once that has committed.

        Args:
            unit: a function of the connection, without effect outside before its commit (`after_commit` is for that): it
                may be run again after a deadlock or a serialisation failure, or after its group was rolled back.
            urgent: goes before what is not (what may lead to containment, runs, enforcement, release).

        Raises:
            Exception: what the unit raised; nothing of it was written then.
        """
        try:
            return self._run_once(unit)
        except sa.exc.DBAPIError as error:
            if not _worth_a_second_run(error):
                raise
        return self._run_once(unit)

    async def arun(self, unit: "Unit[R]", *, urgent: bool = False) -> R:
        """Do `run` for code on an event loop, which goes on meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(None, lambda: self.run(unit, urgent=urgent))

    def _run_once(self, unit: "Unit[R]") -> R:
        with self.write() as connection:
            return unit(connection)

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


def after_commit(connection: sa.Connection, callback: Callable[[], None]) -> None:
    """Call ``callback`` once the surrounding `Database.write` has committed; never if it rolls back."""
    connection.info.setdefault("after_commit", []).append(callback)


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


def _worth_a_second_run(error: sa.exc.DBAPIError) -> bool:
    """Tell a deadlock (40P01) and a serialisation failure (40001) from errors that would come again."""
    return getattr(error.orig, "sqlstate", None) in {"40P01", "40001"}


def _sqlite_pragmas(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver must not begin by itself: _sqlite_begin does
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "busy_timeout=30000",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("lachan_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
