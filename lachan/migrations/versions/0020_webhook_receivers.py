"""What is known of a webhook's receiver: whether it is gone, and before when nothing is sent to it."""

import sqlalchemy as sa
from alembic import op

import lachan.database

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    moment = lachan.database.UtcDateTime(timezone=True)
    op.create_table(
        "webhook_receivers",
        sa.Column("url", sa.String(2000), nullable=False),
        sa.Column("gone_at", moment),
        sa.Column("not_before", moment),
        sa.Column("failures", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("updated_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("url", name=op.f("pk_webhook_receivers")),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("webhook_receivers")
