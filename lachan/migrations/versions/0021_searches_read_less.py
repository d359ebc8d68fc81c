"""On PostgreSQL a search reads little of what was written since its index was last brought up to date."""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bound what is not in the index yet, and bring it in."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER INDEX ix_devices_folded SET (gin_pending_list_limit = 128)")
        op.execute("SELECT gin_clean_pending_list('ix_devices_folded'::regclass)")


def downgrade() -> None:
    """Leave it to the server's own setting."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER INDEX ix_devices_folded RESET (gin_pending_list_limit)")
