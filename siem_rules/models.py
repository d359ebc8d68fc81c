"""Tables of detection: alerts with their why, comments, and the detector's place in the log.

Log lines themselves are never rows: they lie in segments (`siem_rules.segments`).
"""

import sqlalchemy as sa

from lachan.database import Json, UtcDateTime, metadata

alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    # Hash of rule, group and the event that opened it: the same log never opens the same alert twice.
    sa.Column("key", sa.String(64), nullable=False, unique=True),
    sa.Column("rule_id", sa.String(36), nullable=False),
    sa.Column("rule_title", sa.String(200), nullable=False),
    sa.Column("severity", sa.String(20), nullable=False),
    sa.Column("outcome", sa.String(20), nullable=False),
    sa.Column("tags", Json, nullable=False),
    sa.Column("group_key", sa.String(64), nullable=False),
    sa.Column("group_values", Json, nullable=False),
    sa.Column("device_id", sa.String(36), index=True),
    sa.Column("vendor", sa.String(100), index=True),
    sa.Column("site", sa.String(100)),
    sa.Column("subject", sa.String(200)),
    sa.Column("subject_bound", sa.Boolean, nullable=False),
    sa.Column("senders", Json, nullable=False),
    sa.Column("sources", sa.Integer, nullable=False),
    sa.Column("first_at", UtcDateTime, nullable=False),
    sa.Column("last_at", UtcDateTime, nullable=False),
    # When its lines were delivered; what was delivered after the cut belongs to another alert.
    sa.Column("received_first", UtcDateTime, nullable=False),
    sa.Column("received_last", UtcDateTime, nullable=False),
    sa.Column("cut_at", UtcDateTime),
    sa.Column("matches", sa.Integer, nullable=False),
    sa.Column("why", Json, nullable=False),
    sa.Column("evidence", Json, nullable=False),
    sa.Column("state", sa.String(20), nullable=False, index=True),
    sa.Column("verdict", sa.String(40), nullable=False),
    sa.Column("assignee", sa.String(200), nullable=False),
    sa.Column("merged_into", sa.String(36)),
    sa.Column("created_at", UtcDateTime, nullable=False, index=True),
    sa.Index("ix_alerts_episode", "rule_id", "group_key", "last_at"),
)

alert_comments = sa.Table(
    "alert_comments",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("alert_id", sa.String(36), sa.ForeignKey("alerts.id"), nullable=False, index=True),
    sa.Column("author", sa.String(200), nullable=False),
    sa.Column("text", sa.String(4000), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

#: What the detector forgot for want of room since the installation began; read by the metrics.
forgotten = sa.Table(
    "siem_forgotten",
    metadata,
    sa.Column("what", sa.String(20), primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False, server_default="0"),
)

#: How far the detector has come in each stream, and from where its memory is rebuilt; moves with the alerts.
checkpoints = sa.Table(
    "siem_checkpoints",
    metadata,
    sa.Column("stream", sa.String(60), primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("line", sa.Integer, nullable=False, server_default="0"),  # of the record at that position, already read
    sa.Column("behind", Json, nullable=False, server_default="{}"),  # senders that are behind it, and where they stand
    sa.Column("rebuild_from", sa.BigInteger, nullable=False),
    sa.Column("round", sa.BigInteger, nullable=False, server_default="0"),  # counts the moves: the fence
    sa.Column("updated_at", UtcDateTime, nullable=False),
)
