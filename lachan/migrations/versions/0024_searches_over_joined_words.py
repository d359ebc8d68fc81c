"""On PostgreSQL a search for words and a letter ("hoan kiem m") does not read a whole district."""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

OVER = "(replace(folded, ' ', 'j') gin_trgm_ops)"


def upgrade() -> None:
    """Make the index over the words written together."""
    if op.get_bind().dialect.name == "postgresql":
        _make(OVER)
        op.get_bind().exec_driver_sql("ALTER INDEX ix_devices_folded ALTER COLUMN 1 SET STATISTICS 0")


def downgrade() -> None:
    """Make it over the words, each for itself."""
    if op.get_bind().dialect.name == "postgresql":
        _make("(folded gin_trgm_ops)")


def _make(over: str) -> None:
    op.drop_index("ix_devices_folded", "devices")
    op.get_bind().exec_driver_sql(
        f"CREATE INDEX ix_devices_folded ON devices USING gin {over} WITH (gin_pending_list_limit = 128)"
    )
