"""What a run waits for is kind and reference, found by an index."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_WAITS = sa.text("waiting_for_kind IS NOT NULL")


def upgrade() -> None:
    """Take the one text apart: ``approval:STEP``, ``outcome:STEP``, or a containment's id."""
    op.add_column("runs", sa.Column("waiting_for_kind", sa.String(12)))
    op.add_column("runs", sa.Column("waiting_for_ref", sa.String(120), nullable=False, server_default=""))
    for kind in ("approval", "outcome"):
        op.execute(
            f"UPDATE runs SET waiting_for_kind = '{kind}', waiting_for_ref = substr(waiting_for, {len(kind) + 2})"
            f" WHERE waiting_for LIKE '{kind}:%'"
        )
    op.execute(
        "UPDATE runs SET waiting_for_kind = 'containment', waiting_for_ref = waiting_for"
        " WHERE waiting_for <> '' AND waiting_for_kind IS NULL"
    )
    op.drop_column("runs", "waiting_for")
    columns = ["waiting_for_kind", "waiting_for_ref"]
    op.create_index("ix_runs_waiting_for", "runs", columns, sqlite_where=_WAITS, postgresql_where=_WAITS)


def downgrade() -> None:
    """Put kind and reference back into one text."""
    op.drop_index("ix_runs_waiting_for", "runs")
    op.add_column("runs", sa.Column("waiting_for", sa.String(120), nullable=False, server_default=""))
    op.execute("UPDATE runs SET waiting_for = waiting_for_ref WHERE waiting_for_kind = 'containment'")
    op.execute(
        "UPDATE runs SET waiting_for = waiting_for_kind || ':' || waiting_for_ref"
        " WHERE waiting_for_kind IN ('approval', 'outcome')"
    )
    op.drop_column("runs", "waiting_for_ref")
    op.drop_column("runs", "waiting_for_kind")
