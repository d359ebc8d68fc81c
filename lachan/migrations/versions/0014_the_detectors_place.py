"""The detector's place in a stream tells which senders are behind it."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add who is behind, and the count of moves that fences."""
    op.add_column("siem_checkpoints", sa.Column("behind", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("siem_checkpoints", sa.Column("round", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Drop both: the older version reads on from the scanned place, and what waited before it is not looked at."""
    op.drop_column("siem_checkpoints", "round")
    op.drop_column("siem_checkpoints", "behind")
