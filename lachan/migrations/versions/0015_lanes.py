"""Due work waits in lanes, senders take turns, and what is put off or leased is found by an index of its own."""

import sqlalchemy as sa
from alembic import op

import lachan.database

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

URGENT = ("soar.run", "soar.verify", "soar.enforce", "soar.expire", "soar.undo")
SLOW = ("soar.webhook", "devices.import", "ota.sign", "ota.tuf.publish", "posture.assess")
PARTIAL = {
    "ix_jobs_ready": (
        ["lane", "rank", "vendor", "sender", "turn_at"],
        "state = 'open' AND lease_until IS NULL AND turn_at IS NOT NULL",
    ),
    "ix_jobs_put_off": (["lane", "due_at"], "state = 'open' AND lease_until IS NULL AND turn_at IS NULL"),
    "ix_jobs_leased": (["lease_until"], "lease_until IS NOT NULL"),
    "ix_jobs_due": (["lane", "due_at"], "state = 'open'"),
    "ix_jobs_given_up": (["kind"], "state = 'poisoned'"),
}


def upgrade() -> None:
    """Add what orders due work; what waits already falls due by its time, in the lane of its kind."""
    op.drop_index("ix_jobs_due", "jobs")
    texts = {"lane": (10, "ordinary"), "vendor": (100, ""), "site": (100, ""), "sender": (200, "")}
    for name, (length, default) in texts.items():
        op.add_column("jobs", sa.Column(name, sa.String(length), nullable=False, server_default=default))
    for name, default in {"rank": "1", "severity": "0"}.items():
        op.add_column("jobs", sa.Column(name, sa.SmallInteger(), nullable=False, server_default=default))
    for name in ("set_at", "turn_at"):
        op.add_column("jobs", sa.Column(name, lachan.database.UtcDateTime(timezone=True)))
    for lane, kinds in {"urgent": URGENT, "slow": SLOW}.items():
        op.execute(f"UPDATE jobs SET lane = '{lane}' WHERE kind IN ({', '.join(map(repr, kinds))})")
    op.execute("UPDATE jobs SET lane = 'urgent' WHERE kind LIKE 'event:soar!_playbooks%' ESCAPE '!'")
    for name, (columns, where) in PARTIAL.items():
        op.create_index(name, "jobs", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade() -> None:
    """Take it away; everything waits in one line again."""
    for name in PARTIAL:
        op.drop_index(name, "jobs")
    for name in ("lane", "vendor", "site", "sender", "rank", "severity", "set_at", "turn_at"):
        op.drop_column("jobs", name)
    op.create_index("ix_jobs_due", "jobs", ["state", "due_at"])
