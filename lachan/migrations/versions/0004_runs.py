"""Changes of the schema: a journal entry has an occurrence; the versions of a playbook that ran are found by an index."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the occurrence a part of the key; what was done so far was done once."""
    with op.batch_alter_table("run_journal") as table:
        table.add_column(sa.Column("occurrence", sa.Integer(), server_default="1", nullable=False))
        table.drop_constraint("pk_run_journal", type_="primary")
        table.create_primary_key("pk_run_journal", ["run_id", "step_id", "occurrence", "phase"])
    op.create_index("ix_runs_playbook_version", "runs", ["playbook_id", "playbook_version", "digest"])


def downgrade() -> None:
    """Take it back; entries of later occurrences would be twice there and are left out."""
    op.drop_index("ix_runs_playbook_version", "runs")
    op.execute(sa.text("DELETE FROM run_journal WHERE occurrence > 1"))
    with op.batch_alter_table("run_journal") as table:
        table.drop_constraint("pk_run_journal", type_="primary")
        table.drop_column("occurrence")
        table.create_primary_key("pk_run_journal", ["run_id", "step_id", "phase"])
