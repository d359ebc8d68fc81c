"""A certificate remembers when it was first shown, and when somebody was last told that it was shown although replaced."""

import sqlalchemy as sa
from alembic import op

from lachan.database import UtcDateTime

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the two moments; nobody knows them of what was shown before."""
    for name in ("shown_at", "clone_at"):
        op.add_column("pki_certificates", sa.Column(name, UtcDateTime()))


def downgrade() -> None:
    """Forget them."""
    for name in ("clone_at", "shown_at"):
        op.drop_column("pki_certificates", name)
