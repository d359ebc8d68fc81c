"""Alembic's entry: runs on the connection that `lachan.program.migrate` hands over."""

from alembic import context

from lachan import wiring
from lachan.database import metadata

wiring.load().import_tables()
connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=connection.dialect.name == "sqlite")
with context.begin_transaction():
    context.run_migrations()
