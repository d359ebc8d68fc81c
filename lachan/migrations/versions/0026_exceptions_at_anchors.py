"""A manufacturer's authority at the device door names the strict rules that its certificates may break."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Except nobody from anything."""
    op.add_column("door_anchors", sa.Column("exceptions", sa.String(400), nullable=False, server_default=""))


def downgrade() -> None:
    """Forget the exceptions."""
    op.drop_column("door_anchors", "exceptions")
