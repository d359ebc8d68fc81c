"""The one history of migrations makes exactly the tables that the rooms declare."""

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from lachan import migrate, wiring
from lachan.database import Database, metadata
from lachan.settings import Settings


def test_the_history_leads_to_the_declared_tables(settings: Settings) -> None:
    wiring.load().import_tables()
    db = Database(settings.url, pool_size=2)
    try:
        migrate.upgrade(db)
        migrate.upgrade(db)  # a second time changes nothing
        with db.read() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": False})
            assert compare_metadata(context, metadata) == []
            found = set(sa.inspect(connection).get_table_names())
        assert found == {*metadata.tables, "alembic_version"}
        assert migrate.current(db) is not None
    finally:
        db.close()
