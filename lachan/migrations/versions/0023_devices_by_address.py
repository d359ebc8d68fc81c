"""A device is found by its address without a look at all of them: log lines name devices by it."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

ADDRESSED = sa.text("address IS NOT NULL")


def upgrade() -> None:
    """Make the index."""
    op.create_index("ix_devices_address", "devices", ["address"], sqlite_where=ADDRESSED, postgresql_where=ADDRESSED)


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_devices_address", "devices")
