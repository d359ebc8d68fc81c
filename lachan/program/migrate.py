"""Bring a database to this version's schema: one alembic history that runs on SQLite and PostgreSQL."""

import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from lachan import wiring
from lachan.database import Database
from lachan.settings import Settings

FOLDER = Path(__file__).parents[1] / "migrations"


def config() -> Config:
    """Alembic's configuration without a file."""
    made = Config()
    made.set_main_option("script_location", str(FOLDER))
    return made


def upgrade(db: Database) -> None:
    """Run what is missing, in one transaction where the database allows it."""
    made = config()
    with db.write() as connection:
        made.attributes["connection"] = connection
        command.upgrade(made, "head")


def current(db: Database) -> str | None:
    """The revision that the database is at; None before the first."""
    with db.read() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def main() -> None:
    """See that the rooms' wiring holds, then upgrade the database of the data folder named on the command line."""
    wiring.check(wiring.load())  # before any role starts; here, where what it imports is thrown away afterwards
    settings = Settings.load(sys.argv[1])
    db = Database(settings.url, pool_size=2)
    try:
        upgrade(db)
    finally:
        db.close()


if __name__ == "__main__":
    main()
