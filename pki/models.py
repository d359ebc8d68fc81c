"""Tables of the PKI: authorities, certificates, holds, enrolment secrets, attempts, published CRLs.

The indexes of certificates that are *not* in force are partial: an issued certificate costs them nothing, and what reads
them (CRLs, OCSP) never walks over those in force.
"""

import sqlalchemy as sa

from lachan.database import UtcDateTime, metadata

authorities = sa.Table(
    "pki_authorities",
    metadata,
    sa.Column(
        "name", sa.String(64), primary_key=True
    ),  # root, issuing (issuing-2 …), and each service (pki.authorities)
    sa.Column("certificate", sa.LargeBinary, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

_NOT_IN_FORCE = sa.text("state <> 'valid'")  # as it stands here it must stand in the query, or no index is used
_CHANGED = sa.text("revision > 0")

certificates = sa.Table(
    "pki_certificates",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("authority", sa.String(64), nullable=False, server_default="issuing"),  # pki_authorities.name, the issuer
    sa.Column("serial_number", sa.String(40), nullable=False),  # lower-case hex, unique within its authority
    sa.Column("device_id", sa.String(36), sa.ForeignKey("devices.id"), index=True),  # none: a door's or a service's
    sa.Column("profile", sa.String(32), nullable=False),
    sa.Column("subject", sa.String(300), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False, unique=True),  # SHA-256 of the DER, hex
    sa.Column("spki_sha256", sa.String(64), nullable=False, index=True),
    sa.Column("certificate", sa.LargeBinary, nullable=False),
    sa.Column("not_before", UtcDateTime, nullable=False),
    sa.Column("not_after", UtcDateTime, nullable=False),
    sa.Column("state", sa.String(10), nullable=False),  # pki.states.CertificateState
    sa.Column("state_since", UtcDateTime, nullable=False),
    sa.Column("state_version", sa.Integer, nullable=False, server_default="0"),
    sa.Column("reason", sa.String(30), nullable=False, server_default=""),
    sa.Column("issued_at", UtcDateTime, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"),  # the authority's, at the last change
    sa.Column("shown_at", UtcDateTime),  # when it was first shown at the device door (pki.replacing)
    sa.Column("clone_at", UtcDateTime),  # when it was last told that it was shown although it is replaced
    sa.UniqueConstraint("serial_number", "authority"),
    sa.Index(
        "ix_pki_certificates_listed", "authority", "serial_number", "not_after", "state", "state_since", "reason",
        sqlite_where=_NOT_IN_FORCE, postgresql_where=_NOT_IN_FORCE,
    ),
    sa.Index(
        "ix_pki_certificates_ended", "authority", "not_after", "serial_number",
        sqlite_where=_NOT_IN_FORCE, postgresql_where=_NOT_IN_FORCE,
    ),
    sa.Index(
        "ix_pki_certificates_changed", "authority", "revision", "serial_number",
        sqlite_where=_CHANGED, postgresql_where=_CHANGED,
    ),
)  # fmt: skip

# Serial numbers that the signer used and that no row of `certificates` will ever have: a crash came between (close_unrecorded).
unrecorded = sa.Table(
    "pki_unrecorded",
    metadata,
    sa.Column("serial_number", sa.String(40), primary_key=True),  # lower-case hex
    sa.Column("authority", sa.String(64), primary_key=True),
    sa.Column("since", UtcDateTime, nullable=False),
    sa.Column("not_after", UtcDateTime, nullable=False),  # the certificate cannot be valid any longer than this
    sa.Column("reason", sa.String(30), nullable=False),
    sa.Index("ix_pki_unrecorded_authority", "authority", "not_after"),
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
    sa.Index("ix_pki_attempts_window_start", "window_start"),
)

# A CRL is a blob; the root's, made by the ceremony, in its row.
crls = sa.Table(
    "pki_crls",
    metadata,
    sa.Column("authority", sa.String(64), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("crl", sa.LargeBinary),
    sa.Column("file", sa.String(120), nullable=False, server_default=""),  # its name in pki.crl.store
    sa.Column("size", sa.BigInteger, nullable=False, server_default="0"),  # octets
    sa.Column("digest", sa.String(64), nullable=False, server_default=""),  # SHA-256 of the part signed, hex
    sa.Column("this_update", UtcDateTime, nullable=False),
    sa.Column("next_update", UtcDateTime, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
)

# Counts every change of the state of an authority's certificates, so that a CRL knows whether it has seen them all.
revisions = sa.Table(
    "pki_revisions",
    metadata,
    sa.Column("authority", sa.String(64), primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
)
