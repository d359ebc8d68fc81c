"""What an operator says of where a device is binds evidence; what a manufacturer registers is a hint."""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

ADDRESSED, SEEN = sa.text("address IS NOT NULL"), sa.text("seen_address IS NOT NULL")


def upgrade() -> None:
    """Vouch for all that is there, as it has bound until now; `lachan device list` shows whose word each is."""
    op.add_column("devices", sa.Column("vouched", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("devices", sa.Column("seen_address", sa.String(45)))
    op.drop_index("ix_devices_address", "devices")
    op.create_index(
        "ix_devices_address", "devices", ["address", "vouched"], sqlite_where=ADDRESSED, postgresql_where=ADDRESSED
    )
    op.create_index(
        "ix_devices_seen_address", "devices", ["seen_address", "vouched"], sqlite_where=SEEN, postgresql_where=SEEN
    )


def downgrade() -> None:
    """Forget whose word it is."""
    op.drop_index("ix_devices_seen_address", "devices")
    op.drop_index("ix_devices_address", "devices")
    op.create_index("ix_devices_address", "devices", ["address"], sqlite_where=ADDRESSED, postgresql_where=ADDRESSED)
    op.drop_column("devices", "seen_address")
    op.drop_column("devices", "vouched")
