"""Tables of the doors: answers kept for repeated writes, what each device door knows, vendors' trust anchors."""

import sqlalchemy as sa

from lachan.database import Json, UtcDateTime, metadata

# One row per Idempotency-Key and principal. `status` is empty while the first request is still under way.
idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("principal", sa.String(120), primary_key=True),
    sa.Column("key", sa.String(64), primary_key=True),  # SHA-256 of what the client sent
    sa.Column("request", sa.String(64), nullable=False),  # SHA-256 of method, path, query and body
    sa.Column("status", sa.Integer),
    sa.Column("headers", Json),
    sa.Column("body", sa.LargeBinary),
    sa.Column("created_at", UtcDateTime, nullable=False, index=True),
)

# One row per running door process: the changes of trust that it acts on (`lachan.trust.Horizon`), and when it last said so.
door_status = sa.Table(
    "door_status",
    metadata,
    sa.Column("door", sa.String(36), primary_key=True),
    sa.Column("position", sa.Text, nullable=False),
    sa.Column("seen_at", UtcDateTime, nullable=False),
)

# The connections that a door closed, summed up per device since the door started.
door_closed = sa.Table(
    "door_closed",
    metadata,
    sa.Column("door", sa.String(36), primary_key=True),
    sa.Column("device_id", sa.String(36), primary_key=True),
    sa.Column("connections", sa.Integer, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),  # of the changes that it acted on by then
    sa.Column("closed_at", UtcDateTime, nullable=False),
)

# What the enforcement point `device-door` was told, so that it can verify after a restart of whoever told it.
door_orders = sa.Table(
    "door_orders",
    metadata,
    sa.Column("device_id", sa.String(36), primary_key=True),
    sa.Column("level", sa.String(12), nullable=False),
    sa.Column("intent", sa.String(80), nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),  # of the change of trust that it came with
    sa.Column("ordered_at", UtcDateTime, nullable=False),
)

# Authorities of manufacturers whose certificates the device door takes, for devices of that manufacturer only.
door_anchors = sa.Table(
    "door_anchors",
    metadata,
    sa.Column("fingerprint", sa.String(64), primary_key=True),
    sa.Column("vendor", sa.String(100), nullable=False),
    sa.Column("certificate", sa.LargeBinary, nullable=False),
    sa.Column("added_at", UtcDateTime, nullable=False),
    sa.Column(
        "exceptions", sa.String(400), nullable=False, server_default=""
    ),  # words of api.device.paths.Rule, by spaces
)
