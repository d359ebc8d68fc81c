"""Tables of this room: artifacts, releases, the slots they are listed in, approvals, install reports."""

import sqlalchemy as sa

from lachan.database import UtcDateTime, metadata

artifacts = sa.Table(
    "ota_artifacts",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("vendor", sa.String(100), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("length", sa.BigInteger, nullable=False),
    sa.Column("uploaded_by", sa.String(200), nullable=False),
    sa.Column("uploaded_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("vendor", "sha256", name="uq_ota_artifacts_content"),
)

releases = sa.Table(
    "ota_releases",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("vendor", sa.String(100), nullable=False),
    sa.Column("model", sa.String(100), nullable=False),
    sa.Column("version", sa.String(100), nullable=False),
    sa.Column("artifact_id", sa.ForeignKey("ota_artifacts.id"), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("length", sa.BigInteger, nullable=False),
    sa.Column("approvals_needed", sa.Integer, nullable=False),
    sa.Column("downgrade", sa.Boolean, nullable=False),
    sa.Column("notes", sa.Text, nullable=False, server_default=""),
    sa.Column("proposer", sa.String(200), nullable=False),
    sa.Column("proposer_id", sa.String(36), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("target_path", sa.String(400), nullable=False),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("state", sa.String(12), nullable=False),
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
    sa.Column("signature", sa.LargeBinary),
    sa.Column("listed", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("proposed_at", UtcDateTime, nullable=False),
    sa.Column("signed_at", UtcDateTime),
    sa.Column("published_at", UtcDateTime),
    sa.UniqueConstraint("vendor", "model", "version", name="uq_ota_releases_version"),
    sa.Index("ix_ota_releases_current", "vendor", "model", "state", "published_at"),
    sa.Index("ix_ota_releases_slot", "slot", "state"),
)

slots = sa.Table(
    "ota_slots",
    metadata,
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("published", sa.BigInteger, nullable=False),
)

approvals = sa.Table(
    "ota_approvals",
    metadata,
    sa.Column("release_id", sa.ForeignKey("ota_releases.id"), primary_key=True),
    sa.Column("person_id", sa.String(36), primary_key=True),
    sa.Column("person", sa.String(200), nullable=False),
    sa.Column("session", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("event_id", sa.String(36), nullable=False),
    sa.Column("approved_at", UtcDateTime, nullable=False),
)

installs = sa.Table(
    "ota_installs",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("device_id", sa.String(36), nullable=False),
    sa.Column("release_id", sa.ForeignKey("ota_releases.id"), nullable=False),
    sa.Column("version", sa.String(100), nullable=False),
    sa.Column("outcome", sa.String(12), nullable=False),
    sa.Column("detail", sa.Text, nullable=False, server_default=""),
    sa.Column("reported_at", UtcDateTime, nullable=False),
    sa.Index("ix_ota_installs_device", "device_id", "reported_at"),
)
