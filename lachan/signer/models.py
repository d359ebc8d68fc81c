"""Tables of the signer's two helpers; the signer's own memory is files in its folder, never rows."""

import sqlalchemy as sa

from lachan.database import metadata

delivered = sa.Table(
    "signer_delivered",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True, comment="log line whose refusal is in the outbox"),
)

reconciled = sa.Table(
    "signer_reconciled",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column(
        "position", sa.BigInteger, nullable=False, comment="byte of the signer's log up to which it was compared"
    ),
)
