"""The lease of the ledger's key: which signer signs checkpoints, and what it is about to sign."""

import sqlalchemy as sa
from alembic import op

from lachan.database import UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table; its one row comes with the next checkpoint."""
    op.create_table(
        "ledger_lease",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False, comment="always 1"),
        sa.Column("holder", sa.String(length=200), nullable=False, comment="the signer that may sign"),
        sa.Column("fence", sa.BigInteger(), nullable=False, comment="grows with every intent"),
        sa.Column("until", UtcDateTime(timezone=True), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False, comment="what is to be signed, written before it is"),
        sa.Column("root", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_lease")),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("ledger_lease")
