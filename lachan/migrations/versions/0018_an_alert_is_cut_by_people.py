"""An alert is one episode until it is cut: when its lines were delivered, and when somebody closed it."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_TIMES = ("received_first", "received_last", "cut_at")


def upgrade() -> None:
    """Add the times of receipt; of older alerts they are those of their rows, and closed ones were cut at their last line."""
    with op.batch_alter_table("alerts") as batch:
        for name in _TIMES:
            batch.add_column(sa.Column(name, sa.DateTime(timezone=True)))
    op.execute("UPDATE alerts SET received_first = created_at, received_last = created_at")
    op.execute("UPDATE alerts SET cut_at = created_at WHERE state = 'closed'")
    with op.batch_alter_table("alerts") as batch:
        for name in _TIMES[:2]:
            batch.alter_column(name, existing_type=sa.DateTime(timezone=True), nullable=False)


def downgrade() -> None:
    """Drop them."""
    with op.batch_alter_table("alerts") as batch:
        for name in _TIMES:
            batch.drop_column(name)
