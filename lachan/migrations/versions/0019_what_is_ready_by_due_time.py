"""The index by due time holds only what is ready: no planner can take it for what was put off, or for leases, and walk it."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def _made_for(where: str) -> None:
    op.drop_index("ix_jobs_due", "jobs")
    op.create_index("ix_jobs_due", "jobs", ["lane", "due_at"], sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def upgrade() -> None:
    """Make it anew for what is ready."""
    _made_for("state = 'open' AND lease_until IS NULL AND turn_at IS NOT NULL")


def downgrade() -> None:
    """Make it anew for all that is open."""
    _made_for("state = 'open'")
