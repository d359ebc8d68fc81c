"""Doors follow changes of trust by their keys (ADR 0031); the one version that every change wanted is gone."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_CONTAINED = sa.text("answer IN ('quarantine', 'deny')")
_SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """A running door begins anew with what stands, so nothing is carried over."""
    op.create_table(
        "trust_changes",
        sa.Column("id", _SERIAL, autoincrement=True, nullable=False),
        sa.Column("txid", sa.BigInteger, server_default="0", nullable=False),
        sa.Column("device_id", sa.String(36)),
        sa.Column("tbs_sha256", sa.String(64)),
        sa.Column("issuer_serial", sa.String(64)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trust_changes")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_trust_changes_txid", "trust_changes", ["txid", "id"])
    op.create_index("ix_trust_changes_device_id", "trust_changes", ["device_id"])
    op.create_table(
        "trust_pruned",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("next", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trust_pruned")),
    )
    op.drop_table("trust_version")
    for column in ("device_id", "issuer_serial"):
        op.create_index(f"ix_trust_refused_certificates_{column}", "trust_refused_certificates", [column])
    op.create_index(
        "ix_trust_signals_contained", "trust_signals", ["device_id", "until"], sqlite_where=_CONTAINED,
        postgresql_where=_CONTAINED,
    )  # fmt: skip
    op.execute("DELETE FROM door_status")
    with op.batch_alter_table("door_status") as batch:
        batch.drop_column("snapshot_version")
        batch.add_column(sa.Column("position", sa.Text, nullable=False))
    with op.batch_alter_table("door_closed") as batch:
        batch.alter_column("snapshot_version", new_column_name="number", existing_type=sa.BigInteger)
    op.execute("UPDATE door_closed SET number = 0")
    with op.batch_alter_table("door_orders") as batch:
        batch.alter_column("version", new_column_name="number", existing_type=sa.BigInteger)
    op.execute("UPDATE door_orders SET number = 0")  # every door that begins has seen them


def downgrade() -> None:
    """Back to one version, bumped by every change."""
    with op.batch_alter_table("door_orders") as batch:
        batch.alter_column("number", new_column_name="version", existing_type=sa.BigInteger)
    with op.batch_alter_table("door_closed") as batch:
        batch.alter_column("number", new_column_name="snapshot_version", existing_type=sa.BigInteger)
    op.execute("DELETE FROM door_status")
    with op.batch_alter_table("door_status") as batch:
        batch.drop_column("position")
        batch.add_column(sa.Column("snapshot_version", sa.BigInteger, nullable=False))
    op.drop_index("ix_trust_signals_contained", "trust_signals")
    for column in ("device_id", "issuer_serial"):
        op.drop_index(f"ix_trust_refused_certificates_{column}", "trust_refused_certificates")
    op.create_table(
        "trust_version",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trust_version")),
    )
    op.drop_table("trust_pruned")
    op.drop_table("trust_changes")
