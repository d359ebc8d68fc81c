"""Bring a database to this version's schema: one alembic history that runs on SQLite and PostgreSQL."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from lachan import log, wiring
from lachan.database import Database
from lachan.errors import DatabaseAway
from lachan.settings import Settings

PAUSE = 1.0  # seconds between two tries to reach a database that is away
FOLDER = Path(__file__).parents[1] / "migrations"


def config() -> Config:
    """Alembic's configuration without a file."""
    made = Config()
    made.set_main_option("script_location", str(FOLDER))
    return made


def upgrade(db: Database) -> None:
    """Run what is missing, in one transaction where the database allows it.

    SQLite changes a table by making it anew, and would take what refers to the old one for orphans: there foreign keys rest
    meanwhile, and all of them are checked before the commit.

    Raises:
        RuntimeError: a row refers to one that is not there any more; nothing was changed.
    """
    made = config()
    with _foreign_keys_at_rest(db), db.write() as connection:
        made.attributes["connection"] = connection
        command.upgrade(made, "head")
        if db.dialect == "sqlite" and (left := connection.exec_driver_sql("PRAGMA foreign_key_check").all()):
            raise RuntimeError(f"The migration leaves rows that refer to nothing: {left[:3]}")


@contextmanager
def _foreign_keys_at_rest(db: Database) -> Iterator[None]:
    """Have new connections of SQLite not enforce foreign keys (inside a transaction that cannot be said any more)."""
    if db.dialect != "sqlite":
        yield
        return

    def rest(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA foreign_keys=OFF")

    db.engine.dispose()
    sa.event.listen(db.engine, "connect", rest)
    try:
        yield
    finally:
        sa.event.remove(db.engine, "connect", rest)
        db.engine.dispose()


def patiently(db: Database, wait: float) -> None:
    """Upgrade, trying again for so many seconds while the database is away (after a power cut it starts with us).

    Raises:
        DatabaseAway: it was away all the time, or busy.
    """
    deadline = time.monotonic() + wait
    while True:
        try:
            upgrade(db)
            return
        except DatabaseAway:
            if time.monotonic() + PAUSE > deadline:
                raise
        time.sleep(PAUSE)


def current(db: Database) -> str | None:
    """Give the revision that the database is at; None before the first."""
    with db.read() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def main() -> None:
    """See that the rooms' wiring holds, then upgrade the database of the data folder named on the command line."""
    wiring.check(wiring.load())  # before any role starts; here, where what it imports is thrown away afterwards
    settings = Settings.load(sys.argv[1])
    log.configure()
    db = Database(settings.url, pool_size=2, wait=settings.database_wait)
    try:
        patiently(db, settings.database_start_wait)
    except DatabaseAway as error:
        sys.exit(
            f"{error.detail}\nIt was tried for {settings.database_start_wait:g} s. Start the database, then lachan."
        )
    finally:
        db.close()


if __name__ == "__main__":
    main()
