"""Releases are listed in hashed bins: each has its slot, and a slot counts its changes."""

import hashlib

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

releases = sa.table("ota_releases", sa.column("id"), sa.column("target_path"), sa.column("slot", sa.Integer))


def upgrade() -> None:
    """Give the releases that are there their slots; the next refresh makes all bins."""
    made = op.create_table(
        "ota_slots",
        sa.Column("slot", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("published", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("slot", name=op.f("pk_ota_slots")),
    )
    with op.batch_alter_table("ota_releases") as table:
        table.add_column(sa.Column("slot", sa.Integer(), nullable=False, server_default="0"))
    connection, used = op.get_bind(), set()
    for row in connection.execute(sa.select(releases.c.id, releases.c.target_path)).all():
        slot = hashlib.sha256(row.target_path.encode()).digest()[0]
        used.add(slot)
        connection.execute(releases.update().where(releases.c.id == row.id).values(slot=slot))
    if used:
        op.bulk_insert(made, [{"slot": slot, "revision": 1, "published": 0} for slot in sorted(used)])
    with op.batch_alter_table("ota_releases") as table:
        table.alter_column("slot", existing_type=sa.Integer(), server_default=None)
        table.create_index("ix_ota_releases_slot", ["slot", "state"])


def downgrade() -> None:
    """Forget the slots."""
    with op.batch_alter_table("ota_releases") as table:
        table.drop_index("ix_ota_releases_slot")
        table.drop_column("slot")
    op.drop_table("ota_slots")
