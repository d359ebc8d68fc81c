"""What the detector forgot for want of room is counted where everybody can read it."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "siem_forgotten",
        sa.Column("what", sa.String(20), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("what", name=op.f("pk_siem_forgotten")),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("siem_forgotten")
