"""Tables of the PKI: authorities, certificates, holds, enrolment secrets, attempts, published CRLs."""

import sqlalchemy as sa

from lachan.database import UtcDateTime, metadata

authorities = sa.Table(
    "pki_authorities",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),  # root, issuing, and each service profile
    sa.Column("certificate", sa.LargeBinary, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

certificates = sa.Table(
    "pki_certificates",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("serial_number", sa.String(40), nullable=False, unique=True),  # lower-case hex
    sa.Column("device_id", sa.String(36), sa.ForeignKey("devices.id"), index=True),  # none: a door's or a service's
    sa.Column("profile", sa.String(32), nullable=False),
    sa.Column("subject", sa.String(300), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False, unique=True),  # SHA-256 of the DER, hex
    sa.Column("spki_sha256", sa.String(64), nullable=False, index=True),
    sa.Column("certificate", sa.LargeBinary, nullable=False),
    sa.Column("not_before", UtcDateTime, nullable=False),
    sa.Column("not_after", UtcDateTime, nullable=False),
    sa.Column("state", sa.String(10), nullable=False),  # State below
    sa.Column("state_since", UtcDateTime, nullable=False),
    sa.Column("state_version", sa.Integer, nullable=False, server_default="0"),
    sa.Column("reason", sa.String(30), nullable=False, server_default=""),
    sa.Column("issued_at", UtcDateTime, nullable=False),
    sa.Index("ix_pki_certificates_state", "state", "not_after"),
)

# Who holds a suspended certificate: "request" (a person or platform asked) or "containment" (the enforcement point did).
# It is in force again when nobody holds it any more.
holds = sa.Table(
    "pki_holds",
    metadata,
    sa.Column("certificate_id", sa.String(36), sa.ForeignKey("pki_certificates.id"), primary_key=True),
    sa.Column("holder", sa.String(20), primary_key=True),
    sa.Column("reason", sa.String(200), nullable=False),
    sa.Column("by", sa.String(200), nullable=False),
    sa.Column("since", UtcDateTime, nullable=False),
)

secrets = sa.Table(
    "pki_enrolment_secrets",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("device_id", sa.String(36), sa.ForeignKey("devices.id"), nullable=False, index=True),
    sa.Column("profile", sa.String(32), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),  # HMAC-SHA-256 under a pepper kept outside
    sa.Column("issued_by", sa.String(200), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("consumed_at", UtcDateTime),
    sa.Column("certificate_id", sa.String(36), sa.ForeignKey("pki_certificates.id")),
)

attempts = sa.Table(
    "pki_attempts",
    metadata,
    sa.Column("who", sa.String(120), primary_key=True),  # name:<SHA-256>, address:<ip> or refused:<device id>
    sa.Column("window_start", UtcDateTime, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
)

crls = sa.Table(
    "pki_crls",
    metadata,
    sa.Column("authority", sa.String(32), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("crl", sa.LargeBinary, nullable=False),
    sa.Column("this_update", UtcDateTime, nullable=False),
    sa.Column("next_update", UtcDateTime, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
)

# One row: counts every change of a certificate's state, so that a CRL knows whether it has seen them all.
revisions = sa.Table(
    "pki_revisions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
)
