"""Doors refuse certificates by what their issuer signed, not by the hash of bytes that a stranger can vary.

The list is made again from the certificates on hold or revoked: one kind of key does not tell the other.
"""

import hashlib

import sqlalchemy as sa
from alembic import op
from cryptography import x509

from lachan.database import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NAME = "trust_refused_certificates"
certificates = sa.table(
    "pki_certificates",
    *[sa.column(name) for name in ("certificate", "fingerprint", "device_id", "state")],
    sa.column("not_after", UtcDateTime(timezone=True)),
)


def upgrade() -> None:
    """Give the list its new keys."""
    columns = [sa.Column(name, sa.String(length=64), nullable=False) for name in ("tbs_sha256", "issuer_serial")]
    refused = _new_table(*columns)
    connection = op.get_bind()
    for row in connection.execute(_refused()).all():
        certificate = x509.load_der_x509_certificate(row.certificate)
        named = certificate.issuer.public_bytes() + f"{certificate.serial_number:x}".encode()
        keys = {
            "tbs_sha256": hashlib.sha256(certificate.tbs_certificate_bytes).hexdigest(),
            "issuer_serial": hashlib.sha256(named).hexdigest(),
        }
        connection.execute(refused.insert().values(**keys, **_rest(row)))


def downgrade() -> None:
    """Give the list its old key back."""
    refused = _new_table(sa.Column("fingerprint", sa.String(length=64), nullable=False))
    connection = op.get_bind()
    for row in connection.execute(_refused()).all():
        connection.execute(refused.insert().values(fingerprint=row.fingerprint, **_rest(row)))


def _new_table(*keys: sa.Column[str]) -> sa.Table:
    op.drop_table(NAME)
    return op.create_table(
        NAME,
        *keys,
        sa.Column("device_id", sa.String(length=36), nullable=False),
        sa.Column("reason", sa.String(length=20), nullable=False),
        sa.Column("until", UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint(keys[0].name, name=op.f("pk_trust_refused_certificates")),
    )


def _refused() -> sa.Select[tuple[object, ...]]:
    return sa.select(certificates).where(certificates.c.state != "valid", certificates.c.device_id.is_not(None))


def _rest(row: sa.Row[tuple[object, ...]]) -> dict[str, object]:
    reason = "suspended" if row.state == "held" else "revoked"
    return {"device_id": row.device_id, "reason": reason, "until": row.not_after}
