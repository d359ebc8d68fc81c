"""What the detector has read is told to the line, so that a record with many findings is written in slices."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the line to the detector's place."""
    op.add_column("siem_checkpoints", sa.Column("line", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Forget the line: an interrupted record is read again from its beginning."""
    op.drop_column("siem_checkpoints", "line")
