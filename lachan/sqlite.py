"""How a SQLite database is opened: what holds for every connection, for those that write, and for those that glance.

Limits: what is kept here knows nothing of units, lanes and the gate (`lachan.writer`).
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

R = TypeVar("R")


def glances(url: sa.URL) -> sa.Connection:
    """Open a connection for who looks often and briefly; the caller keeps and closes it.

    Each statement is a snapshot of its own, so there is nothing to begin and nothing to end (70 µs of 330 a look).
    """
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    sa.event.listen(engine, "connect", prepare)
    sa.event.listen(engine, "begin", lambda _connection: None)
    connection = engine.connect()
    connection.begin()  # SQLAlchemy's idea of it, and for good; the driver knows of none
    connection.exec_driver_sql("PRAGMA query_only=ON")
    return connection


class Eye:
    """One connection for all threads of a process, for single statements that only look.

    Args:
        url: of the database.
    """

    def __init__(self, url: sa.URL) -> None:
        self._url = url
        self._connection: sa.Connection | None = None
        self._lock = threading.Lock()

    def look(self, read: Callable[[sa.Connection], R]) -> R:
        """Run a statement; ``read`` itself asks for no other look.

        Raises:
            sqlalchemy.exc.DBAPIError: the database cannot be read; the next look opens another connection.
        """
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = glances(self._url)
                return read(self._connection)
            except sa.exc.DBAPIError:
                self._drop()
                raise

    def close(self) -> None:
        """Give the connection back."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def writing(url: sa.URL, *, wait: float) -> sa.Engine:
    """Give what opens the connections of the writer's lanes, which alone begin and end transactions on them.

    Args:
        url: of the database.
        wait: seconds that SQLite itself waits for a lock.
    """
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool, connect_args={"timeout": wait})
    sa.event.listen(engine, "connect", prepare)
    sa.event.listen(engine, "connect", writes)
    sa.event.listen(engine, "begin", lambda _connection: None)
    for ending in ("commit", "rollback"):
        sa.event.listen(engine, ending, refuse_ending)
    return engine


def prepare(connection: Any, _record: object) -> None:
    """Make a new connection as all of ours are: write-ahead log, durable, foreign keys held."""
    connection.isolation_level = None  # the driver must not begin by itself: `begin` does
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def begin(connection: sa.Connection) -> None:
    """Begin a transaction; one that writes takes the lock at once."""
    write = connection.get_execution_options().get("lachan_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def writes(connection: Any, _record: object) -> None:
    """Make a new connection one of the writer's."""
    # Should SQLite have rolled all back under a unit that goes on, the driver begins a transaction, which the lane undoes;
    # otherwise each of its further statements would commit by itself.
    connection.isolation_level = "IMMEDIATE"
    connection.execute("PRAGMA wal_autocheckpoint=0")  # lachan.wal does it, when nobody waits


def refuse_ending(_connection: sa.Connection) -> None:
    """Refuse COMMIT and ROLLBACK inside a unit of work.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError("A unit of work neither commits nor rolls back: raise an error, or return.")
