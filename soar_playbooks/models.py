"""Tables: playbooks and their signers, runs and their journal, containments and what was driven to them.

Runs and containments are state; what was decided is in the ledger. The partial unique index lets a device have one open
containment, whoever races for it.
"""

import sqlalchemy as sa

from lachan.database import Json, UtcDateTime, metadata

playbook_signers = sa.Table(
    "playbook_signers",
    metadata,
    sa.Column("thumbprint", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("public_key", sa.Text, nullable=False),
    sa.Column("added_by", sa.String(200), nullable=False),
    sa.Column("added_at", UtcDateTime, nullable=False),
    sa.Column("revoked_at", UtcDateTime),
)

playbooks = sa.Table(
    "playbooks",
    metadata,
    sa.Column("id", sa.String(60), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("version", sa.String(40), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("file", sa.String(200), nullable=False),
    sa.Column("mode", sa.String(10), nullable=False),
    sa.Column("loaded_by", sa.String(200), nullable=False),
    sa.Column("loaded_at", UtcDateTime, nullable=False),
)

playbook_versions = sa.Table(
    "playbook_versions",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("playbook_id", sa.String(60), nullable=False, index=True),
    sa.Column("version", sa.String(40), nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("signer", sa.String(64), nullable=False),
    sa.Column("loaded_at", UtcDateTime, nullable=False),
)

_WAITS = sa.text("waiting_for_kind IS NOT NULL")
_ENDS = sa.text("state <> 'ended'")
GOES = sa.text("state IN ('ready', 'running')")  # as it stands here it must stand in the query of `triggers.sweep`
runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("playbook_id", sa.String(60), nullable=False),
    sa.Column("playbook_name", sa.String(200), nullable=False),
    sa.Column("playbook_version", sa.String(40), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("mode", sa.String(10), nullable=False),
    sa.Column("event_id", sa.String(36), nullable=False),
    sa.Column("alert_id", sa.String(36), nullable=False, server_default=""),
    sa.Column("device_id", sa.String(36), index=True),
    sa.Column("vendor", sa.String(100), index=True),
    sa.Column("facts", Json, nullable=False),
    sa.Column("variables", Json, nullable=False),
    sa.Column("state", sa.String(10), nullable=False, index=True),
    sa.Column("step", sa.String(60), nullable=False),
    sa.Column("fence", sa.Integer, nullable=False, server_default="0"),
    sa.Column("occurrence", sa.Integer, nullable=False, server_default="1"),
    sa.Column("follow_up", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("waiting_for_kind", sa.String(12)),
    sa.Column("waiting_for_ref", sa.String(120), nullable=False, server_default=""),
    sa.Column("guard", sa.String(40), nullable=False, server_default=""),
    sa.Column("needed", sa.Integer, nullable=False, server_default="0"),
    sa.Column("plan", Json),
    sa.Column("outcome", sa.String(20), nullable=False, server_default=""),
    sa.Column("error", sa.Text, nullable=False, server_default=""),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime),
    sa.UniqueConstraint("event_id", "playbook_id", name="uq_runs_event_id_playbook_id"),
    sa.Index("ix_runs_playbook_version", "playbook_id", "playbook_version", "digest"),
    sa.Index(
        "ix_runs_waiting_for", "waiting_for_kind", "waiting_for_ref", sqlite_where=_WAITS, postgresql_where=_WAITS
    ),
    sa.Index(
        "uq_runs_open_device_playbook",
        "device_id",
        "playbook_id",
        unique=True,
        sqlite_where=_ENDS,
        postgresql_where=_ENDS,
    ),
    sa.Index("ix_runs_idle", "state", "updated_at", sqlite_where=GOES, postgresql_where=GOES),
)

# Alerts that joined a run which another one had begun; of a flood only as many as people are shown.
run_alerts = sa.Table(
    "run_alerts",
    metadata,
    sa.Column("run_id", sa.String(36), sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("alert_id", sa.String(36), primary_key=True, index=True),
    sa.Column("at", UtcDateTime, nullable=False),
)

run_journal = sa.Table(
    "run_journal",
    metadata,
    sa.Column("run_id", sa.String(36), sa.ForeignKey("runs.id"), primary_key=True),
    sa.Column("step_id", sa.String(60), primary_key=True),
    sa.Column("occurrence", sa.Integer, primary_key=True, autoincrement=False, server_default="1"),
    sa.Column("phase", sa.String(8), primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("body", Json, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
)

approvals = sa.Table(
    "soar_approvals",
    metadata,
    sa.Column("subject_id", sa.String(120), primary_key=True),
    sa.Column("kind", sa.String(20), primary_key=True),
    sa.Column("person_id", sa.String(60), primary_key=True),
    sa.Column("person", sa.String(200), nullable=False),
    sa.Column("session", sa.String(60), nullable=False),
    sa.Column("decision", sa.String(10), nullable=False),
    sa.Column("note", sa.Text, nullable=False, server_default=""),
    sa.Column("shown", sa.String(64), nullable=False, server_default=""),
    sa.Column("at", UtcDateTime, nullable=False),
)

_OPEN = sa.text("state IN ('waiting', 'active')")
containments = sa.Table(
    "containments",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("device_id", sa.String(36), sa.ForeignKey("devices.id"), nullable=False),
    sa.Column("vendor", sa.String(100), nullable=False, index=True),
    sa.Column("site", sa.String(100), nullable=False, index=True),
    sa.Column("state", sa.String(10), nullable=False, index=True),
    sa.Column("level", sa.String(12), nullable=False),
    sa.Column("wanted", sa.String(12), nullable=False),
    sa.Column("guard", sa.String(40), nullable=False, server_default=""),
    sa.Column("guard_reason", sa.Text, nullable=False, server_default=""),
    sa.Column("needed", sa.Integer, nullable=False, server_default="0"),
    sa.Column("round", sa.Integer, nullable=False, server_default="1"),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("run_id", sa.String(36), nullable=False, server_default=""),
    sa.Column("alert_id", sa.String(36), nullable=False, server_default=""),
    sa.Column("requested_by", sa.String(200), nullable=False),
    sa.Column("requester_id", sa.String(60), nullable=False, server_default=""),
    sa.Column("until", UtcDateTime),
    sa.Column("longer", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("longer_seconds", sa.Integer),
    sa.Column("counted", Json, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("since", UtcDateTime),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("ended_by", sa.String(200), nullable=False, server_default=""),
    sa.Index("uq_containments_open_device", "device_id", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
)

containment_budgets = sa.Table(
    "containment_budgets",
    metadata,
    sa.Column("scope", sa.String(300), primary_key=True),
    sa.Column("active", sa.Integer, nullable=False, server_default="0"),
)

kill_switch = sa.Table(
    "soar_kill_switch",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("by", sa.String(200), nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
)

# Rows that the reconciler compares at every look: what is driven to a point now, and what is on its way there or back. As it
# stands here it must stand in the query, or the index is not used.
LIVE = sa.text("(wanted IS NOT NULL OR state = 'pending')")

enforcements = sa.Table(
    "enforcements",
    metadata,
    sa.Column("device_id", sa.String(36), sa.ForeignKey("devices.id"), primary_key=True),
    sa.Column("point", sa.String(60), primary_key=True),
    sa.Column("containment_id", sa.String(36), nullable=False),
    sa.Column("wanted", sa.String(12)),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("intent", sa.String(36), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("evidence", Json),
    sa.Column("last_error", sa.Text, nullable=False, server_default=""),
    sa.Column("updated_at", UtcDateTime, nullable=False),
    sa.Index("ix_enforcements_live", "point", "device_id", sqlite_where=LIVE, postgresql_where=LIVE),
)

webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("kind", sa.String(60), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("last_status", sa.Integer),
    sa.Column("last_error", sa.Text, nullable=False, server_default=""),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("updated_at", UtcDateTime, nullable=False),
)

webhook_receivers = sa.Table(
    "webhook_receivers",
    metadata,
    sa.Column("url", sa.String(2000), primary_key=True),
    sa.Column("gone_at", UtcDateTime),
    sa.Column("not_before", UtcDateTime),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("updated_at", UtcDateTime, nullable=False),
)
