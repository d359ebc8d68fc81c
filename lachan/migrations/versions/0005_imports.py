"""An import of devices is a row, what its chunks refused another: it is validated whole and applied chunk by chunk."""

import sqlalchemy as sa
from alembic import op

from lachan.database import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "imports",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("vendor", sa.String(length=100), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("open_key", sa.String(length=64), nullable=True),
        sa.Column("request_key", sa.String(length=64), nullable=True),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("accepted", sa.Integer(), nullable=False),
        sa.Column("rejected", sa.Integer(), nullable=False),
        sa.Column("chunk", sa.Integer(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("peaks", sa.LargeBinary(), nullable=False),
        sa.Column("merkle_root", sa.String(length=64), nullable=True),
        sa.Column("created_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("finished_at", UtcDateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imports")),
        sa.UniqueConstraint("open_key", name=op.f("uq_imports_open_key")),
        sa.UniqueConstraint("request_key", name=op.f("uq_imports_request_key")),
    )
    op.create_index(op.f("ix_imports_finished_at"), "imports", ["finished_at"])
    op.create_table(
        "import_refusals",
        sa.Column("import_id", sa.String(length=36), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("column", sa.String(length=80), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["import_id"], ["imports.id"], name=op.f("fk_import_refusals_import_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("import_id", "row", name=op.f("pk_import_refusals")),
    )


def downgrade() -> None:
    """Drop them; imports that are open are forgotten where they stand."""
    op.drop_table("import_refusals")
    op.drop_table("imports")
