"""Tables of the posture room: engagements, declarations, catalogues, assessments, and the present verdict of each row."""

from __future__ import annotations

import sqlalchemy as sa

from lachan.database import Json, UtcDateTime, metadata

engagements = sa.Table(
    "posture_engagements",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("state", sa.String(10), nullable=False),  # requested, approved, stopped
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("targets", Json, nullable=False),  # [{device_id, address}]: the address as it was when asked for
    sa.Column("networks", Json, nullable=False),
    sa.Column("ports", Json, nullable=False),
    sa.Column("methods", Json, nullable=False),
    sa.Column("not_before", UtcDateTime, nullable=False),
    sa.Column("not_after", UtcDateTime, nullable=False),
    sa.Column("rate", sa.Float, nullable=False),
    sa.Column("burst", sa.Integer, nullable=False),
    sa.Column("loopback", sa.Boolean, nullable=False),
    sa.Column("lockout", sa.Boolean, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),  # over all of the above but the state
    sa.Column("requested_by", sa.String(200), nullable=False),
    sa.Column("requester_id", sa.String(60), nullable=False, server_default=""),
    sa.Column("requested_at", UtcDateTime, nullable=False),
    sa.Column("approved_by", sa.String(200)),
    sa.Column("approved_digest", sa.String(64)),
    sa.Column("approved_at", UtcDateTime),
    sa.Column("stopped_by", sa.String(200)),
    sa.Column("stopped_at", UtcDateTime),
    sa.Column("stop_reason", sa.Text),
)
declarations = sa.Table(
    "posture_declarations",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("vendor", sa.String(100), nullable=False),
    sa.Column("model", sa.String(100), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("document", Json, nullable=False),
    sa.Column("uploaded_by", sa.String(200), nullable=False),
    sa.Column("uploaded_at", UtcDateTime, nullable=False),
    sa.Index("ix_posture_declarations_model", "vendor", "model"),
)
catalogues = sa.Table(
    "posture_catalogues",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("document", Json, nullable=False),
    sa.Column("first_used_at", UtcDateTime, nullable=False),
)
assessments = sa.Table(
    "posture_assessments",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("device_id", sa.String(36), sa.ForeignKey("devices.id"), nullable=False),
    sa.Column("engagement_id", sa.String(36)),
    sa.Column("declaration_id", sa.String(36)),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("as_of", sa.Date, nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("assessed_at", UtcDateTime, nullable=False),
    sa.Column("catalogue", sa.String(64), sa.ForeignKey("posture_catalogues.hash"), nullable=False),
    sa.Column("merkle_root", sa.String(64), nullable=False),
    sa.Column("counts", Json, nullable=False),
    sa.Column("rows", Json, nullable=False),  # the verdicts as canonical JSON texts, in the order of the tree's leaves
    sa.Column("observations", Json, nullable=False),
    sa.Index("ix_posture_assessments_device", "device_id", "started_at"),
)
# Verdicts that can expire; as it stands here it must stand in the query, or the index is not used.
KNOWN = sa.text("result <> 'unknown'")

verdicts = sa.Table(
    "posture_verdicts",
    metadata,
    sa.Column("device_id", sa.String(36), sa.ForeignKey("devices.id"), primary_key=True),
    sa.Column("criterion", sa.String(20), primary_key=True),
    sa.Column("result", sa.String(16), nullable=False),
    sa.Column("reason", sa.String(40), nullable=False),
    sa.Column("basis", sa.String(16), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("evidence", Json, nullable=False),
    sa.Column("valid_until", UtcDateTime),
    sa.Column("assessment_id", sa.String(36), nullable=False),
    sa.Column("since", UtcDateTime, nullable=False),
    sa.Index("ix_posture_verdicts_expiring", "valid_until", sqlite_where=KNOWN, postgresql_where=KNOWN),
)
