"""An approval keeps what was shown; a later end of a containment waits for people as a harder level does."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; approvals until now covered what there was."""
    op.add_column("soar_approvals", sa.Column("shown", sa.String(64), nullable=False, server_default=""))
    op.add_column("containments", sa.Column("longer", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("containments", sa.Column("longer_seconds", sa.Integer))


def downgrade() -> None:
    """Drop them; what waits for a later end waits no more."""
    op.drop_column("containments", "longer_seconds")
    op.drop_column("containments", "longer")
    op.drop_column("soar_approvals", "shown")
