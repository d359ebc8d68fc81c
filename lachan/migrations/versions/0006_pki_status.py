"""More than one issuing authority; CRLs as files; indexes of what is not in force; serial numbers that were never recorded."""

import sqlalchemy as sa
from alembic import op

from lachan.database import UtcDateTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_NOT_IN_FORCE = sa.text("state <> 'valid'")
_CHANGED = sa.text("revision > 0")


def upgrade() -> None:
    with op.batch_alter_table("pki_authorities") as table:
        table.alter_column("name", type_=sa.String(64), existing_type=sa.String(32), existing_nullable=False)
    op.drop_index("ix_pki_certificates_state", "pki_certificates")
    with op.batch_alter_table("pki_certificates") as table:
        table.add_column(sa.Column("authority", sa.String(64), nullable=False, server_default="issuing"))
        table.add_column(sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"))
        table.drop_constraint("uq_pki_certificates_serial_number", type_="unique")
        table.create_unique_constraint("uq_pki_certificates_serial_number", ["serial_number", "authority"])
    for name, columns, where in (
        ("listed", ["authority", "serial_number", "not_after", "state", "state_since", "reason"], _NOT_IN_FORCE),
        ("ended", ["authority", "not_after", "serial_number"], _NOT_IN_FORCE),
        ("changed", ["authority", "revision", "serial_number"], _CHANGED),
    ):
        index = f"ix_pki_certificates_{name}"
        op.create_index(index, "pki_certificates", columns, sqlite_where=where, postgresql_where=where)
    op.create_table(
        "pki_unrecorded",
        sa.Column("serial_number", sa.String(40), nullable=False),
        sa.Column("authority", sa.String(64), nullable=False),
        sa.Column("since", UtcDateTime(timezone=True), nullable=False),
        sa.Column("not_after", UtcDateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.String(30), nullable=False),
        sa.PrimaryKeyConstraint("serial_number", "authority", name="pk_pki_unrecorded"),
    )
    op.create_index("ix_pki_unrecorded_authority", "pki_unrecorded", ["authority", "not_after"])
    op.create_index("ix_pki_attempts_window_start", "pki_attempts", ["window_start"])
    _crls()
    _revisions()


def _crls() -> None:
    """The next CRL is a file; those that are there stay in their rows until then."""
    with op.batch_alter_table("pki_crls") as table:
        table.alter_column("authority", type_=sa.String(64), existing_type=sa.String(32), existing_nullable=False)
        table.alter_column("crl", existing_type=sa.LargeBinary(), nullable=True)
        table.add_column(sa.Column("file", sa.String(120), nullable=False, server_default=""))
        table.add_column(sa.Column("size", sa.BigInteger, nullable=False, server_default="0"))
        table.add_column(sa.Column("digest", sa.String(64), nullable=False, server_default=""))
    op.execute("UPDATE pki_crls SET size = length(crl)")


def _revisions() -> None:
    """One counter for each authority, not one for all."""
    connection = op.get_bind()
    counted = connection.execute(sa.text("SELECT max(revision) FROM pki_revisions")).scalar()
    op.drop_table("pki_revisions")
    made = op.create_table(
        "pki_revisions",
        sa.Column("authority", sa.String(64), nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("authority", name="pk_pki_revisions"),
    )
    if counted:
        op.bulk_insert(made, [{"authority": "issuing", "revision": counted}])


def downgrade() -> None:
    """Go back to one authority; CRLs that are files are gone with it, the next one is made at once."""
    connection = op.get_bind()
    counted = connection.execute(sa.text("SELECT max(revision) FROM pki_revisions")).scalar()
    op.drop_table("pki_revisions")
    made = op.create_table(
        "pki_revisions",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_pki_revisions"),
    )
    if counted:
        op.bulk_insert(made, [{"id": 1, "revision": counted}])
    op.execute("DELETE FROM pki_crls WHERE crl IS NULL")
    with op.batch_alter_table("pki_crls") as table:
        for name in ("file", "size", "digest"):
            table.drop_column(name)
        table.alter_column("crl", existing_type=sa.LargeBinary(), nullable=False)
    op.drop_index("ix_pki_attempts_window_start", "pki_attempts")
    op.drop_table("pki_unrecorded")
    for name in ("listed", "ended", "changed"):
        op.drop_index(f"ix_pki_certificates_{name}", "pki_certificates")
    with op.batch_alter_table("pki_certificates") as table:
        table.drop_constraint("uq_pki_certificates_serial_number", type_="unique")
        table.drop_column("authority")
        table.drop_column("revision")
        table.create_unique_constraint("uq_pki_certificates_serial_number", ["serial_number"])
    op.create_index("ix_pki_certificates_state", "pki_certificates", ["state", "not_after"])
