"""One open run per device and playbook, that alerts join; a run has no lease, and idle ones are found by index."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_OPEN = sa.text("state <> 'ended'")
_GOES = sa.text("state IN ('ready', 'running')")


def upgrade() -> None:
    """Add what is new; of several open runs of a device and playbook the oldest goes on."""
    op.add_column("runs", sa.Column("occurrence", sa.Integer, nullable=False, server_default="1"))
    op.add_column("runs", sa.Column("follow_up", sa.Boolean, nullable=False, server_default=sa.false()))
    op.drop_column("runs", "lease_until")
    op.execute(
        "UPDATE runs SET state = 'ended', outcome = 'failed', ended_at = updated_at, waiting_for_kind = NULL,"
        " waiting_for_ref = '', guard = '', needed = 0, error = 'an earlier run of the same device and playbook goes on'"
        " WHERE state <> 'ended' AND EXISTS (SELECT 1 FROM runs AS earlier WHERE earlier.device_id = runs.device_id"
        " AND earlier.playbook_id = runs.playbook_id AND earlier.state <> 'ended' AND earlier.id < runs.id)"
    )
    op.create_index(
        "uq_runs_open_device_playbook", "runs", ["device_id", "playbook_id"], unique=True, sqlite_where=_OPEN,
        postgresql_where=_OPEN,
    )  # fmt: skip
    op.create_index("ix_runs_idle", "runs", ["state", "updated_at"], sqlite_where=_GOES, postgresql_where=_GOES)
    op.create_table(
        "run_alerts",
        sa.Column("run_id", sa.String(36), sa.ForeignKey("runs.id", name="fk_run_alerts_run_id"), primary_key=True),
        sa.Column("alert_id", sa.String(36), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_run_alerts_alert_id", "run_alerts", ["alert_id"])


def downgrade() -> None:
    """Take it back."""
    op.drop_table("run_alerts")
    op.drop_index("ix_runs_idle", "runs")
    op.drop_index("uq_runs_open_device_playbook", "runs")
    op.add_column("runs", sa.Column("lease_until", sa.DateTime(timezone=True)))
    op.drop_column("runs", "follow_up")
    op.drop_column("runs", "occurrence")
