"""What recurs finds its rows by an index: verdicts that expire, and what is driven to enforcement points now."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

KNOWN = sa.text("result <> 'unknown'")
LIVE = sa.text("(wanted IS NOT NULL OR state = 'pending')")


def upgrade() -> None:
    """Make both indexes; they are partial, so that what is settled costs them nothing."""
    op.create_index(
        "ix_posture_verdicts_expiring", "posture_verdicts", ["valid_until"], sqlite_where=KNOWN, postgresql_where=KNOWN
    )
    op.create_index(
        "ix_enforcements_live", "enforcements", ["point", "device_id"], sqlite_where=LIVE, postgresql_where=LIVE
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_enforcements_live", "enforcements")
    op.drop_index("ix_posture_verdicts_expiring", "posture_verdicts")
